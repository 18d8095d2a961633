# Few verbs for people; CI runs the same words. Everything lives in .venv, made on first use and reused afterwards.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# The stamps carry a checksum of what they were made from, so a changed dependency installs again and nothing else does.
WANTED := $(shell cat pyproject.toml constraints.txt | cksum | cut -d ' ' -f 1)
READY := $(VENV)/.ready-user-$(WANTED)
READY_DEV := $(VENV)/.ready-dev-$(WANTED)

.DEFAULT_GOAL := help
.PHONY: help demo test lint fix bench clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-6s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY) ## all seven verbs on sample pictures; writes demo-gallery/index.html
	@$(BIN)/python examples/demo.py

test: $(READY_DEV) ## run the tests
	@$(BIN)/python -m pytest -q $(ARGS)

lint: $(READY_DEV) ## style and types, without changing anything
	$(BIN)/ruff check .
	$(BIN)/mypy

fix: $(READY_DEV) ## let ruff repair what it can
	$(BIN)/ruff check --fix .

bench: $(READY_DEV) ## print the tables of benchmarks/README.md
	@$(BIN)/python benchmarks/sample.py
	@$(BIN)/python benchmarks/decode.py
	@$(BIN)/python benchmarks/train.py

clean: ## remove .venv and everything the other words made
	rm -rf $(VENV) demo-gallery build dist .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "smalti needs Python 3.11 or newer; name one with: make PYTHON=python3.12" >&2; exit 1; }
	@echo "setting up $(VENV) (once; torch is a large download)" >&2
	@$(PYTHON) -m venv $(VENV)

$(READY): | $(BIN)/python
	@$(PIP) --upgrade pip
	@$(PIP) --editable .
	@rm -f $(VENV)/.ready-user-*
	@touch $@

$(READY_DEV): | $(READY)
	@$(PIP) --editable '.[train]' --group dev
	@rm -f $(VENV)/.ready-dev-*
	@touch $@

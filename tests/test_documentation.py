"""What the documentation teaches works: commands parse, the README's Python runs, recipes it names exist."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import click
import pytest
import typer

from smalti.builtin import builtin_models
from smalti.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])


def commands_of(text: str) -> Iterator[str]:
    """`smalti ...` as code: between backticks or on a line of its own."""
    for found in re.finditer(r"`(smalti [^`\n]+)`|^[ $]*(smalti [a-z][^\n]*)$", text, re.MULTILINE):
        command = (found[1] or found[2]).split("  #")[0].split(" | ")[0].strip()
        if "..." not in command and "…" not in command:
            yield command


def taught() -> list[tuple[str, str]]:
    pages = [(page.name, command) for page in PAGES for command in commands_of(page.read_text("utf-8"))]
    helps = [(f"{name} --help", example) for name, one in leaves() for example in commands_of(one.help or "")]
    return pages + helps


def leaves(group: object = None, prefix: str = "") -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name."""
    group = group or typer.main.get_command(app)
    for name, one in group.commands.items():  # type: ignore[attr-defined]
        if hasattr(one, "commands"):
            yield from leaves(one, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", one


@pytest.mark.parametrize(("where", "command"), taught())
def test_taught_commands_parse(where: str, command: str) -> None:
    known = dict(leaves())
    words = shlex.split(command)[1:]
    if words in (["--help"], ["--version"]):
        return
    name = next((n for n in (" ".join(words[:2]), words[0]) if n in known), None)
    assert name is not None, f"{where}: there is no command in {command!r}"
    arguments = words[len(name.split()) :]
    # a bare name in running text (`smalti replay --check`) leaves its picture out
    known[name].make_context(name, arguments, resilient_parsing=not any("." in word or "/" in word for word in words))


def test_every_making_command_has_an_example() -> None:
    verbs = {"generate", "keep", "inpaint", "stitch", "extend", "variations", "heal", "encode", "decode", "score"}
    for name, one in leaves():
        if name in verbs | {"info", "replay", "train"}:
            assert list(commands_of(one.help or "")), f"smalti {name} --help ends without an example"


def test_the_readmes_python_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert blocks
    assert "faces" in builtin_models()
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    assert list(tmp_path.iterdir()), "the README saves its pictures"


def test_the_recipes_that_the_readme_names_are_shipped() -> None:
    from smalti.training import preset_names

    named = set(re.findall(r"`?smalti train ([\w-]+)(?= |`|$)", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE))
    assert named <= {*preset_names(), "RECIPE"}


@pytest.mark.parametrize("command", sorted({c for _, c in taught() if c.startswith("smalti train ")}))
def test_taught_changes_of_recipes_are_fields(command: str) -> None:
    from smalti.training import load_recipe

    words = shlex.split(command)
    load_recipe("tiny", [change for option, change in pairwise(words) if option == "--set"])

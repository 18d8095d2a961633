"""Runs at a glance: what state each is in, its newest numbers, and in which fields of their recipes runs differ."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, Literal, TextIO

from smalti.errors import ModelError, OutputError
from smalti.files import explained
from smalti.training.checkpoints import LAST, MANIFEST, latest_checkpoint
from smalti.training.history import STAGES, History, is_run
from smalti.training.warnings import findings

State = Literal["running", "stopped", "finished", "damaged"]

_PROCESS = "process.json"
"""Host and number of the process that trains; there only while it does, or after a crash."""
_SILENCE = 600.0
"""Seconds without news after which a run on another machine counts as stopped."""
_NOT_COMPARED = ("name", "run", "info")
"""Fields that say nothing of how a run learns."""


@dataclass(frozen=True)
class Overview:
    """A run in one line."""

    run: str
    """Its folder."""
    name: str
    state: State
    """running: its process lives (on another machine: it wrote in the last ten minutes). stopped: --resume goes on."""
    stage: str | None
    """The stage it is in, or was in last; None before the first report."""
    step: int
    progress: float
    """Share of that stage, 0..1."""
    elapsed: float
    """Seconds of training, all stages."""
    loss: float | None
    """The stage's newest."""
    psnr: float | None
    """dB on validation pictures, newest."""
    bits_per_token: float | None
    """Bound on validation codes, newest."""
    notes: tuple[str, ...]
    """What is damaged, and warnings that hold now."""


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """The runs among `folders` and directly inside them, by name. Raises ModelError for a folder without any."""
    found: dict[Path, None] = {}
    for folder in folders:
        if is_run(folder):
            found[folder] = None
            continue
        if not folder.is_dir():
            raise ModelError(f"there is no folder {folder}; runs are in runs/ unless the recipe says otherwise")
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and is_run(path))
        if not inside:
            raise ModelError(f"{folder} holds no training run: smalti train PICTURES starts one")
        found.update(dict.fromkeys(inside))
    return list(found)


def overview(history: History) -> Overview:
    """A run in one line."""
    stages = [stage for stage in STAGES if history.reports.get(stage)]
    stage = stages[-1] if stages else None
    newest = history.reports[stage][-1] if stage is not None else None
    damage = [*history.problems, *_damaged_checkpoints(history.path)]
    warnings = [f"{s}: {found.text}" for s in stages for found in findings(history.reports[s])]
    return Overview(
        run=str(history.path),
        name=history.name,
        state="damaged" if damage else _state(history),
        stage=stage,
        step=newest.step if newest is not None else 0,
        progress=newest.progress if newest is not None else 0.0,
        elapsed=sum(history.reports[s][-1].elapsed for s in stages),
        loss=history.last(stage, "loss") if stage is not None else None,
        psnr=history.last("tokenizer", "validation_psnr"),
        bits_per_token=history.last("prior", "validation_bits_per_token"),
        notes=(*damage, *warnings),
    )


def final_numbers(history: History) -> dict[str, float]:
    """What a run reached, by name; only what it reported. Losses and usage are means of the last five reports."""
    numbers: dict[str, float] = {}
    for stage in STAGES:
        reports = history.reports.get(stage)
        if not reports:
            continue
        numbers[f"{stage} steps"] = reports[-1].step
        numbers[f"{stage} minutes"] = reports[-1].elapsed / 60
        if paces := history.series(stage, "images_per_second")[1]:
            numbers[f"{stage} images/s"] = median(paces)
        for name, shown in _LAST_MEANS[stage].items():
            if values := history.series(stage, name)[1]:
                numbers[shown] = fmean(values[-5:])
        name, shown, best = _VALIDATION[stage]
        if values := history.series(stage, name)[1]:
            numbers[shown] = values[-1]
            numbers[f"{shown}, best"] = best(values)
    return numbers


def differing_fields(histories: Sequence[History]) -> dict[str, list[Any]]:
    """Fields of the recipes, "prior.learning_rate.peak", that are not the same in all runs, with each run's value.

    A field that a run's recipe does not have is None.
    """
    flat = [flattened({k: v for k, v in history.config.items() if k not in _NOT_COMPARED}) for history in histories]
    names = dict.fromkeys(name for fields in flat for name in fields)
    rows = {name: [fields.get(name) for fields in flat] for name in names}
    return {name: values for name, values in rows.items() if any(value != values[0] for value in values)}


def flattened(fields: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested fields by dotted names; lists and empty mappings stay values."""
    out: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, Mapping) and value:
            out |= flattened(value, f"{prefix}{name}.")
        else:
            out[f"{prefix}{name}"] = value
    return out


@contextmanager
def announced(run: Path) -> Iterator[None]:
    """Say in the folder that this process trains the run, while it does. Raises OutputError if another one does."""
    path = run / _PROCESS
    with explained(path):
        run.mkdir(parents=True, exist_ok=True)
        file = path.open("a+", encoding="utf-8")
    with file:
        if not _locked(file):
            file.seek(0)
            raise OutputError(f"{run} is being trained already ({file.read().strip()}): wait for it, stop it, or begin "
                              "another with --set run=FOLDER")  # fmt: skip
        with explained(path):
            file.truncate(0)
            file.write(json.dumps({"host": platform.node(), "pid": os.getpid()}) + "\n")
            file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)
            with suppress(OSError):  # it holds more, unless nothing came of the run
                run.rmdir()


def _locked(file: TextIO) -> bool:
    """Whether this process has the file to itself now. The system gives it up when a process ends, however it ends."""
    try:
        import fcntl
    except ImportError:  # Windows: without
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


# --- parts ------------------------------------------------------------------------------------------------------------

_LAST_MEANS: dict[str, dict[str, str]] = {
    "tokenizer": {"loss": "tokenizer loss", "codes_used": "codes used", "perplexity": "codebook perplexity"},
    "prior": {"loss": "prior loss", "nats_per_masked": "nats per masked cell"},
}
_VALIDATION: dict[str, tuple[str, str, Any]] = {
    "tokenizer": ("validation_psnr", "PSNR, dB", max),
    "prior": ("validation_bits_per_token", "bits per token", min),
}


def _state(history: History) -> State:
    if _is_alive(history.path):
        return "running"
    last = "tokenizer" if history.config.get("stage") in ("tokenizer", "decoder") else "prior"
    reports = history.reports.get(last)
    done = bool(reports) and reports is not None and reports[-1].progress >= 1
    return "finished" if done and (history.path / "model" / "model_index.json").is_file() else "stopped"


def _is_alive(run: Path) -> bool:
    """Whether the process that trains `run` lives, as far as can be known from here."""
    try:
        process = json.loads((run / _PROCESS).read_text("utf-8"))
        host, pid = str(process["host"]), int(process["pid"])
    except (OSError, ValueError, KeyError, TypeError):
        return False
    if host == platform.node() and os.name == "posix":
        try:
            os.kill(pid, 0)  # signal 0 only asks; on Windows it would not
        except ProcessLookupError:
            return False
        except PermissionError:  # another user's
            return True
        return True
    files = [run / "metrics.jsonl", run / _PROCESS, *run.glob("cache/*")]
    newest = max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
    return time.time() - newest < _SILENCE


def _damaged_checkpoints(run: Path) -> list[str]:
    """What `last` points to and is not there as its manifest says; sizes only, since hashing takes minutes."""
    problems = []
    for stage in STAGES:
        folder = run / stage / "checkpoints"
        try:
            newest = folder / (folder / LAST).read_text("utf-8").strip()
            files = json.loads((newest / MANIFEST).read_text("utf-8"))["files"]
            whole = all((newest / name).stat().st_size == entry["bytes"] for name, entry in files.items())
        except FileNotFoundError as error:
            whole = error.filename == str(folder / LAST)  # none has been saved yet
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            whole = False
        if not whole and latest_checkpoint(folder) is not None:
            problems.append(f"the newest {stage} checkpoint is damaged: --resume goes on from the one before")
        elif not whole:
            problems.append(f"all {stage} checkpoints are damaged: remove {run / stage} and --resume begins it again")
    return problems

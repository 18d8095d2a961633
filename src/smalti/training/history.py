"""What a run has reported so far, read back from its folder by anyone, at any time, also while it is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from smalti.errors import ModelError
from smalti.training.progress import Report
from smalti.training.schedules import Length

STAGES = ("tokenizer", "prior")


@dataclass(frozen=True)
class History:
    """A run as its folder tells it."""

    path: Path
    config: Mapping[str, Any]
    """The recipe, as plain fields: a newer smalti may have others. Empty if it cannot be read."""
    reports: Mapping[str, Sequence[Report]]
    """By stage, oldest first."""
    problems: Sequence[str] = field(default_factory=tuple)
    """What is damaged, one line each."""

    @property
    def name(self) -> str:
        """The folder's."""
        return self.path.resolve().name

    def series(self, stage: str, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one value over a stage; empty where it was never reported."""
        if name == "images_per_second":
            found = [(r.step, r.images_per_second) for r in self.reports.get(stage, ())]
        else:
            found = [(r.step, r.values.get(name)) for r in self.reports.get(stage, ())]
        kept = [(step, value) for step, value in found if value is not None and math.isfinite(value)]
        return [step for step, _ in kept], [value for _, value in kept]

    def last(self, stage: str, name: str) -> float | None:
        """The newest value, or None."""
        values = self.series(stage, name)[1]
        return values[-1] if values else None


def is_run(path: Path) -> bool:
    """Whether a folder looks like a training run."""
    return (path / "config.yaml").is_file() or (path / "metrics.jsonl").is_file()


def read_history(path: str | Path) -> History:
    """The history of the run in that folder. Raises ModelError if it holds none.

    Lines that cannot be read are left out. A truncated last line is normal (a killed process, or one that is writing)
    and no problem; any other is.
    """
    folder = Path(path)
    if not is_run(folder):
        raise ModelError(f"{folder} is not a training run: config.yaml and metrics.jsonl are missing")
    config, problems = _config(folder / "config.yaml")
    lengths = {stage: _length(config, stage) for stage in STAGES}
    reports: dict[str, list[Report]] = {}
    for report in _reports(folder / "metrics.jsonl", lengths, problems):
        add(report, reports.setdefault(report.stage, []))
    return History(folder, config, reports, tuple(problems))


def add(report: Report, earlier: list[Report]) -> None:
    """Append a report to those of its stage; steps that it repeats, because a run went back to them, are forgotten."""
    while earlier and earlier[-1].step >= report.step:
        earlier.pop()
    earlier.append(report)


def _config(path: Path) -> tuple[dict[str, Any], list[str]]:
    try:
        fields = yaml.safe_load(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}, [f"{path} is missing"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return {}, [f"{path} cannot be read"]
    return (fields, []) if isinstance(fields, dict) else ({}, [f"{path} holds no fields"])


def _length(config: Mapping[str, Any], stage: str) -> Length | None:
    options = config.get(stage)
    if not isinstance(options, dict):
        return None
    try:
        return Length.model_validate({name: options[name] for name in Length.model_fields if name in options})
    except ValueError:
        return None


def _reports(path: Path, lengths: Mapping[str, Length | None], problems: list[str]) -> Iterator[Report]:
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}")
        return
    for number, line in enumerate(lines, start=1):
        try:
            fields = json.loads(line)
            stage, step, elapsed = fields.pop("stage"), int(fields.pop("step")), float(fields.pop("seconds"))
            pace = fields.pop("images_per_second", None)
            values = {name: float(value) for name, value in fields.items()}
        except (ValueError, TypeError, KeyError, AttributeError):
            if number < len(lines):
                problems.append(f"{path}: line {number} cannot be read")
            continue
        length = lengths.get(stage)
        progress = length.progress(step, elapsed) if length is not None else 0.0
        yield Report(stage, step, progress, elapsed, pace, values)

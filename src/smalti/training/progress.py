"""What a stage tells whoever watches, and a terminal that shows it. Loops only know the `Progress` protocol."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

_QUIET = 10.0
"""Seconds between two lines of a stage where there is no terminal."""

SHOWN = {
    "loss": "loss",
    "codes_used": "codes used",
    "validation_psnr": "PSNR",
    "validation_bits_per_token": "bits/token",
    "epoch": "epoch",
}
"""Values worth a place in one line, and what they are called there; metrics.jsonl has all of them."""


@dataclass(frozen=True)
class Report:
    """The state of a stage after some step."""

    stage: str
    """ "pictures" (being read), "tokenizer", "codes" (being made) or "prior"."""
    step: int
    """Steps, or pictures, done."""
    progress: float
    """Share done, 0..1."""
    elapsed: float
    """Seconds of training so far, interruptions not counted."""
    images_per_second: float | None = None
    """Pictures trained on per second, lately."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Loss, codebook usage and the like, by name."""

    @property
    def eta(self) -> float | None:
        """Seconds left at the pace so far; None before there is a pace."""
        return self.elapsed * (1 - self.progress) / self.progress if self.progress > 0 else None


@dataclass(frozen=True)
class Picture:
    """A grid that a stage has drawn."""

    stage: str
    """ "tokenizer" or "prior"."""
    kind: str
    """ "reconstructions", "samples" or "inpaintings"."""
    step: int
    """Steps done."""
    path: Path
    """The PNG."""


class Progress(Protocol):
    """Who watches a training run."""

    def report(self, report: Report) -> None:
        """A stage got further."""

    def message(self, text: str) -> None:
        """Something worth a line of its own."""

    def picture(self, picture: Picture) -> None:
        """There is something to look at."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class SilentProgress:
    """Watches nothing; the default."""

    def report(self, report: Report) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def picture(self, picture: Picture) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class TerminalProgress:
    """A bar per stage on stderr (plain lines where stderr is no terminal)."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TaskID, TextColumn
        from rich.progress import Progress as Bars

        self._console = Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description:9}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:5.1f}%  {task.fields[line]}"),
            console=self._console,
            disable=not self._console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line: dict[str, float] = {}

    def report(self, report: Report) -> None:
        line = one_line(report)
        if not self._console.is_terminal:
            now = time.monotonic()
            if now - self._last_line.get(report.stage, -_QUIET) < _QUIET and report.progress < 1:
                return
            self._last_line[report.stage] = now
            self._console.print(f"{report.stage}: {report.progress:.1%}  {line}", highlight=False, soft_wrap=True)
            return
        if report.stage not in self._tasks:
            self._tasks[report.stage] = self._bars.add_task(report.stage, total=1.0, line="")
        self._bars.update(self._tasks[report.stage], completed=report.progress, line=line)

    def message(self, text: str) -> None:
        self._console.print(text, highlight=False, soft_wrap=True)

    def picture(self, picture: Picture) -> None:
        pass  # grids of a run are many, and a terminal shows none

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()


class Several:
    """Several who watch the same run; the last to come is the first to go."""

    def __init__(self, *watchers: Progress) -> None:
        self._watchers = watchers
        self._stack = ExitStack()

    def report(self, report: Report) -> None:
        for watcher in self._watchers:
            watcher.report(report)

    def message(self, text: str) -> None:
        for watcher in self._watchers:
            watcher.message(text)

    def picture(self, picture: Picture) -> None:
        for watcher in self._watchers:
            watcher.picture(picture)

    def __enter__(self) -> Self:
        for watcher in self._watchers:
            self._stack.enter_context(watcher)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)


def one_line(report: Report) -> str:
    """Step, pace, time left and values, for a terminal."""
    parts = [f"{report.step:,} pictures" if report.stage in ("pictures", "codes") else f"step {report.step}"]
    if report.images_per_second is not None:
        parts.append(f"{report.images_per_second:.1f} images/s")
    if report.eta is not None:
        parts.append(f"{duration(report.eta)} left")
    parts += [f"{SHOWN[name]} {value:.4g}" for name, value in report.values.items() if name in SHOWN]
    return "  ".join(parts)


def duration(seconds: float) -> str:
    """`75` -> "1:15", `7500` -> "2:05:00"."""
    whole = int(seconds + 0.5)
    hours, minutes, rest = whole // 3600, whole // 60 % 60, whole % 60
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"

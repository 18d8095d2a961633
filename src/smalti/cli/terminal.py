"""stdout for results, stderr for everything else, one line for every error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol


class Advance(Protocol):
    """Called with the share of the work that is done, 0..1."""

    def __call__(self, done: float, /) -> None: ...


class Terminal:
    """Where a command's words go."""

    def __init__(self, *, as_json: bool = False, quiet: bool = False) -> None:
        self.as_json, self.quiet = as_json, quiet
        self._outputs: list[str] = []

    def path(self, path: str | Path) -> None:
        """A result: one path a line, or kept for the JSON object."""
        self._outputs.append(str(path))
        if not self.as_json:
            print(path, flush=True)

    def result(self, text: str) -> None:
        """A result in words; nothing with `--json`."""
        if not self.as_json:
            print(text, flush=True)

    def remark(self, text: str) -> None:
        """Something worth knowing, on stderr; nothing with `--quiet` or for an empty text."""
        if text and not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def finish(self, **facts: Any) -> None:
        """The JSON object of a command, if it was asked for."""
        if self.as_json:
            print(json.dumps({"outputs": self._outputs, **facts} if self._outputs else facts), flush=True)

    @contextmanager
    def progress(self, what: str) -> Iterator[Advance]:
        """A bar on stderr while something long runs; silent unless stderr is a terminal."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda done: None
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=1.0)
            yield lambda done: bar.update(task, completed=done)


def table(rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Rows in columns: the first `left` flush left, the others flush right; rows may be short."""
    widths = [max(len(row[i]) for row in rows if len(row) > i) for i in range(max(map(len, rows), default=0))]
    lines = []
    for row in rows:
        cells = [cell.ljust(widths[i]) if i < left else cell.rjust(widths[i]) for i, cell in enumerate(row)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)

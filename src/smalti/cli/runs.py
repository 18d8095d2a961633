"""Watching training runs from a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli.options import OUTPUT, Force, Json, Quiet
from smalti.cli.terminal import Terminal, table

if TYPE_CHECKING:
    from smalti.training.overview import Overview

app = typer.Typer(help="Look at training runs: what they do, how they went, in what they differ.", no_args_is_help=True)

Runs = Annotated[list[Path], typer.Argument(help="Folders of training runs.", metavar="RUN...")]


@app.callback()
def group() -> None:
    """Look at training runs: what they do, how they went, in what they differ."""


@app.command("list")
def list_runs(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Runs, or folders of runs.  [default: runs]", metavar="[FOLDER]...")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List runs: state, stage, step, time, newest loss, PSNR and bits per token, and what looks wrong.

    States: running; finished; stopped, `--resume` goes on; damaged, and how.

    Examples:

        smalti runs list

        smalti runs list runs/faces runs/churches --json
    """
    from smalti.training.history import read_history
    from smalti.training.overview import find_runs, overview

    terminal = Terminal(as_json=as_json, quiet=quiet)
    found = [overview(read_history(path)) for path in find_runs(folders or [Path("runs")])]
    head = ["run", "state", "stage", "step", "done", "time", "loss", "PSNR", "bits/token"]
    terminal.result(table([head, *map(_row, found)], left=3))
    for run in found:
        for note in run.notes:
            terminal.remark(f"{run.name}: {note}")
    terminal.finish(runs=[asdict(run) for run in found])


@app.command()
def plot(
    runs: Runs,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o",
            "--output",
            help="A .png or .svg.  [default: plots.png in the first run's folder, made anew each time]",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    force: Force = False,
) -> None:
    """Draw the curves of runs, laid over one another: losses, PSNR, bits per token, codebook, speed (extra `train`).

    Examples:

        smalti runs plot runs/faces

        smalti runs plot runs/faces runs/faces-2 -o both.svg
    """
    from smalti.errors import OutputError
    from smalti.training.history import read_history
    from smalti.training.plots import plot as draw

    if output is not None and output.exists() and not force:
        raise OutputError(f"{output} exists already: give another name with -o, or --force")
    target = output or runs[0] / "plots.png"
    draw([read_history(run) for run in runs], target, force=force or output is None)
    print(target)


@app.command()
def compare(runs: Runs, as_json: Json = False) -> None:
    """Set the final numbers of runs side by side, and the fields of their recipes in which they differ.

    Example:

        smalti runs compare runs/faces runs/faces-2
    """
    from smalti.training.history import read_history
    from smalti.training.overview import differing_fields, final_numbers
    from smalti.training.plots import labels

    terminal = Terminal(as_json=as_json)
    histories = [read_history(run) for run in runs]
    numbers = [final_numbers(history) for history in histories]
    names = dict.fromkeys(name for one in numbers for name in one)
    fields = differing_fields(histories)
    rows = [["", *labels(histories)], *([name, *(_shown(one.get(name)) for one in numbers)] for name in names)]
    if fields:
        rows += [[], ["recipe"], *([name, *map(_shown, values)] for name, values in fields.items())]
    elif len(histories) > 1:
        rows += [[], ["recipe: the same"]]
    terminal.result(table(rows))
    terminal.finish(
        runs=[{"run": str(h.path), "numbers": one} for h, one in zip(histories, numbers, strict=True)], recipe=fields
    )


def _row(run: Overview) -> list[str]:
    from smalti.training.progress import duration

    if run.stage is None:
        return [run.name, run.state]
    return [
        run.name,
        run.state,
        run.stage,
        str(run.step),
        f"{run.progress:.0%}",
        duration(run.elapsed),
        *map(_shown, (run.loss, run.psnr, run.bits_per_token)),
    ]


def _shown(value: Any) -> str:
    """A number with four digits; nothing for None."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return ", ".join(map(_shown, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)

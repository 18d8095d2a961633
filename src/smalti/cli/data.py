"""Looking at a data set from a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli.options import Json, Quiet
from smalti.cli.terminal import Terminal

if TYPE_CHECKING:
    from smalti.data.check import Checkup

app = typer.Typer(help="Look at pictures before training on them.", no_args_is_help=True)

SHOWN = 10
"""Names, sizes and classes listed in words; --json has all."""


@app.callback()
def group() -> None:
    """Look at pictures before training on them."""


@app.command()
def check(
    path: Annotated[
        str, typer.Argument(help="A folder, .zip, .tar, .parquet, .npy, or an LMDB folder of LSUN.", metavar="PATH")
    ],
    size: Annotated[str, typer.Option(help="Training size, 128 or 128x192 (high x wide).", metavar="HxW")] = "128",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Count and decode all pictures: sizes, modes, classes, broken files, duplicates, and what cropping will do.

    Example:

        smalti data check my-pictures/ --size 128x192
    """
    from smalti.data.check import check as look
    from smalti.errors import DataError

    terminal = Terminal(as_json=as_json, quiet=quiet)
    pixels = _pixels(size)
    with terminal.progress("reading") as advance:
        checkup = look(path, pixels, report=lambda done, total: advance(done / total))
    for line in _in_words(checkup):
        terminal.result(line)
    for warning in checkup.warnings:
        terminal.remark(f"note: {warning}")
    terminal.finish(**_facts(checkup))
    if not checkup.readable:
        raise DataError(f"none of the {checkup.count} pictures of {path} can be read")


def _pixels(text: str) -> tuple[int, int]:
    """`128` or `128x192` -> (height, width)."""
    from smalti.errors import UsageError

    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip().lower())
    if match is None or (least := min(int(part) for part in match.groups() if part)) < 8:
        small = "" if match is None else f" ({least} is less than 8)"
        raise UsageError(f"--size {text}: write pixels, 128, or high x wide, 128x192{small}", field="size")
    return int(match[1]), int(match[2] or match[1])


def _in_words(found: Checkup) -> Iterator[str]:
    yield f"{found.path}: {found.count:,} pictures ({found.kind})"
    if found.readable:
        yield f"  sizes    {_listed(f'{h}x{w} ({n})' for (h, w), n in found.sizes.items())}, high x wide"
        yield f"  modes    {_counted(found.modes)}"
        yield f"  formats  {_counted(found.formats)}"
    if found.classes is not None:
        yield f"  classes  {len(found.classes)}: {_counted(found.classes)}"
    if found.broken:
        yield f"  broken   {len(found.broken)}, left out in training"
        yield from (f"    {one.reason}" for one in found.broken[:SHOWN])
        yield from _rest(len(found.broken))
    if found.duplicates:
        yield f"  same     {found.repeated} picture(s) repeat another to the pixel"
        yield from (f"    {_listed(names, ' = ')}" for names in found.duplicates[:SHOWN])
        yield from _rest(len(found.duplicates))
    if found.readable:
        reduced = found.readable - found.untouched - len(found.smaller)
        yield (
            f"  at {found.size[0]}x{found.size[1]}: {found.untouched} used as they are, {reduced} scaled down or cut, "
            f"{len(found.smaller)} enlarged; {found.cut_away:.0%} of the average picture is cut away"
        )
        yield from (f"    too small: {name}" for name in found.smaller[:SHOWN])
        yield from _rest(len(found.smaller))


def _facts(found: Checkup) -> dict[str, Any]:
    """Everything, for a program."""
    return {
        "path": found.path,
        "kind": found.kind,
        "count": found.count,
        "readable": found.readable,
        "sizes": [{"height": h, "width": w, "count": n} for (h, w), n in found.sizes.items()],
        "modes": found.modes,
        "formats": found.formats,
        "classes": found.classes,
        "broken": [{"name": one.name, "reason": one.reason} for one in found.broken],
        "duplicates": found.duplicates,
        "size": found.size,
        "untouched": found.untouched,
        "smaller": found.smaller,
        "cut_away": round(found.cut_away, 4),
        "warnings": found.warnings,
    }


def _counted(counts: dict[str, int]) -> str:
    return _listed(f"{name} {count}" for name, count in counts.items())


def _listed(words: Iterable[str], joint: str = ", ") -> str:
    several = list(words)
    more = f" and {len(several) - SHOWN} more" if len(several) > SHOWN else ""
    return joint.join(several[:SHOWN]) + more


def _rest(count: int) -> Iterator[str]:
    if count > SHOWN:
        yield f"    and {count - SHOWN} more: see --json"

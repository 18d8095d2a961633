"""The seven verbs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli.options import (
    Feather,
    Invert,
    MakeOptions,
    Paste,
    RegionOption,
    Size,
    parse_size,
    shares,
)
from smalti.cli.terminal import Terminal

if TYPE_CHECKING:
    from smalti.pipeline.pipeline import Pipeline
    from smalti.pipeline.requests import Request
    from smalti.pipeline.results import Result
    from smalti.sampling import FillStep

ImageArgument = Annotated[
    Path,
    typer.Argument(
        help="A picture (what is transparent becomes white), or codes saved by `smalti encode`.", metavar="IMAGE"
    ),
]
Grow = Annotated[int, typer.Option(help="Also remake this many rings of cells around.", min=0)]
Seam = Annotated[int, typer.Option(help="Also remake this many cells along the joint.", min=0)]
ShowMask = Annotated[
    Path | None, typer.Option("--show-mask", help="Write the cells that would be remade over the picture, and stop.")
]


@shares(MakeOptions)
def generate(*, size: Size = None, shared: MakeOptions) -> None:
    """Make pictures from nothing, of any size.

    Examples:

        smalti generate -n 9 --seed 7 -o faces/

        smalti generate -m builtin:churches --size 16x48 -o panorama.png
    """
    pipe = load(shared)
    height, width = parse_size(size, pipe.tokenizer.cell)
    make(pipe, {"kind": "generate", "height": height, "width": width}, [], shared)


@shares(MakeOptions)
def keep(
    image: ImageArgument,
    *,
    region: RegionOption,
    invert: Invert = False,
    grow: Grow = 0,
    paste_original: Paste = True,
    feather: Feather = None,
    show_mask: ShowMask = None,
    shared: MakeOptions,
) -> None:
    """Keep a region and remake everything else.

    Example:

        smalti keep church.png -m builtin:churches --region center:10x4 -n 8 -o towers/
    """
    verb = {"kind": "keep", "region": selected(region, invert), "grow": grow}
    edit([image], verb, paste_original, feather, show_mask, shared)


@shares(MakeOptions)
def inpaint(
    image: ImageArgument,
    *,
    region: RegionOption,
    invert: Invert = False,
    grow: Grow = 0,
    paste_original: Paste = True,
    feather: Feather = None,
    show_mask: ShowMask = None,
    shared: MakeOptions,
) -> None:
    """Remake a region and keep everything else.

    Examples:

        smalti inpaint face.png --region 9:13,4:10 -n 9 --grid -o mouths.png

        smalti inpaint photo.jpg --region mask.png -o new.png
    """
    verb = {"kind": "inpaint", "region": selected(region, invert), "grow": grow}
    edit([image], verb, paste_original, feather, show_mask, shared)


@shares(MakeOptions)
def stitch(
    *,
    piece: Annotated[
        list[str],
        typer.Option("--piece", help="IMAGE@REGION, or IMAGE@REGION@ROW,COL to move it. Later ones lie on top."),
    ],
    size: Size = None,
    seam: Seam = 0,
    paste_original: Paste = False,
    feather: Feather = None,
    show_mask: ShowMask = None,
    shared: MakeOptions,
) -> None:
    """Lay pieces of several pictures on a grid and fill the gaps.

    The decoder blends the pieces into one picture; --paste-original gives their pixels back as they were.

    Example:

        smalti stitch --piece a.png@6:10,2:11 --piece b.png@10:13,4:10 -n 4 -o mixed/
    """
    from smalti.regions import parse_piece

    pipe = load(shared)
    height, width = parse_size(size, pipe.tokenizer.cell)
    pieces = [parse_piece(text) for text in piece]
    names = list(dict.fromkeys(str(p.image) for p in pieces))
    rows = [{"source": names.index(str(p.image)), "region": str(p.region), "to": p.to} for p in pieces]
    verb = {"kind": "stitch", "pieces": rows, "height": height, "width": width, "seam": seam}
    edit([Path(name) for name in names], verb, paste_original, feather, show_mask, shared, pipe)


@shares(MakeOptions)
def extend(
    image: ImageArgument,
    *,
    top: Annotated[int, typer.Option(help="Rows of cells to add above.", min=0)] = 0,
    right: Annotated[int, typer.Option(help="Columns of cells to add on the right.", min=0)] = 0,
    bottom: Annotated[int, typer.Option(help="Rows of cells to add below.", min=0)] = 0,
    left: Annotated[int, typer.Option(help="Columns of cells to add on the left.", min=0)] = 0,
    seam: Seam = 0,
    paste_original: Paste = True,
    feather: Feather = None,
    show_mask: ShowMask = None,
    shared: MakeOptions,
) -> None:
    """Grow a picture beyond its borders.

    Example:

        smalti extend church.png -m builtin:churches --left 16 --right 16 -o wide.png
    """
    verb = {"kind": "extend", "top": top, "right": right, "bottom": bottom, "left": left, "seam": seam}
    edit([image], verb, paste_original, feather, show_mask, shared)


@shares(MakeOptions)
def variations(
    image: ImageArgument,
    *,
    amount: Annotated[float, typer.Option(help="Share of the cells that is remade, 0..1.")] = 0.3,
    paste_original: Paste = True,
    feather: Feather = None,
    show_mask: ShowMask = None,
    shared: MakeOptions,
) -> None:
    """Remake a random share of the cells, another one for each result.

    Example:

        smalti variations a.png --amount 0.3 -n 16 --grid -o sheet.png
    """
    edit([image], {"kind": "variations", "amount": amount}, paste_original, feather, show_mask, shared)


@shares(MakeOptions)
def heal(
    image: ImageArgument,
    *,
    amount: Annotated[float, typer.Option(help="Share of the cells that is remade, 0..1.")] = 0.1,
    paste_original: Paste = True,
    feather: Feather = None,
    show_mask: ShowMask = None,
    shared: MakeOptions,
) -> None:
    """Remake the cells that surprise the model most.

    Example:

        smalti heal a.png --amount 0.1 -o healed.png
    """
    edit([image], {"kind": "heal", "amount": amount}, paste_original, feather, show_mask, shared)


COMMANDS: list[Callable[..., None]] = [generate, keep, inpaint, stitch, extend, variations, heal]


def selected(region: str, invert: bool) -> str:
    """The region as it goes into the request."""
    from smalti.regions import Region

    parsed = Region.parse(region)
    return str(~parsed if invert else parsed)


def edit(
    images: Sequence[Path],
    verb: dict[str, Any],
    paste_original: bool,
    feather: int | None,
    show_mask: Path | None,
    shared: MakeOptions,
    pipe: Pipeline | None = None,
) -> None:
    """Run a verb that changes pictures, or show what it would remake."""
    verb = {**verb, "paste_original": paste_original}
    if feather is not None:
        verb["feather"] = feather
    pipe = pipe or load(shared)
    if show_mask is None:
        make(pipe, verb, images, shared)
    else:
        preview(pipe, verb, images, show_mask, shared)


def preview(pipe: Pipeline, verb: dict[str, Any], images: Sequence[Path], path: Path, shared: MakeOptions) -> None:
    """Write what a verb would remake over what it starts from."""
    from smalti.cli.pictures import check_picture, write_image

    check_picture(path, option="--show-mask", force=shared.force)
    shown = pipe.show_mask(request_of(pipe, verb, shared), images)
    terminal = Terminal(as_json=shared.json, quiet=shared.quiet)
    write_image(shown, path, force=shared.force)
    terminal.path(path)
    terminal.finish()


def load(shared: MakeOptions) -> Pipeline:
    """The model of a command."""
    from smalti.cli.pictures import load_pipeline

    return load_pipeline(shared.model, shared.device, shared.dtype)


def request_of(pipe: Pipeline, verb: dict[str, Any], shared: MakeOptions) -> Request:
    return pipe.request(verb, shared.request_fields)


def make(pipe: Pipeline, verb: dict[str, Any], images: Sequence[Path], shared: MakeOptions) -> None:
    """Run a request and write each result as soon as it is finished."""
    from smalti.cli.pictures import Destination

    terminal = Terminal(as_json=shared.json, quiet=shared.quiet)
    request = request_of(pipe, verb, shared)
    destination = Destination(request.kind, request.seed, request.num_images, shared)
    started = time.monotonic()
    done: list[Result] = []
    with terminal.progress(request.kind) as advance:

        def on_step(first: int, step: FillStep) -> None:
            batch = len(step.codes)
            advance((first + batch * (step.index + 1) / step.of) / request.num_images)

        sources = [pipe.open(path) for path in images]
        for path, opened in zip(images, sources, strict=True):
            terminal.remark(opened.remark and f"{path} is {opened.remark}")
        if destination.loses_codes and shared.metadata:
            terminal.remark(f"{destination.output.suffix} cannot carry codes and recipe: only .png does")
        try:
            for result in pipe.results(request, sources, on_step=on_step, record_history=shared.animation is not None):
                done.append(result)
                written = destination.write(result)
                if written is not None:
                    terminal.path(written)
        finally:  # Ctrl-C keeps what is finished
            if done:
                for path in destination.close(pipe.collect(request, done)):
                    terminal.path(path)
                terminal.finish(
                    verb=request.kind,
                    model=pipe.name,
                    seeds=[r.seed for r in done],
                    seconds=round(time.monotonic() - started, 3),
                )

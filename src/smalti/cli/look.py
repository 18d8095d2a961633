"""Looking without making: codes, scores, recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli.make import ImageArgument
from smalti.cli.options import Device, Dtype, Force, Json, Label, Model, Output, Quiet
from smalti.cli.terminal import Terminal
from smalti.errors import InputError, UsageError


def encode(
    image: ImageArgument,
    output: Output = None,
    model: Model = "builtin:faces",
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a picture's codes as a small .npz file.

    Example:

        smalti encode a.png -o a.codes.npz
    """
    from smalti.cli.pictures import check_picture, load_pipeline
    from smalti.formats.codes_file import save_codes

    terminal = Terminal(as_json=as_json, quiet=quiet)
    path = output or image.with_name(f"{image.stem}.codes.npz")
    check_picture(path, (".npz",), force=force)
    pipe = load_pipeline(model, device, dtype)
    opened = pipe.open(image)
    terminal.remark(opened.remark)
    grid = pipe.encode(opened)
    save_codes(grid, path, size=opened.source.size, force=force)
    terminal.path(path)
    terminal.finish(height=grid.height, width=grid.width, codebook_size=grid.codebook_size)


def decode(
    codes: Annotated[Path, typer.Argument(help="A .npz written by `smalti encode`.", metavar="CODES")],
    output: Output = None,
    model: Model = "builtin:faces",
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Write the picture of a grid of codes.

    Example:

        smalti decode a.codes.npz -o a.png
    """
    from smalti.cli.pictures import check_picture, load_pipeline, write_image

    terminal = Terminal(as_json=as_json)
    path = output or codes.with_name(codes.name.removesuffix(".npz").removesuffix(".codes") + ".png")
    if codes.suffix.lower() != ".npz":
        raise InputError(f"{codes} is not a file of codes written by smalti encode: those end in .npz")
    check_picture(path, force=force)
    write_image(load_pipeline(model, device, dtype).reconstruct(codes), path, force=force)
    terminal.path(path)
    terminal.finish()


def score(
    image: ImageArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write the surprise of every cell as a picture.")
    ] = None,
    label: Label = None,
    model: Model = "builtin:faces",
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Say how likely the model finds a picture, in bits, and where it is surprised.

    Example:

        smalti score a.png -o surprise.png
    """
    from smalti.cli.pictures import check_picture, load_pipeline, write_image

    terminal = Terminal(as_json=as_json, quiet=quiet)
    if output is not None:
        check_picture(output, force=force)
    pipe = load_pipeline(model, device, dtype)
    opened = pipe.open(image)
    terminal.remark(opened.remark)
    with terminal.progress("score") as advance:
        result = pipe.score(opened, label=label, on_progress=advance)
    terminal.result(f"{result.bits_per_token:.3f} bits per token, {result.bits_per_dim:.4f} bits per dimension")
    if output is not None:
        write_image(result.image, output, force=force)
        terminal.path(output)
    terminal.finish(
        bits_per_token=result.bits_per_token,
        bits_per_dim=result.bits_per_dim,
        surprise=[[round(bits, 4) for bits in row] for row in result.surprise.tolist()],
    )


PictureArgument = Annotated[Path, typer.Argument(help="A picture made by smalti, or any other.", metavar="IMAGE")]


def info(image: PictureArgument, as_json: Json = False) -> None:
    """Show what a picture carries: its size, and the recipe it was made with.

    Example:

        smalti info a.png
    """
    from smalti.images import open_image
    from smalti.pipeline import recipe as recipes

    picture = open_image(image)
    recipe = recipes.read(picture)
    facts = {"file": str(image), "width": picture.width, "height": picture.height, "recipe": None}
    if recipe is not None:
        facts["recipe"] = json.loads(recipe.model_dump_json(exclude={"codes", "filled"}))
        facts["unchanged"] = recipes.unchanged(picture, recipe)
    if as_json:
        print(json.dumps(facts))
        return
    print(f"{image}: {picture.width}x{picture.height} pixels")
    if recipe is None:
        print("no smalti recipe: an edit starts by encoding it")
        return
    rows, columns = recipe.grid
    label = recipe.params.get("label")
    print(f"made by smalti {recipe.smalti_version}: {recipe.verb}, seed {recipe.seed}, model {recipe.model.name}")
    print(f"codes: {rows}x{columns}" + ("" if facts["unchanged"] else ", but the pixels have changed since"))
    if label is not None:
        print(f"label: {label}")
    print("sampler: " + ", ".join(f"{k} {v}" for k, v in recipe.params["sampler"].items() if v is not None))


def replay(
    image: PictureArgument,
    output: Output = None,
    check: Annotated[bool, typer.Option("--check", help="Only count the codes that come out differently.")] = False,
    model: Annotated[
        str | None, typer.Option("-m", "--model", help="Where the model is, if not where the recipe says.")
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    as_json: Json = False,
    force: Force = False,
) -> None:
    """Make a picture again from the recipe it carries.

    Examples:

        smalti replay a.png --check

        smalti replay a.png -o again.png
    """
    from smalti.cli.pictures import check_picture, load_pipeline, made_with, write_image
    from smalti.images import open_image
    from smalti.pipeline import recipe as recipes

    terminal = Terminal(as_json=as_json)
    if output is None and not check:
        raise UsageError("give -o FILE for the picture, or --check to compare codes")
    if output is not None:
        check_picture(output, force=force)
    picture = open_image(image)
    recipe = recipes.read(picture)
    if recipe is None:
        raise UsageError(f"{image} carries no smalti recipe: nothing to replay")
    unchanged = recipes.unchanged(picture, recipe)
    if not unchanged:
        terminal.remark(f"{image}: its pixels have changed since it was made; what is replayed is what it was")
    pipe = load_pipeline(model, device, dtype) if model else made_with(image, recipe.model.name, device, dtype)
    again, different = pipe.check_replay(picture)
    terminal.result(f"{different} differing codes")
    if output is not None:
        write_image(again.images[0], output, force=force)
        terminal.path(output)
    terminal.finish(differing_codes=different, unchanged=unchanged)
    if check and different:
        raise typer.Exit(1)


COMMANDS: list[Callable[..., None]] = [encode, decode, score, info, replay]

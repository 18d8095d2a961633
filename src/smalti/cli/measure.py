"""Measuring a model from a terminal."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli.options import OUTPUT, Device, Dtype, Force, Json, Quiet
from smalti.cli.terminal import Terminal
from smalti.errors import OutputError, UsageError

DATA = "Data"


def evaluate(
    model: Annotated[
        str, typer.Argument(help="builtin:faces, builtin:churches, a model folder, or user/repo.", metavar="MODEL")
    ],
    data: Annotated[
        Path,
        typer.Option(help="Pictures the model was not trained on: a folder, a .zip or a .npy.", rich_help_panel=DATA),
    ],
    train: Annotated[
        Path | None,
        typer.Option(help="Pictures it was trained on, to find out whether it copies them.", rich_help_panel=DATA),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            help="Scale pictures to height x width pixels, 128x128; the model's own by default.", rich_help_panel=DATA
        ),
    ] = None,
    cache: Annotated[
        Path, typer.Option(help="Where scaled pictures are kept between runs.", rich_help_panel=DATA)
    ] = Path(".smalti-cache"),
    n: Annotated[int, typer.Option("-n", "--pictures", help="Pictures of the data, and pictures made.", min=1)] = 1000,
    metrics: Annotated[
        str | None,
        typer.Option(help="Some of reconstruction,likelihood,frechet,kid,prdc,neighbours; all by default."),
    ] = None,
    features: Annotated[
        str,
        typer.Option(
            help="What compares pictures: enl0 (EfficientNet-Lite0); inception:FILE or inception-tf:FILE, FID with "
            "weights you bring; module:package.module:name, your own.",
            metavar="FEATURES",
        ),
    ] = "enl0",
    k: Annotated[int, typer.Option("-k", help="Neighbour that sets the radii of prdc.", min=1)] = 3,
    steps: Annotated[str, typer.Option(help="Steps with exact bits per token; each costs as much as a fill.")] = (
        "4,8,16,32,256"
    ),
    seed: Annotated[int, typer.Option(help="Chooses pictures; made picture i uses seed + i.", min=0)] = 0,
    output: Annotated[
        Path | None,
        typer.Option(
            "-o", "--output", help="A card, card.md, with card.json beside it; or only .json.", rich_help_panel=OUTPUT
        ),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = "float32",
    as_json: Json = False,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Measure a model: reconstruction, likelihood, and how its pictures compare with real ones.

    Distances are on features of EfficientNet-Lite0 and named fd_enl0, kid_enl0: they are no FID and not comparable
    with one. For FID bring pt_inception-2015-12-05-6726825d.pth; --features inception:FILE gives fid_clean, pictures
    scaled as clean-fid does, and inception-tf:FILE gives fid_tf, as TensorFlow did. Your own features are a function or
    torch module from images (n, 3, H, W) in [-1, 1] to (n, d). Every number comes with its protocol.

    Examples:

        smalti evaluate builtin:faces --data my-pictures/ -n 500 -o card.md

        smalti evaluate builtin:faces --data val.npy --train train.npy --metrics neighbours --json

        smalti evaluate runs/mine/model --data val.npy --features inception-tf:pt_inception-2015-12-05-6726825d.pth
    """
    import torch

    from smalti.cli.pictures import load_pipeline
    from smalti.data import load_pictures
    from smalti.files import write_text
    from smalti.metrics import Settings, markdown, to_json
    from smalti.metrics import evaluate as run
    from smalti.prior.kernels import optimize_for_inference

    terminal = Terminal(as_json=as_json, quiet=quiet)
    files = _planned(output, force)
    settings = Settings(n=n, seed=seed, k=k, steps=_numbers(steps))
    pipe = load_pipeline(model, device, dtype)
    pixels = _pixels(size, pipe.prior.window if pipe.prior is not None else None, pipe.tokenizer.cell)
    pictures = load_pictures(data, pixels, cache, message=terminal.remark)
    if len(pictures) < n:
        terminal.remark(f"{data} holds {len(pictures)} pictures: n is {len(pictures)}, not {n}")
    with terminal.progress("measuring") as advance:
        report = run(
            pipe.tokenizer,
            optimize_for_inference(pipe.prior, dtype=pipe.dtype) if pipe.prior is not None else None,
            pictures,
            metrics=[name.strip() for name in metrics.split(",")] if metrics is not None else None,
            settings=settings,
            options=pipe.sampler,
            features=features,
            train=load_pictures(train, pixels, cache, message=terminal.remark) if train is not None else None,
            model=pipe.name,
            identity=pipe.identity,
            data=data.name,
            conditions={"device": str(pipe.device), "prior": pipe.dtype, "torch": torch.__version__}
            | ({"classes": "not told: as of any class"} if pipe.classes else {}),
            progress=lambda what, done: advance(done),
        )
    for path in files:
        write_text(path, markdown(report) if path.suffix == ".md" else to_json(report), force=force)
        terminal.path(path)
    if output is None:
        terminal.result(markdown(report).rstrip("\n"))
    terminal.finish(**report.to_json())


def _planned(output: Path | None, force: bool) -> list[Path]:
    """The files to write; refused before the work if it could not write them after."""
    if output is None:
        return []
    if output.suffix not in (".md", ".json"):
        raise UsageError(f"-o {output}: the name must end in .md (and .json is written beside it) or .json")
    files = [output, output.with_suffix(".json")] if output.suffix == ".md" else [output]
    for path in files:
        if path.exists() and not force:
            raise OutputError(f"{path} exists already: give another name with -o, or --force")
    return files


def _numbers(text: str) -> tuple[int, ...]:
    if not re.fullmatch(r"[1-9]\d*(,[1-9]\d*)*", text.replace(" ", "")):
        raise UsageError(f"--steps {text}: write whole numbers from 1 up, 4,8,16", field="steps")
    return tuple(int(number) for number in text.split(","))


def _pixels(size: str | None, window: tuple[int, int] | None, cell: int) -> tuple[int, int]:
    """(height, width) of the pictures to measure on."""
    if size is not None:
        match = re.fullmatch(r"([1-9]\d*)x([1-9]\d*)", size.strip().lower())
        if not match:
            raise UsageError(f"--size {size}: write height x width in pixels, 128x128", field="size")
        return int(match[1]), int(match[2])
    if window is None:
        raise UsageError("a tokenizer only has no size of its own: give --size, for example 256x256", field="size")
    return window[0] * cell, window[1] * cell

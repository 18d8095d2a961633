"""Training from a terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from smalti.cli.options import Quiet


def train(
    recipe: Annotated[
        str,
        typer.Argument(
            help="A path to pictures (folder, .zip, .tar, .npy ...), a recipe that ships with smalti, or a YAML file.",
            metavar="PICTURES|RECIPE",
        ),
    ],
    preset: Annotated[
        str | None, typer.Option(help="With a path to pictures: the recipe to use.  [default: tiny]", metavar="RECIPE")
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field, a.b=c; repeat as needed.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this run.")] = False,
    track: Annotated[
        str | None,
        typer.Option(
            help="Send metrics and grids to a tracker as well: the same as --set track=... (extra `track`).",
            metavar="tensorboard|trackio|wandb",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Train a tokenizer and a prior on your own pictures.

    Examples:

        smalti train my-pictures/

        smalti train my-pictures/ --preset faces-128 --set data.flip=true

        smalti train churches.yaml --set prior.steps=20000 --resume

        smalti train my-pictures/ --track tensorboard

    On several GPUs, start the same with: torchrun --nproc-per-node 4 -m smalti train ... (or accelerate launch -m).
    """
    from smalti.training import leads, recipe_for
    from smalti.training import train as run_training
    from smalti.training.progress import SilentProgress, TerminalProgress

    changed = [*(changes or []), *([f"track={track}"] if track is not None else [])]
    progress = SilentProgress() if quiet else TerminalProgress()
    chosen = recipe_for(recipe, changed, preset=preset, message=progress.message if leads() else lambda text: None)
    folder = run_training(chosen, resume=resume, progress=progress)
    if leads():
        print(folder)

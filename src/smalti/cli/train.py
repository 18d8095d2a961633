"""Training from a terminal."""

from __future__ import annotations

from typing import Annotated

import typer

from smalti.cli.options import Quiet


def train(
    recipe: Annotated[
        str, typer.Argument(help="A recipe that ships with smalti (tiny, faces-128 ...) or a YAML file.")
    ],
    changes: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field, a.b=c; repeat as needed.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint of this run.")] = False,
    quiet: Quiet = False,
) -> None:
    """Train a tokenizer and a prior on your own pictures.

    Examples:

        smalti train tiny --set data.path=my-pictures/

        smalti train churches.yaml --set prior.steps=20000 --resume
    """
    from smalti.training import load_recipe
    from smalti.training import train as run_training
    from smalti.training.progress import TerminalProgress

    folder = run_training(
        load_recipe(recipe, changes or []), resume=resume, progress=None if quiet else TerminalProgress()
    )
    print(folder)

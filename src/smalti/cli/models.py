"""Model folders: list, show, verify, and bring foreign checkpoints in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from smalti.cli.options import Force, Json

app = typer.Typer(help="List, show and verify model folders.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="builtin:NAME, a model folder, or user/repo.", metavar="MODEL")]


@app.command("list")
def list_models(as_json: Json = False) -> None:
    """List the built-in models."""
    from smalti.builtin import builtin_models

    if as_json:
        print(json.dumps([f"builtin:{name}" for name in builtin_models()]))
        return
    for name, folder in builtin_models().items():
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        print(f"builtin:{name}  {size:.1f} MB")


@app.command()
def show(model: Name) -> None:
    """Show what a model is made of, as JSON."""
    from smalti.pipeline.catalog import resolve

    _, folder = resolve(model, local_files_only=True)
    print((folder / "model_index.json").read_text(encoding="utf-8").rstrip())


@app.command()
def card(model: Name) -> None:
    """Print a model's card: data, licence, numbers, limits."""
    from smalti.errors import ModelError
    from smalti.pipeline.catalog import resolve

    _, folder = resolve(model, local_files_only=True)
    path = folder / "README.md"
    if not path.is_file():
        raise ModelError(f"{folder} has no README.md")
    print(path.read_text(encoding="utf-8").rstrip())


@app.command()
def verify(model: Name) -> None:
    """Check every file of a model folder against the hashes it was saved with."""
    from smalti.formats.folder import verify as verify_folder
    from smalti.pipeline.catalog import resolve

    name, folder = resolve(model, local_files_only=True)
    verify_folder(folder)
    print(f"{name} ok")


def import_(
    path: Annotated[Path, typer.Argument(help="A checkpoint, run folder or diffusers folder.", metavar="PATH")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    prior: Annotated[Path | None, typer.Option(help="The sampler checkpoint, if it lies elsewhere.")] = None,
    heads: Annotated[int | None, typer.Option(help="Attention heads: checkpoints do not store them.")] = None,
    force: Force = False,
) -> None:
    """Turn an unleashing-transformers, taming-transformers or diffusers checkpoint into a model folder.

    Example:

        smalti import logs/vqgan_churches -o my-model
    """
    from smalti.formats import import_checkpoint, save_model

    model = import_checkpoint(path, prior_path=prior, heads=heads)
    save_model(output, model.tokenizer, model.prior, info=model.info, force=force)
    print(output)

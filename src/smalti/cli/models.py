"""Model folders: list, show, verify, share, and bring foreign checkpoints in and out."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from smalti.cli.options import Force, Json, Quiet
from smalti.cli.terminal import Terminal

if TYPE_CHECKING:
    from smalti.formats import LoadedModel

app = typer.Typer(help="List, show, verify and share model folders.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="builtin:NAME, a model folder, or user/repo.", metavar="MODEL")]
Repository = Annotated[str, typer.Argument(help="user/repo on the Hub.", metavar="USER/REPO")]
Revision = Annotated[str | None, typer.Option(help="A branch, tag or commit of the repository.")]


class Layout(StrEnum):
    """Whose files `export` writes."""

    DIFFUSERS = "diffusers"
    UNLEASHING = "unleashing"


# --- looking ----------------------------------------------------------------------------------------------------------


@app.command("list")
def list_models(
    folders: Annotated[
        list[Path] | None, typer.Argument(help="Also list the models in these folders.", metavar="[FOLDER]...")
    ] = None,
    as_json: Json = False,
) -> None:
    """List the built-in models, and those in the folders given.

    Example:

        smalti models list runs/
    """
    from smalti.builtin import builtin_models
    from smalti.errors import ModelError
    from smalti.formats.folder import read_index

    models = [(f"builtin:{name}", folder) for name, folder in builtin_models().items()]
    for place in folders or []:
        found = list(_models_in(place))
        if not found:
            raise ModelError(f"{place} holds no model folder" if place.is_dir() else f"{place} is not a folder")
        models += found
    if as_json:
        print(json.dumps([name for name, _ in models]))
        return
    rows = []
    for name, folder in models:
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
        try:
            words = _in_words(read_index(folder))
        except ModelError as error:  # one damaged model does not hide the others
            words = str(error)
        rows.append((name, f"{size:.1f} MB", words))
    widths = [max((len(row[column]) for row in rows), default=0) for column in (0, 1)]
    for name, megabytes, words in rows:
        print(f"{name:<{widths[0]}}  {megabytes:>{widths[1]}}  {words}")


@app.command()
def show(model: Name) -> None:
    """Show what a model is made of, as JSON: sizes, source, classes, hashes, defaults of its sampler."""
    from smalti.formats.folder import read_index

    name, folder = _local(model)
    print(json.dumps({"name": name, "folder": str(folder), **read_index(folder)}, indent=2))


@app.command()
def card(model: Name) -> None:
    """Print a model's card: data, licence, numbers, limits."""
    from smalti.errors import ModelError

    _, folder = _local(model)
    path = folder / "README.md"
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        raise ModelError(f"{folder} has no README.md that can be read") from None
    print(text.rstrip())


@app.command()
def verify(model: Name) -> None:
    """Check every file of a model folder against the hashes it was saved with."""
    from smalti.formats.folder import verify as verify_folder

    name, folder = _local(model)
    verify_folder(folder)
    print(f"{name} ok")


# --- sharing ----------------------------------------------------------------------------------------------------------


@app.command()
def pull(repository: Repository, revision: Revision = None) -> None:
    """Download a model from the Hub into its cache; prints the folder.

    Example:

        smalti models pull user/repo
    """
    from smalti.formats.hub import pull as pull_model

    print(pull_model(repository, revision=revision))


@app.command()
def push(
    model: Name,
    repository: Repository,
    private: Annotated[bool, typer.Option("--private", help="A new repository is yours alone to see.")] = False,
    revision: Revision = None,
    message: Annotated[str, typer.Option("-m", "--message", help="What the commit says.")] = "Upload a smalti model",
) -> None:
    """Upload a model folder to the Hub, after checking its hashes; prints the address.

    Example:

        smalti models push my-model/ user/repo --private
    """
    from smalti.formats.hub import push as push_model

    _, folder = _local(model)
    print(push_model(folder, repository, private=private, revision=revision, message=message))


# --- foreign checkpoints ----------------------------------------------------------------------------------------------


def import_(
    path: Annotated[Path, typer.Argument(help="A checkpoint, run folder or diffusers folder.", metavar="PATH")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The model folder to write.")],
    prior: Annotated[
        Path | None, typer.Option(help="The sampler's checkpoint or run folder, if it is not found beside PATH.")
    ] = None,
    heads: Annotated[
        int | None, typer.Option(help="Attention heads of the sampler: files do not say; 8 if not given.")
    ] = None,
    image_size: Annotated[
        str | None, typer.Option(help="Pixels the sampler was trained on, 256 or 256x512 (high x wide).")
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="The YAML of a taming-transformers checkpoint, if it is not beside it.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", "--license", help="Licence of the weights, for the card.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Turn an unleashing-transformers, taming-transformers or diffusers checkpoint into a model folder.

    Examples:

        smalti import logs/vqgan_churches -o my-model

        smalti import vqgan_ema_2200000.th --prior absorbing_ema_2000000.th -o my-model
    """
    from smalti.formats import import_checkpoint, save_model

    terminal = Terminal(quiet=quiet)
    model = import_checkpoint(
        path, prior_path=prior, heads=heads, image_size=_pixels(image_size), config=config, licence=licence
    )
    save_model(output, model.tokenizer, model.prior, info=model.info, force=force)
    terminal.path(output)
    terminal.remark(_assumed(model, heads))


def export(
    model: Name,
    output: Annotated[Path, typer.Option("-o", "--output", help="The folder to write.")],
    to: Annotated[Layout, typer.Option("--to", help="Whose layout.")],
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Write a model in the layout of diffusers (tokenizer only) or of unleashing-transformers.

    Example:

        smalti export my-model -o vqmodel/ --to diffusers
    """
    from smalti.formats import export_diffusers, export_unleashing, load_model
    from smalti.formats.catalog import resolve

    terminal = Terminal(quiet=quiet)
    loaded = load_model(resolve(model)[1])
    if to is Layout.DIFFUSERS:
        export_diffusers(loaded.tokenizer, output, force=force)
        if loaded.prior is not None:
            terminal.remark("only the tokenizer was written: diffusers has no place for the prior")
    else:
        export_unleashing(loaded.tokenizer, loaded.prior, output, force=force)
        if loaded.prior is not None:
            heads = loaded.prior.config.n_heads
            terminal.remark(f"the original needs to be told: {heads} attention heads" if heads != 8 else "")
    terminal.path(output)


# --- parts ------------------------------------------------------------------------------------------------------------


def _local(model: str) -> tuple[str, Path]:
    """Name and folder of a model that is on this machine."""
    from smalti.formats.catalog import resolve

    return resolve(model, local_files_only=True)


def _models_in(place: Path) -> Iterator[tuple[str, Path]]:
    """The model folders at `place` and below it: a folder of models, or the runs of `smalti train`."""
    if place.is_dir():
        for index in sorted(place.rglob("model_index.json")):
            yield str(index.parent), index.parent


def _in_words(index: dict[str, Any]) -> str:
    window = index.get("window")
    size = f"{window[0]}x{window[1]} cells" if window else "tokenizer only"
    classes = index.get("info", {}).get("classes")
    known = f", {len(classes)} classes" if isinstance(classes, list) else ""
    return f"{index.get('codebook_size')} codes, {index.get('cell')} pixels per cell, {size}{known}"


def _pixels(text: str | None) -> tuple[int, int] | None:
    """`256` or `256x512` -> (height, width)."""
    from smalti.errors import UsageError

    if text is None:
        return None
    match = re.fullmatch(r"(\d+)(?:x(\d+))?(?:px)?", text.strip().lower())
    if match is None:
        raise UsageError(f"--image-size {text}: write pixels, 256, or high x wide, 256x512", field="image_size")
    return int(match[1]), int(match[2] or match[1])


def _assumed(model: LoadedModel, heads: int | None) -> str:
    """What was not in the files: wrong heads load without complaint and make pictures that are a little wrong."""
    if model.prior is None:
        return "no sampler found: this model encodes and decodes, and a prior can be trained on it (from_model)"
    if heads is None:
        return (
            f"{model.prior.config.n_heads} attention heads assumed, files do not say; if it was another, give --heads"
        )
    return ""

"""A path to pictures in place of a recipe: a preset, with that path as its data and a run named after it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from smalti.data import exists, held_out, open_source
from smalti.data.sources import ENDINGS
from smalti.errors import DataError, UsageError
from smalti.training.recipe import Recipe, load_recipe, nearest, preset_names

_DATA_ENDINGS = (".zip", ".tar", ".npy", ".parquet", ".arrow", ".mdb")


def recipe_for(
    recipe: str,
    changes: Sequence[str] = (),
    *,
    preset: str | None = None,
    message: Callable[[str], None] = lambda text: None,
) -> Recipe:
    """The recipe of `smalti train RECIPE`, where RECIPE may also be a path to pictures (see `open_source`).

    Of a path, `preset` (default: tiny) becomes the recipe, without what its card says of its own data; the run is
    runs/<name of the folder or file>. A preset's batch that is larger than the data set becomes smaller, and `message`
    is told. Raises UsageError as `load_recipe` does, for a preset without pictures, and for
    the folder of a run.
    """
    if not _is_data(recipe):
        if preset is not None:
            raise UsageError(f"--preset is for a path to pictures; {recipe} is a recipe", field="preset")
        return load_recipe(recipe, changes)
    if preset is not None and preset not in preset_names():
        raise UsageError(f"no preset is called {preset!r}{nearest(preset, preset_names())}", field="preset")
    own = [f"data.path={json.dumps(recipe)}", f"name={json.dumps(run_name(recipe))}"]
    foreign = ["data.make=null", "data.validation=null", "info={}"]  # of the pictures the preset was made for
    chosen = load_recipe(preset or "tiny", [*own, *foreign, *changes])
    smaller = _smaller_batches(chosen, changes)
    if smaller:
        message(f"few pictures: {', '.join(smaller)}")
    return load_recipe(preset or "tiny", [*own, *foreign, *smaller, *changes]) if smaller else chosen


def _smaller_batches(recipe: Recipe, changes: Sequence[str]) -> list[str]:
    """Changes after which batches that nobody asked for are no larger than the data set."""
    assert recipe.data.path is not None
    try:
        whole = len(open_source(recipe.data.path).names)
    except DataError:  # which training says as well
        return []
    training = whole - held_out(whole, recipe.data.validation_share) if recipe.data.validation is None else whole
    training = max(1, training) * recipe.data.cuts
    out = []
    for stage in ("tokenizer", "prior"):
        asked = any(change.partition("=")[0].strip() in (f"{stage}.batch", stage) for change in changes)
        if not asked and getattr(recipe, stage).batch > training:
            out.append(f"{stage}.batch={2 ** (training.bit_length() - 1)}")  # which most numbers of processes divide
    return out


def run_name(path: str) -> str:
    """A run's name after a folder or file of pictures: `~/My pictures/` -> `My-pictures`."""
    place = Path(path)
    if place.name in ("", "..") or place.is_dir():
        place = place.resolve()
    stem = place.stem if place.suffix.lower() in _DATA_ENDINGS else place.name
    plain = re.sub(r"\{\d+\.\.\d+\}", "", stem)  # of shards, `faces-{000..123}.tar`
    return re.sub(r"[^\w.-]+", "-", plain).strip("-._")[:80] or "mine"


def _is_data(recipe: str) -> bool:
    """Whether `smalti train RECIPE` was given pictures: a preset's name and a YAML file are recipes."""
    path = Path(recipe)
    if recipe in preset_names() or path.suffix.lower() in (".yaml", ".yml"):
        return False
    if (path / "config.yaml").is_file():
        raise UsageError(f"{path} is the folder of a run: to go on with it, smalti train {path}/config.yaml --resume")
    if path.is_file():  # a file that is no kind of data may be a recipe without an ending
        return path.suffix.lower() in (*_DATA_ENDINGS, *ENDINGS, ".gz", ".tgz")
    if not exists(recipe):  # mistyped: as a path, or as a name?
        return path.suffix.lower() in _DATA_ENDINGS or "/" in recipe.replace("\\", "/")
    return True

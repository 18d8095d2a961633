"""A picture made again from the recipe that it carries."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, cast

from PIL import Image

from smalti.errors import UsageError
from smalti.images import open_image
from smalti.pipeline import recipe as recipes
from smalti.pipeline import requests as ask
from smalti.pipeline.compose import paste
from smalti.pipeline.output import Output
from smalti.pipeline.sources import Picture, covers
from smalti.pipeline.verbs import remade_pixels
from smalti.sampling import SamplerOptions

if TYPE_CHECKING:
    from pathlib import Path

    from smalti.pipeline.pipeline import Pipeline


def with_recipe(image: Picture) -> tuple[Image.Image, recipes.Recipe]:
    """A picture and its recipe. Raises UsageError if it carries none, ImageError if it cannot be read."""
    picture = image if isinstance(image, Image.Image) else open_image(cast("str | Path", image))
    recipe = recipes.read(picture)
    if recipe is None:
        raise UsageError("this picture carries no smalti recipe: nothing to replay")
    return picture, recipe


def replayed(pipe: Pipeline, image: Picture) -> tuple[Output, int]:
    """See `Pipeline.check_replay`."""
    picture, recipe = with_recipe(image)
    grid = recipe.grid_codes()
    if recipe.model.sha256 not in (None, pipe.identity):
        raise UsageError(f"this picture was made by another model than {pipe.name}: by {recipe.model.name}")
    sampler = SamplerOptions.model_validate(recipe.params["sampler"])
    start = grid.masked(recipe.filled_mask())
    output = pipe(start, sampler=sampler, seed=recipe.seed, label=recipe.params.get("label"))

    made, pasted, cell = output.images[0], False, pipe.tokenizer.cell
    if covers(grid, picture.size, cell):
        made = made.crop((0, 0, *picture.size))
    if recipe.pasted and recipes.unchanged(picture, recipe):  # then its kept pixels are those of the original
        request = ask.validated(recipe.params)
        if isinstance(request, ask.EditRequest) and made.size == picture.size:
            mask = remade_pixels(request, picture.size, recipe.filled_mask(), cell)
            made, pasted = paste(picture, made, mask, feather=request.feather), True
    made = recipes.embed(made, recipe.model_copy(update={"pasted": pasted}))
    output = dataclasses.replace(output, images=[made], params=recipe.params)
    return output, output.grids[0].count_different(grid)

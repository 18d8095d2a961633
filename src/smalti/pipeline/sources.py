"""From whatever a verb accepts to a `Source`: a PIL image, a path to a picture or to saved codes, a grid of codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from smalti.codes import CodeGrid
from smalti.errors import UsageError
from smalti.formats.codes_file import load_codes
from smalti.images import open_image, to_tensor
from smalti.pipeline import recipe as recipes
from smalti.pipeline.compose import prefill
from smalti.pipeline.verbs import Source
from smalti.regions import Region
from smalti.tokenizer import VQGAN
from smalti.types import PixelMask


@dataclass(frozen=True)
class Opened:
    """A source, and what there is to say about it."""

    source: Source
    provenance: dict[str, Any]
    """For the recipe: where the codes came from."""
    remark: str = ""
    """Why a picture's own codes were not used; empty when they were, or when it has none."""


Picture = Image.Image | CodeGrid | str | Path | Opened
"""What every verb accepts: a PIL image, a grid of codes, a path to a picture or to a .npz of codes, or any of them
already opened."""

Area = Region | str | Path | Image.Image | torch.Tensor | np.ndarray[Any, Any]
"""What says which part of a picture: a region, its text, or a mask whose white (or True) pixels are meant."""


def region_text(area: Area) -> str:
    """The region as requests write it. Raises UsageError for what is neither region nor mask."""
    if isinstance(area, Image.Image | torch.Tensor | np.ndarray):
        return str(Region.from_mask(area))
    return str(Region.parse(str(area)))


def open_source(image: Picture, tokenizer: VQGAN, identity: str | None) -> Opened:
    """Codes are the picture's own where it carries them and they still describe its pixels; else it is encoded.

    Raises ImageError for a file that is no usable picture, UsageError for codes of another codebook.
    """
    if isinstance(image, Opened):
        return image
    if isinstance(image, CodeGrid):
        return _from_grid(image, None, "codes", tokenizer, identity)
    given: object = image
    if not isinstance(given, str | Path | Image.Image):
        kind = type(given).__name__
        raise UsageError(f"a picture is a PIL image, a path or a CodeGrid, not {kind} (Image.fromarray)", field="image")
    name = Path(image).name if isinstance(image, str | Path) else "picture"
    if isinstance(image, str | Path) and Path(image).suffix.lower() == ".npz":
        saved = load_codes(image)
        return _from_grid(saved.grid, saved.size, name, tokenizer, identity)
    picture = open_image(image)
    grid, why = recipes.codes_of(picture, identity)
    if grid is not None and not _fits(grid, picture.size, tokenizer):
        grid, why = None, "re-encoded: its codes do not fit its size"  # only a forged recipe gets here
    if grid is not None:
        codes = grid.codes
        return Opened(Source(lambda _: codes, picture.size, picture, name), {"picture": name, "codes": "its own"})

    def encode(hidden: PixelMask | None) -> torch.Tensor:
        pixels = to_tensor(picture)
        # what is about to be remade must not leak into the codes that are kept
        return tokenizer.encode(pixels if hidden is None else prefill(pixels, hidden))[0].cpu()

    return Opened(Source(encode, picture.size, picture, name), {"picture": name, "codes": "encoded"}, why)


def covers(grid: CodeGrid, size: tuple[int, int], cell: int) -> bool:
    """Whether a picture of `size` (width, height) pixels has just these rows and columns of cells."""
    return grid.shape == (-(-size[1] // cell), -(-size[0] // cell))


def _fits(grid: CodeGrid, size: tuple[int, int], tokenizer: VQGAN) -> bool:
    return (
        covers(grid, size, tokenizer.cell)
        and grid.codebook_size == tokenizer.codebook_size
        and not bool(grid.empty.any())
    )


def _from_grid(
    grid: CodeGrid, size: tuple[int, int] | None, name: str, tokenizer: VQGAN, identity: str | None
) -> Opened:
    if grid.codebook_size != tokenizer.codebook_size or (grid.model and identity and grid.model != identity):
        raise UsageError(
            "these codes belong to another model: load it, or decode them there and edit the picture", field="codes"
        )
    size = size or (grid.width * tokenizer.cell, grid.height * tokenizer.cell)
    if not covers(grid, size, tokenizer.cell):
        raise UsageError(
            f"{name}: {grid.height}x{grid.width} codes are not those of {size[0]}x{size[1]} pixels", field="codes"
        )
    return Opened(Source(lambda _: grid.codes, size, name=name), {"codes": "given"})

"""From whatever a verb accepts to a `Source`: a PIL image, a path, a grid of codes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from smalti.codes import CodeGrid
from smalti.errors import UsageError
from smalti.images import open_image, to_tensor
from smalti.pipeline import recipe as recipes
from smalti.pipeline.compose import prefill
from smalti.pipeline.verbs import Source
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
"""What every verb accepts: a PIL image, a grid of codes, a path, or any of them already opened."""


def open_source(image: Picture, tokenizer: VQGAN, identity: str | None) -> Opened:
    """Codes are the picture's own where it carries them and they still describe its pixels; else it is encoded.

    Raises ImageError for a file that is no usable picture, UsageError for codes of another codebook.
    """
    if isinstance(image, Opened):
        return image
    if isinstance(image, CodeGrid):
        return _from_grid(image, tokenizer, identity)
    name = Path(image).name if isinstance(image, str | Path) else "picture"
    picture = open_image(image)
    grid, why = recipes.codes_of(picture, identity)
    if grid is not None and not _covers(grid, picture, tokenizer):
        grid, why = None, "re-encoded: its codes do not fit its size"  # only a forged recipe gets here
    if grid is not None:
        codes = grid.codes
        return Opened(Source(lambda _: codes, picture.size, picture, name), {"picture": name, "codes": "its own"})

    def encode(hidden: PixelMask | None) -> torch.Tensor:
        pixels = to_tensor(picture)
        # what is about to be remade must not leak into the codes that are kept
        return tokenizer.encode(pixels if hidden is None else prefill(pixels, hidden))[0].cpu()

    return Opened(Source(encode, picture.size, picture, name), {"picture": name, "codes": "encoded"}, why)


def _covers(grid: CodeGrid, picture: Image.Image, tokenizer: VQGAN) -> bool:
    shape = (-(-picture.height // tokenizer.cell), -(-picture.width // tokenizer.cell))
    return grid.shape == shape and grid.codebook_size == tokenizer.codebook_size and not bool(grid.empty.any())


def _from_grid(grid: CodeGrid, tokenizer: VQGAN, identity: str | None) -> Opened:
    if grid.codebook_size != tokenizer.codebook_size or (grid.model and identity and grid.model != identity):
        raise UsageError(
            "these codes belong to another model: load it, or decode them there and edit the picture", field="codes"
        )
    size = (grid.width * tokenizer.cell, grid.height * tokenizer.cell)
    return Opened(Source(lambda _: grid.codes, size, name="codes"), {"codes": "given"})

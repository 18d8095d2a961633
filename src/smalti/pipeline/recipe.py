"""Codes and recipe travel with the picture: in `image.info["smalti"]`, and as a text chunk of the PNG.

Encoding a decoded picture does not in general give its codes back, so a picture made by smalti carries them. They
count only while two hashes hold: the model's, and that of the pixels (Pillow keeps `.info` through resize and crop).
"""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from smalti import __version__
from smalti.codes import CodeGrid
from smalti.errors import OutputError, UsageError
from smalti.files import sha256_bytes, write_bytes
from smalti.types import CellMask

KEY = "smalti"
MAX_CHARACTERS = 1_000_000  # Pillow refuses text chunks of more than 1 MiB
_PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"  # shown on terminals: a stranger's picture must not command them


Side = Annotated[int, Field(ge=1, le=1 << 16)]
"""Cells along one side of a grid."""


class ModelName(BaseModel):
    """Which model the codes belong to."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=300, pattern=_PRINTABLE)
    sha256: str | None = Field(None, max_length=64)


class Recipe(BaseModel):
    """How a picture was made, complete enough to make it again."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    version: Literal[1] = Field(1, alias="schema")
    verb: str = Field(max_length=40, pattern=_PRINTABLE)
    params: dict[str, Any]
    seed: int = Field(ge=0)
    model: ModelName
    codebook_size: int = Field(ge=2, le=65535)
    grid: tuple[Side, Side]
    codes: str
    """base64 of the codes as uint16 little-endian, row by row."""
    filled: str
    """base64 of one bit per cell: 1 = filled by this recipe; the other cells were given."""
    sources: list[dict[str, Any]] = []
    pixels_sha256: str = ""
    pasted: bool = False
    """True if some pixels are those of the original picture rather than the decoder's."""
    smalti_version: str = Field(__version__, max_length=40, pattern=_PRINTABLE)

    @field_validator("params")
    @classmethod
    def _names_its_sampler(cls, params: dict[str, Any]) -> dict[str, Any]:
        sampler = params.get("sampler")
        if not isinstance(sampler, dict):
            raise ValueError("params need the sampler's options")
        if any(not re.fullmatch(_PRINTABLE, f"{name}{value}") for name, value in sampler.items()):
            raise ValueError("the sampler's options are not printable")
        if not re.fullmatch(_PRINTABLE, str(params.get("label"))):
            raise ValueError("the label is not printable")
        return params

    def grid_codes(self) -> CodeGrid:
        """The codes. Raises UsageError if they do not fit the grid or the codebook."""
        return CodeGrid.from_bytes(_unpack(self.codes), *self.grid, self.codebook_size, self.model.sha256)

    def filled_mask(self) -> CellMask:
        """bool `(h, w)`. Raises UsageError if it does not fit the grid."""
        height, width = self.grid
        bits = np.unpackbits(np.frombuffer(_unpack(self.filled), np.uint8))
        if not 0 <= len(bits) - height * width < 8:
            raise UsageError("the picture's recipe is damaged: its mask does not fit its grid")
        return torch.from_numpy(bits[: height * width].astype(bool).reshape(height, width))


def make(
    params: dict[str, Any],
    *,
    codes: CodeGrid,
    filled: CellMask,
    model: str,
    sources: Sequence[dict[str, Any]] = (),
    pasted: bool = False,
) -> Recipe:
    """The recipe of one result; `params` is its request as JSON."""
    return Recipe(
        verb=params["kind"],
        params=_encodable(params),
        seed=params["seed"],
        model=ModelName(name=_encodable(model), sha256=codes.model),
        codebook_size=codes.codebook_size,
        grid=codes.shape,
        codes=base64.b64encode(codes.to_bytes()).decode(),
        filled=base64.b64encode(np.packbits(filled.numpy()).tobytes()).decode(),
        sources=_encodable(list(sources)),
        pasted=pasted,
    )


class Made(Image.Image):
    """A PIL picture whose `save` puts codes and recipe into a PNG. Pillow's own drops `.info`."""

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """As `PIL.Image.Image.save`; pass `pnginfo=None` to leave the recipe out."""
        suffix = Path(fp).suffix.lower() if isinstance(fp, str | Path) else ""
        if (format or "").upper() == "PNG" or (format is None and suffix == ".png"):
            params.setdefault("pnginfo", png_text(self))
        super().save(fp, format, **params)


def embed(image: Image.Image, recipe: Recipe) -> Image.Image:
    """A picture that carries its recipe; one too long for a PNG is left out."""
    made = image.copy()
    made.__class__ = Made
    made.info.pop(KEY, None)
    text = recipe.model_copy(update={"pixels_sha256": pixels_hash(image)}).model_dump_json(by_alias=True)
    if len(text) <= MAX_CHARACTERS:
        made.info[KEY] = text
    return made


def read(image: Image.Image) -> Recipe | None:
    """The recipe a picture carries, or None: a foreign or damaged one is as good as none."""
    text = image.info.get(KEY)
    if not isinstance(text, str) or len(text) > MAX_CHARACTERS:
        return None
    try:
        recipe = Recipe.model_validate_json(text)
        recipe.grid_codes()
        recipe.filled_mask()
    except (ValidationError, UsageError):
        return None
    return recipe


def unchanged(image: Image.Image, recipe: Recipe) -> bool:
    """Whether the pixels are still those the recipe made."""
    return pixels_hash(image) == recipe.pixels_sha256


def codes_of(image: Image.Image, identity: str | None) -> tuple[CodeGrid | None, str]:
    """The picture's own codes, or None and a remark why they cannot be used (empty if it never had any)."""
    recipe = read(image)
    if recipe is None:
        return None, ""
    if recipe.model.sha256 is None or recipe.model.sha256 != identity:
        return None, f"re-encoded: its codes belong to {recipe.model.name}, another model"
    if not unchanged(image, recipe):
        return None, "re-encoded: its pixels have changed since its codes were made"
    return recipe.grid_codes(), ""


def pixels_hash(image: Image.Image) -> str:
    """sha256 of width, height and RGB bytes."""
    return sha256_bytes(f"{image.width}x{image.height}".encode() + image.convert("RGB").tobytes())


def png_text(image: Image.Image) -> PngInfo | None:
    """The text chunks of a picture's recipe: ours, and a line that other viewers understand."""
    recipe = read(image)
    if recipe is None:
        return None
    sampler = recipe.params.get("sampler", {})
    info = PngInfo()
    info.add_itxt(KEY, image.info[KEY])
    info.add_text(
        "parameters",
        f"Steps: {sampler.get('num_inference_steps')}, Sampler: smalti {sampler.get('order')}, Seed: {recipe.seed}, "
        f"Size: {image.width}x{image.height}, Model: {recipe.model.name}",
    )
    return info


def save_image(image: Image.Image, path: str | Path, *, metadata: bool = True, force: bool = False) -> None:
    """Write a picture atomically in the format of its suffix; only PNG carries the recipe.

    Raises OutputError if it exists (unless `force`) or cannot be written, UsageError for an unknown suffix.
    """
    suffix = Path(path).suffix.lower()
    profile = {"icc_profile": image.info.get("icc_profile")}  # only the PNG writer takes it from `.info` by itself
    jpeg = {"quality": 95, "subsampling": 0, **profile}
    formats: dict[str, tuple[str, dict[str, Any]]] = {
        ".png": ("PNG", {"pnginfo": png_text(image) if metadata else None}),
        ".webp": ("WEBP", {"lossless": True, **profile}),
        ".jpg": ("JPEG", jpeg),
        ".jpeg": ("JPEG", jpeg),
    }
    if suffix not in formats:
        raise UsageError(f"{path}: a picture's name ends in {', '.join(formats)}", field="output")
    name, options = formats[suffix]
    buffer = io.BytesIO()
    try:
        image.save(buffer, name, **options)
    except (OSError, ValueError, MemoryError) as error:  # WebP ends at 16383 pixels, JPEG at 65500
        raise OutputError(
            f"cannot write {path}: a {image.width}x{image.height} picture does not fit {name} ({error}); use .png"
        ) from error
    write_bytes(path, buffer.getvalue(), force=force)


def _encodable(value: Any) -> Any:
    """The same JSON value in text that UTF-8 can hold: names of files may be bytes that it cannot."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_encodable(item) for item in value]
    return value


def _unpack(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        raise UsageError("the picture's recipe is damaged") from None

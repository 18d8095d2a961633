"""Which part of a picture: a small grammar, masks, and the way from pixels to cells.

    5:8,3:13         rows 5-7, columns 3-12 of cells (half-open)
    center:8x6       8 rows, 6 columns of cells in the middle
    top:4  bottom:4  left:4  right:4       that many rows or columns of cells at an edge
    px:40:90,32:120  rows 40-89, columns 32-119 of pixels
    mask.png         the white part of a picture of the same size;  fit:mask.png  of any size, resized
    a+b              both;  not:a+b  everything else

A region is its text: a mask's pixels become part of it (`bits:...`), so it can travel in JSON and be used again
without the file.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from smalti.errors import UsageError
from smalti.images import open_image
from smalti.types import CellMask, PixelMask

_MAX_MASK_PIXELS = 64_000_000
_GRAMMAR = "write rows:columns as 5:8,3:13, or center:8x6, top:4, px:40:90,32:120, mask.png, joined with +"

_BOX = re.compile(
    r"(px:)?[0-9]{1,9}:[0-9]{1,9},[0-9]{1,9}:[0-9]{1,9}|center:[0-9]{1,9}x[0-9]{1,9}|(top|bottom|left|right):[0-9]{1,9}"
)
_BITS = re.compile(r"(fit:)?bits:[0-9]{1,9}x[0-9]{1,9}:[A-Za-z0-9/=-]*")


@dataclass(frozen=True)
class Region:
    """A part of a picture. Build it from text, `Region["5:8,3:13"]`, or with the constructors below."""

    text: str

    def __post_init__(self) -> None:
        """Raises UsageError for text that is not in its normal form: that takes `Region.parse`."""
        for part in self.text.removeprefix("not:").split("+"):
            if not (_BITS.fullmatch(part) or _BOX.fullmatch(part)):
                raise UsageError(f"region {part[:80]!r} is not understood: {_GRAMMAR}", field="region")

    def __class_getitem__(cls, text: str) -> Region:
        return cls.parse(text)

    @classmethod
    def parse(cls, text: str | Region) -> Region:
        """Check the grammar and read mask files. Raises UsageError naming the part that is wrong, ImageError for a
        mask that cannot be read."""
        if isinstance(text, Region):
            return text
        body = text.strip()
        inverted = body.startswith("not:")
        body = body.removeprefix("not:")
        parts = [body] if os.path.isfile(body) else body.split("+")  # a file's name may have a + in it
        return cls(("not:" if inverted else "") + "+".join(_normal(part.strip()) for part in parts))

    @classmethod
    def box(cls, row0: int, row1: int, col0: int, col1: int) -> Region:
        """Rows row0..row1-1 and columns col0..col1-1 of cells."""
        return cls.parse(f"{row0}:{row1},{col0}:{col1}")

    @classmethod
    def center(cls, rows: int, columns: int) -> Region:
        """A box of cells in the middle."""
        return cls.parse(f"center:{rows}x{columns}")

    @classmethod
    def from_mask(cls, mask: Image.Image | torch.Tensor | np.ndarray[Any, Any], *, fit: bool = False) -> Region:
        """The white (or True) pixels of a mask; `fit` resizes it to whatever picture it meets.

        White is the upper half of 0..255, or of 0..1 in an array with nothing above 1; transparent is not white.
        """
        if isinstance(mask, Image.Image):
            selected = np.asarray(open_image(mask, background=(0, 0, 0)).convert("L")) >= 128
        else:
            values = mask.detach().cpu().numpy() if isinstance(mask, torch.Tensor) else np.asarray(mask)
            selected = values if values.dtype == np.bool_ else values >= (0.5 if values.max(initial=0) <= 1 else 128)
        if selected.ndim != 2:
            raise UsageError(f"a mask has rows and columns, not shape {selected.shape}", field="region")
        packed = base64.b64encode(zlib.compress(np.packbits(selected).tobytes(), 9)).decode().replace("+", "-")
        return cls(f"{'fit:' if fit else ''}bits:{selected.shape[0]}x{selected.shape[1]}:{packed}")

    def __str__(self) -> str:
        return self.text

    def __invert__(self) -> Region:
        return Region(self.text.removeprefix("not:") if self.text.startswith("not:") else f"not:{self.text}")

    def __add__(self, other: Region) -> Region:
        if self.text.startswith("not:") or other.text.startswith("not:"):
            raise UsageError("an inverted region cannot be joined with another one", field="region")
        return Region(f"{self.text}+{other.text}")

    def to_pixels(self, height: int, width: int, cell: int) -> PixelMask:
        """bool `(height, width)` for a picture of that size with cells of `cell` pixels.

        Raises UsageError for a box that leaves the picture or a mask of another size.
        """
        inverted = self.text.startswith("not:")
        mask = torch.zeros(height, width, dtype=torch.bool)
        for part in self.text.removeprefix("not:").split("+"):
            mask |= _pixels(part, height, width, cell)
        return ~mask if inverted else mask

    def to_cells(self, height: int, width: int, cell: int) -> CellMask:
        """bool `(h, w)`: cells that the region touches, for a picture of `height` x `width` pixels."""
        return cells_of_pixels(self.to_pixels(height, width, cell), cell)


@dataclass(frozen=True)
class Piece:
    """A region of a picture, and where it goes."""

    image: Any
    """Whatever a verb accepts as a picture."""
    region: Region | str | Path | Image.Image | torch.Tensor | np.ndarray[Any, Any]
    """Whatever a verb accepts as a region."""
    to: tuple[int, int] | None = None
    """Row, column of cells of its top left corner; None = where it was."""


def parse_piece(text: str) -> Piece:
    """`b.png@10:13,5:11` or `b.png@10:13,5:11@9,5`. Raises UsageError for another form."""
    head, at, tail = text.rpartition("@")
    to = None
    if at and re.fullmatch(r"[^:,@]*,[^:,@]*", tail):
        if not re.fullmatch(r"[0-9]{1,9},[0-9]{1,9}", tail):
            raise UsageError(f"--piece {text}: a piece goes to ROW,COLUMN, for example 9,5, not {tail}", field="piece")
        row, col = tail.split(",")
        to = (int(row), int(col))
        head, at, tail = head.rpartition("@")
    if not at or not head or not tail:
        raise UsageError(f"--piece {text}: write IMAGE@REGION or IMAGE@REGION@ROW,COL", field="piece")
    return Piece(Path(head), Region.parse(tail), to)


def cells_of_pixels(mask: PixelMask, cell: int) -> CellMask:
    """bool `(ceil(H/cell), ceil(W/cell))`: cells with any pixel of the mask (max-pool)."""
    height, width = mask.shape
    padded = F.pad(mask.float(), (0, -width % cell, 0, -height % cell))
    return F.max_pool2d(padded[None], cell)[0].bool()


def pixels_of_cells(cells: CellMask, cell: int, height: int, width: int) -> PixelMask:
    """bool `(height, width)`: all pixels of the cells, cut at the picture's edge."""
    return cells.repeat_interleave(cell, 0).repeat_interleave(cell, 1)[:height, :width]


def grow(cells: CellMask, rings: int) -> CellMask:
    """The cells and `rings` rings around them (8 neighbours)."""
    if rings <= 0:
        return cells.clone()
    return F.max_pool2d(cells.float()[None], 2 * rings + 1, stride=1, padding=rings)[0].bool()


def _normal(part: str) -> str:
    """A part in its one spelling, mask files replaced by their pixels."""
    body = part.removeprefix("fit:")
    fit = body != part
    if _BITS.fullmatch(part):
        return part
    compact = re.sub(r"\s+", "", body)
    if not fit and _BOX.fullmatch(compact):
        return compact
    if Path(body).suffix.lower() in (".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jpg", ".jpeg"):
        return Region.from_mask(open_image(body, background=(0, 0, 0)), fit=fit).text
    raise UsageError(f"region {part[:80]!r} is not understood: {_GRAMMAR}", field="region")


def _pixels(part: str, height: int, width: int, cell: int) -> PixelMask:
    rows, columns = -(-height // cell), -(-width // cell)
    if "bits:" in part:
        return _mask(part, height, width)
    kind, _, values = part.rpartition(":") if not part[0].isdigit() else ("box", "", part)
    if part.startswith("px:"):
        return _box(part.removeprefix("px:"), part, height, width, 1, height, width)
    if kind == "box":
        return _box(values, part, rows, columns, cell, height, width)
    if kind == "center":
        high, wide = (int(v) for v in values.split("x"))
        row, col = (rows - high) // 2, (columns - wide) // 2
        if row < 0 or col < 0:
            raise UsageError(f"region {part} is larger than the picture's {rows}x{columns} cells", field="region")
        return _box(f"{row}:{row + high},{col}:{col + wide}", part, rows, columns, cell, height, width)
    n = int(values)
    edges = {
        "top": f"0:{n},0:{columns}",
        "bottom": f"{rows - n}:{rows},0:{columns}",
        "left": f"0:{rows},0:{n}",
        "right": f"0:{rows},{columns - n}:{columns}",
    }
    if n > (rows if kind in ("top", "bottom") else columns):
        raise UsageError(f"region {part} is larger than the picture's {rows}x{columns} cells", field="region")
    return _box(edges[kind], part, rows, columns, cell, height, width)


def _box(box: str, part: str, rows: int, columns: int, unit: int, height: int, width: int) -> PixelMask:
    row0, row1, col0, col1 = (int(v) for v in re.split(r"[:,]", box))
    if row0 > row1 or col0 > col1:
        raise UsageError(f"region {part} ends before it starts", field="region")
    if row1 > rows or col1 > columns:
        what = "pixels" if unit == 1 else "cells"
        raise UsageError(f"region {part} leaves the picture, which has {rows}x{columns} {what}", field="region")
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[row0 * unit : row1 * unit, col0 * unit : col1 * unit] = True
    return mask


def _mask(part: str, height: int, width: int) -> PixelMask:
    fit = part.startswith("fit:")
    size, data = part.removeprefix("fit:").removeprefix("bits:").split(":")
    high, wide = (int(v) for v in size.split("x"))
    count = high * wide
    if not 0 < count <= _MAX_MASK_PIXELS:
        raise UsageError(f"a mask of {high}x{wide} pixels cannot be used", field="region")
    try:
        inflater = zlib.decompressobj()
        raw = inflater.decompress(base64.b64decode(data.replace("-", "+"), validate=True), -(-count // 8) + 1)
        mask = np.unpackbits(np.frombuffer(raw, np.uint8))[:count].reshape(high, wide).astype(bool)
    except (binascii.Error, zlib.error, ValueError):
        raise UsageError("the region's mask is damaged", field="region") from None
    if (high, wide) != (height, width):
        if not fit:
            raise UsageError(
                f"the mask has {wide}x{high} pixels, the picture {width}x{height}: "
                "resize it, or write fit:mask.png to have it resized",
                field="region",
            )
        mask = np.asarray(Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST), dtype=bool)
    return torch.from_numpy(mask.copy())

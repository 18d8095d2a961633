"""What a verb returns, and the ways to look at it: a contact sheet, an animation of the fill, a notebook display."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw

from smalti.codes import CodeGrid
from smalti.errors import UsageError
from smalti.files import write_bytes
from smalti.pipeline.recipe import save_image
from smalti.types import EMPTY, Codes

EMPTY_COLOUR, HATCH_COLOUR = (38, 42, 54), (66, 72, 90)
"""An empty cell is a dark tile with a diagonal hatch."""


@dataclass(frozen=True)
class HistoryStep:
    """One step of a fill, for all images of the output."""

    step: int
    codes: Codes
    """int64 `(n, h, w)` after the step, `EMPTY` where still to be filled."""
    revealed: torch.Tensor
    """bool `(n, h, w)`: the cells filled at this step."""


@dataclass(frozen=True, repr=False)
class Output:
    """Results of one request, in order of their seeds."""

    images: list[Image.Image]
    """PIL pictures; each carries its codes and recipe in `.info["smalti"]`."""
    codes: Codes
    """int64 `(n, h, w)`."""
    seeds: list[int]
    params: dict[str, Any]
    """The request as JSON."""
    codebook_size: int
    model: str | None = None
    """Identity of the tokenizer that the codes belong to."""
    cell: int = 8
    """Pixels per side of a cell."""
    history: list[HistoryStep] | None = field(default=None, repr=False)

    def __repr__(self) -> str:
        rows, columns = self.codes.shape[1:]
        verb, first, n = self.params.get("kind"), self.images[0], len(self.images)
        seeds = ", ".join(map(str, self.seeds))
        return f"Output({verb}: {n} of {first.width}x{first.height} pixels, {rows}x{columns} codes; seeds {seeds})"

    @property
    def grids(self) -> list[CodeGrid]:
        """The codes as values that every verb accepts in place of a picture."""
        return [CodeGrid(codes, self.codebook_size, self.model) for codes in self.codes]

    def contact_sheet(self, columns: int | None = None, gap: int = 4) -> Image.Image:
        """All images in one, as near to a square as their shape allows."""
        return contact_sheet(self.images, columns=columns, gap=gap)

    def save(self, path: str | Path, *, force: bool = False) -> list[Path]:
        """Write the pictures with their recipes: one to `path`, several to names with their seeds, a-7.png for a.png.

        Returns the paths. Raises OutputError for a file that exists, unless `force`.
        """
        first = Path(path)
        several = len(self.images) > 1
        paths = [first.with_name(f"{first.stem}-{s}{first.suffix}") if several else first for s in self.seeds]
        for target, image in zip(paths, self.images, strict=True):
            save_image(image, target, force=force)
        return paths

    def animate(self, path: str | Path, *, seconds: float = 3.0, hold: float = 1.5, force: bool = False) -> None:
        """Write the fill as an animation, `.gif` or `.webp`: cells appear in the order they were filled.

        Several images play side by side. Raises UsageError without `record_history=True` or for another suffix.
        """
        write_bytes(path, animation(self, Path(path).suffix.lower(), seconds, hold), force=force)

    def _repr_mimebundle_(self, **_: Any) -> dict[str, Any]:
        return {"image/png": _encoded(self.contact_sheet(), "PNG"), "text/plain": repr(self)}


def contact_sheet(images: Sequence[Image.Image], *, columns: int | None = None, gap: int = 4) -> Image.Image:
    """Pictures in rows on white, `gap` pixels apart; sized by the largest."""
    width, height = max(i.width for i in images), max(i.height for i in images)
    columns = columns or min(len(images), math.ceil(math.sqrt(len(images) * height / width)))
    rows = math.ceil(len(images) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) - gap, rows * (height + gap) - gap), "white")
    for i, image in enumerate(images):
        sheet.paste(image, ((i % columns) * (width + gap), (i // columns) * (height + gap)))
    return sheet


def animation(output: Output, suffix: str, seconds: float, hold: float) -> bytes:
    """Encoded animation of `output.history`; the unfilled cells of the finished picture are hatched."""
    formats = {".gif": "GIF", ".webp": "WEBP"}
    if suffix not in formats:
        raise UsageError(f"an animation ends in .gif or .webp, not {suffix or 'nothing'}", field="animation")
    if not output.history:
        raise UsageError("there is no history to animate: run the verb with record_history=True")
    start = output.history[0].codes.masked_fill(output.history[0].revealed, EMPTY)
    grids = [start, *(step.codes for step in output.history)]
    frames = [
        contact_sheet([hatched(image, codes == EMPTY, output.cell) for image, codes in zip(output.images, grid)])  # noqa: B905
        for grid in grids
    ]
    each = max(20, round(1000 * seconds / len(frames)))
    durations = [each] * (len(frames) - 1) + [round(1000 * hold)]
    buffer = io.BytesIO()
    frames[0].save(
        buffer, formats[suffix], save_all=True, append_images=frames[1:], duration=durations, loop=0, quality=90
    )
    return buffer.getvalue()


def hatched(image: Image.Image, empty: torch.Tensor, cell: int) -> Image.Image:
    """A copy of a picture with the cells of `empty` `(h, w)` covered by hatched tiles."""
    out = image.convert("RGB")
    tile = Image.new("RGB", (cell, cell), EMPTY_COLOUR)
    ImageDraw.Draw(tile).line([(0, cell - 1), (cell - 1, 0)], fill=HATCH_COLOUR)
    for row, col in empty.nonzero().tolist():
        out.paste(tile, (col * cell, row * cell))
    return out


def marked(picture: Image.Image | None, empty: torch.Tensor, cell: int, size: tuple[int, int]) -> Image.Image:
    """What would be remade: the empty cells hatched over the picture (or over nothing)."""
    base = Image.new("RGB", size, EMPTY_COLOUR)
    if picture is not None:
        base.paste(picture)
    return Image.blend(base, hatched(base, empty, cell), 0.75)  # so that one still sees what will go


def joined(outputs: Sequence[Output]) -> Output:
    """One output of several that differ in their seeds."""
    return replace(
        outputs[0],
        images=[image for o in outputs for image in o.images],
        codes=torch.cat([o.codes for o in outputs]),
        seeds=[seed for o in outputs for seed in o.seeds],
        history=merge_histories([o.history or [] for o in outputs]),
    )


def merge_histories(histories: Sequence[list[HistoryStep]]) -> list[HistoryStep] | None:
    """One history of many images; those that were done earlier wait in their final state. None if none was recorded."""
    longest = max((len(h) for h in histories), default=0)
    if not longest:
        return None
    merged = []
    for k in range(longest):
        now = [h[min(k, len(h) - 1)] for h in histories]
        waits = [k >= len(h) for h in histories]
        revealed = torch.cat([step.revealed & (not done) for step, done in zip(now, waits, strict=True)])
        merged.append(HistoryStep(k, torch.cat([step.codes for step in now]), revealed))
    return merged


def surprise_map(bits: torch.Tensor, cell: int, size: tuple[int, int]) -> Image.Image:
    """Bits of surprise `(h, w)` as a picture of `size` pixels: dark blue expected, yellow surprising."""
    stops = np.array([[13, 22, 64], [70, 40, 130], [190, 60, 110], [250, 150, 60], [255, 235, 140]], dtype=np.float64)
    scale = max(1.0, float(bits.max()))
    at = (bits.double().numpy() / scale).clip(0, 1) * (len(stops) - 1)
    low = at.astype(int).clip(max=len(stops) - 2)
    colour = stops[low] + (stops[low + 1] - stops[low]) * (at - low)[..., None]
    image = Image.fromarray(colour.round().astype(np.uint8), "RGB")
    return image.resize((bits.shape[1] * cell, bits.shape[0] * cell), Image.Resampling.NEAREST).crop((0, 0, *size))


def _encoded(image: Image.Image, kind: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()

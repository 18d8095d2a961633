"""Each verb as a pure function: a request and its sources become a grid with empty cells and a rule for the pixels.

    generate    all empty                        keep      empty outside a region
    inpaint     empty inside a region            stitch    pieces on an empty grid
    extend      the picture in a larger grid     variations, heal    some cells emptied

There is no loop and no network here; the fill engine does the rest for every verb alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from smalti.errors import UsageError
from smalti.pipeline import requests as ask
from smalti.randomness import Purpose, uniforms
from smalti.regions import Region, cells_of_pixels, grow, pixels_of_cells
from smalti.types import EMPTY, CellMask, Codes, PixelMask


@dataclass(frozen=True)
class Source:
    """A picture that an edit starts from."""

    encode: Callable[[PixelMask | None], torch.Tensor]
    """Codes int64 `(h, w)`; pixels under the mask are about to be remade and must not leak into the codes."""
    size: tuple[int, int]
    """Width and height in pixels."""
    picture: Image.Image | None = None
    """The pixels to give back, RGB; None when the source is a bare grid."""
    name: str = "picture"


@dataclass(frozen=True)
class Model:
    """What a verb may know of the model."""

    cell: int
    """Pixels per side of a cell."""
    window: tuple[int, int]
    """Rows and columns of cells the prior sees at once: the size of a picture made from nothing."""
    surprise: Callable[[torch.Tensor], torch.Tensor]
    """Codes `(h, w)` -> bits of surprise of every cell `(h, w)`."""


@dataclass(frozen=True)
class FillJob:
    """What every verb comes down to."""

    codes: Codes
    """int64 `(n, h, w)`, `EMPTY` where to fill; n is the number of results."""
    size: tuple[int, int]
    """Width and height of the finished pictures in pixels."""
    original: Image.Image | None = None
    """RGB of `size`: where kept pixels come from."""
    regenerate: torch.Tensor | None = None
    """bool `(1 or n, H, W)`: pixels that come from the decoder; None = all of them."""
    feather: int = 0
    """Pixels over which a change fades in, inside the regenerated area."""


def lower(request: ask.Request, sources: Sequence[Source], model: Model) -> FillJob:
    """The fill job of a request. Raises UsageError if the request does not fit the sources."""
    if isinstance(request, ask.Generate):
        return generate(request, model)
    if not sources:
        raise UsageError(f"{request.kind} needs a picture to start from")
    if isinstance(request, ask.Stitch):
        return stitch(request, sources, model)
    if len(sources) > 1:
        raise UsageError(f"{request.kind} takes one picture, got {len(sources)}")
    source = sources[0]
    match request:
        case ask.Keep():
            return keep(request, source, model)
        case ask.Inpaint():
            return inpaint(request, source, model)
        case ask.Extend():
            return extend(request, source, model)
        case ask.Variations():
            return variations(request, source, model)
        case ask.Heal():
            return heal(request, source, model)
        case ask.Fill():
            return fill(request, source)


def generate(request: ask.Generate, model: Model) -> FillJob:
    """All cells empty."""
    h, w = request.height or model.window[0], request.width or model.window[1]
    return FillJob(torch.full((request.num_images, h, w), EMPTY), (w * model.cell, h * model.cell))


def fill(request: ask.Fill, source: Source) -> FillJob:
    """A grid as it is."""
    codes = source.encode(None)
    return FillJob(_repeat(codes, request.num_images), source.size)


def keep(request: ask.Keep, source: Source, model: Model) -> FillJob:
    """Everything outside the region is empty; a cell is kept only if all its pixels are."""
    kept = _selected(request, source.size, model.cell)
    if not kept.any():
        raise UsageError("the region is empty: nothing would be kept; use generate", field="region")
    if kept.all():
        raise UsageError("the region is the whole picture: nothing would be remade", field="region")
    job = _edit(request, source, model)
    if bool((job.codes == EMPTY).all()):
        raise UsageError("the region holds no whole cell: nothing would be kept; make it larger", field="region")
    return job


def inpaint(request: ask.Inpaint, source: Source, model: Model) -> FillJob:
    """The region's cells are empty; a cell is remade if any of its pixels is."""
    remade = _selected(request, source.size, model.cell)
    if not remade.any():
        raise UsageError("the region is empty: nothing would be remade", field="region")
    if remade.all():
        raise UsageError("the region is the whole picture: nothing would be kept; use generate", field="region")
    job = _edit(request, source, model)
    if request.grow and bool((job.codes == EMPTY).all()):
        raise UsageError(f"grown by {request.grow} cells, the region is the whole picture: use generate", field="grow")
    return job


def extend(request: ask.Extend, source: Source, model: Model) -> FillJob:
    """The picture's cells in a larger grid. Cells that only part of the picture covers are remade with the margin."""
    cell = model.cell
    width, height = source.size
    wide = (width + (request.left + request.right) * cell, height + (request.top + request.bottom) * cell)
    remade = _added(request, wide, cell)
    if remade.all():
        raise UsageError(f"a seam of {request.seam} cells leaves nothing of the picture", field="seam")

    codes = torch.full((-(-wide[1] // cell), -(-wide[0] // cell)), EMPTY)
    inner = source.encode(None)
    codes[request.top : request.top + inner.shape[0], request.left : request.left + inner.shape[1]] = inner
    codes[cells_of_pixels(remade, cell)] = EMPTY
    original = None
    if request.paste_original and source.picture is not None:
        original = Image.new("RGB", wide)
        original.paste(source.picture, (request.left * cell, request.top * cell))
        if "icc_profile" in source.picture.info:
            original.info["icc_profile"] = source.picture.info["icc_profile"]
    return FillJob(_repeat(codes, request.num_images), wide, original, remade[None], request.feather)


def stitch(request: ask.Stitch, sources: Sequence[Source], model: Model) -> FillJob:
    """Pieces in order on an empty grid, codes and pixels, later ones on top."""
    first, cell = sources[0].size, model.cell
    h, w = request.height or -(-first[1] // cell), request.width or -(-first[0] // cell)
    canvas = _Canvas(torch.full((h, w), EMPTY), Image.new("RGB", (w * cell, h * cell)),
                     torch.ones(h * cell, w * cell, dtype=torch.bool))  # fmt: skip
    for number, piece in enumerate(request.pieces):
        if piece.source >= len(sources):
            raise UsageError(f"piece {number} asks for source {piece.source}, but there are {len(sources)}")
        _lay(canvas, piece, number, sources[piece.source], model, request.seam)
    if not bool((canvas.codes == EMPTY).any()):
        hint = " or add --seam 1" if len(request.pieces) > 1 and not request.seam else ""
        raise UsageError(f"the pieces cover every cell: nothing to fill; make one smaller{hint}")
    original = canvas.picture if request.paste_original and not canvas.remade.all() else None
    codes = _repeat(canvas.codes, request.num_images)
    return FillJob(codes, canvas.picture.size, original, canvas.remade[None], request.feather)


@dataclass(frozen=True)
class _Canvas:
    """What a stitch is laid on, and written to piece by piece."""

    codes: torch.Tensor
    """int64 `(h, w)`."""
    picture: Image.Image
    """Pixels of the pieces."""
    remade: PixelMask
    """bool `(H, W)`: pixels that no piece brought."""


def _lay(canvas: _Canvas, piece: ask.StitchPiece, number: int, source: Source, model: Model, seam: int) -> None:
    h, w = canvas.codes.shape
    codes, cell = source.encode(None), model.cell
    taken = Region.parse(piece.region).to_pixels(source.size[1], source.size[0], model.cell)
    cells = ~cells_of_pixels(~taken, model.cell)  # whole cells only
    rows, cols = cells.nonzero(as_tuple=True)
    if not len(rows):
        raise UsageError(f"piece {number} ({piece.region}) holds no whole cell of {source.name}", field="pieces")
    row, col = piece.to if piece.to is not None else (int(rows.min()), int(cols.min()))
    to_rows, to_cols = rows - rows.min() + row, cols - cols.min() + col
    if min(row, col) < 0 or int(to_rows.max()) >= h or int(to_cols.max()) >= w:
        raise UsageError(
            f"piece {number} ends at row {int(to_rows.max()) + 1}, column {int(to_cols.max()) + 1}, "
            f"outside the {h}x{w} grid: move it or give --size",
            field="pieces",
        )
    placed = torch.zeros(h, w, dtype=torch.bool)
    placed[to_rows, to_cols] = True
    core = ~grow(~placed, seam) & placed  # nothing joins a piece at the canvas's own edge
    if not core.any():
        raise UsageError(f"a seam of {seam} cells leaves nothing of piece {number} ({piece.region})", field="seam")
    canvas.codes[to_rows, to_cols] = codes[rows, cols]
    canvas.codes[placed & ~core] = EMPTY
    canvas.remade[pixels_of_cells(placed, cell, h * cell, w * cell)] = True
    _lay_pixels(canvas, core, source, (int(to_cols[0] - cols[0]) * cell, int(to_rows[0] - rows[0]) * cell))


def _lay_pixels(canvas: _Canvas, core: CellMask, source: Source, at: tuple[int, int]) -> None:
    """The source's pixels under the cells `core`, the source's top left corner at (x, y) `at`, maybe outside."""
    picture = source.picture
    if picture is None:
        return
    profile = picture.info.get("icc_profile")
    if canvas.remade.all() and profile is not None:
        canvas.picture.info["icc_profile"] = profile
    if canvas.picture.info.get("icc_profile") != profile:
        return  # bytes of another colour space would mean other colours here: the decoder's are used
    height, width = canvas.remade.shape
    within = Image.new("1", (width, height))
    within.paste(True, (*at, at[0] + picture.width, at[1] + picture.height))
    cell = height // core.shape[0]
    kept = pixels_of_cells(core, cell, height, width) & torch.from_numpy(np.array(within))
    moved = Image.new("RGB", (width, height))
    moved.paste(picture, at)
    canvas.picture.paste(moved, mask=Image.fromarray(kept.numpy()))
    canvas.remade[kept] = False


def variations(request: ask.Variations, source: Source, model: Model) -> FillJob:
    """Every result empties its own random cells, each with probability-free counts: exactly the share asked for."""
    codes = source.encode(None)
    count = max(1, round(request.amount * codes.numel()))
    counters = np.arange(codes.numel(), dtype=np.uint64)
    ranks = [
        torch.from_numpy(uniforms(request.seed + i, Purpose.CHOOSE, counters)).argsort()[:count]
        for i in range(request.num_images)
    ]
    chosen = torch.zeros(request.num_images, codes.numel(), dtype=torch.bool)
    for i, cells in enumerate(ranks):
        chosen[i, cells] = True
    return _empty_cells(request, source, model, codes, chosen.view(-1, *codes.shape))


def heal(request: ask.Heal, source: Source, model: Model) -> FillJob:
    """The most surprising cells are empty, the same for every result."""
    codes = source.encode(None)
    count = max(1, round(request.amount * codes.numel()))
    chosen = torch.zeros(codes.numel(), dtype=torch.bool)
    chosen[model.surprise(codes).flatten().argsort(descending=True, stable=True)[:count]] = True
    return _empty_cells(request, source, model, codes, chosen.view(1, *codes.shape))


def _empty_cells(
    request: ask.Variations | ask.Heal, source: Source, model: Model, codes: torch.Tensor, chosen: CellMask
) -> FillJob:
    grids = _repeat(codes, request.num_images)
    grids[chosen.expand_as(grids)] = EMPTY
    width, height = source.size
    remade = torch.stack([pixels_of_cells(cells, model.cell, height, width) for cells in chosen])
    original = source.picture if request.paste_original else None
    return FillJob(grids, source.size, original, remade, request.feather)


def remade_pixels(request: ask.Request, size: tuple[int, int], filled: CellMask, cell: int) -> PixelMask:
    """bool `(H, W)`: pixels of a finished edit of `size` (width, height) that came from the decoder.

    `filled` bool `(h, w)`: the cells that the request had filled, for verbs that do not choose them by a region.
    """
    if isinstance(request, ask.Extend):
        return _added(request, size, cell)
    if isinstance(request, ask.Keep | ask.Inpaint):
        return _remade(request, size, cell)
    return pixels_of_cells(filled, cell, size[1], size[0])


def _selected(request: ask.Keep | ask.Inpaint, size: tuple[int, int], cell: int) -> PixelMask:
    return Region.parse(request.region).to_pixels(size[1], size[0], cell)


def _remade(request: ask.Keep | ask.Inpaint, size: tuple[int, int], cell: int) -> PixelMask:
    selected = _selected(request, size, cell)
    remade = ~selected if isinstance(request, ask.Keep) else selected
    if request.grow:
        grown = grow(cells_of_pixels(remade, cell), request.grow)
        remade = remade | pixels_of_cells(grown, cell, size[1], size[0])
    return remade


def _added(request: ask.Extend, wide: tuple[int, int], cell: int) -> PixelMask:
    """The margin of the extended picture of size `wide`, and the seam along the sides that grow."""
    remade = torch.ones(wide[1], wide[0], dtype=torch.bool)
    seam = request.seam
    y0, y1 = request.top + seam * bool(request.top), request.bottom + seam * bool(request.bottom)
    x0, x1 = request.left + seam * bool(request.left), request.right + seam * bool(request.right)
    remade[y0 * cell : max(0, wide[1] - y1 * cell), x0 * cell : max(0, wide[0] - x1 * cell)] = False
    return remade


def _edit(request: ask.Keep | ask.Inpaint, source: Source, model: Model) -> FillJob:
    remade = _remade(request, source.size, model.cell)
    codes = source.encode(remade).clone()
    codes[cells_of_pixels(remade, model.cell)] = EMPTY
    original = source.picture if request.paste_original else None
    return FillJob(_repeat(codes, request.num_images), source.size, original, remade[None], request.feather)


def _repeat(codes: torch.Tensor, n: int) -> Codes:
    return codes.unsqueeze(0).repeat(n, 1, 1)

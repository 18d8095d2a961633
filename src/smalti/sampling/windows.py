"""Which windows of the network see which cells, and what they say together.

The network sees a fixed number of cells. A canvas that is smaller is embedded, centred, in unknown cells; a larger
one is covered by several windows that never leave it. All coordinates of windows are on the *padded* canvas, which
is the canvas itself along every axis that is at least as long as the window. One code path serves all sizes.

Knows no orders, no draws and no seeds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from typing import Final, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smalti.errors import ModelError
from smalti.sampling.denoiser import Denoiser
from smalti.sampling.draws import exact_device, probabilities
from smalti.types import EMPTY, Codes

Ints: TypeAlias = npt.NDArray[np.int64]
Floats: TypeAlias = npt.NDArray[np.float64]
Size: TypeAlias = tuple[int, int]

AMPLE: Final = 1 << 20
"""Room of a cell whose window ends only where the canvas ends."""

_CHUNK = 1 << 22  # float64 probabilities handled at once (32 MB), whatever the batch and the codebook


# --- along one axis ------------------------------------------------------------------------------------------------


def even_starts(size: int, window: int, overlap: int) -> Ints:
    """The fewest windows of which neighbours share at least `overlap` cells, evenly spread over `size` cells."""
    if size <= window:
        return np.zeros(1, np.int64)
    stride = max(1, window - overlap)
    count = -(-(size - window) // stride) + 1
    return np.rint(np.linspace(0, size - window, count)).astype(np.int64)


def strided_starts(size: int, window: int, overlap: int) -> Ints:
    """Windows at multiples of `window - overlap`, the last one moved inward to end with the canvas."""
    if size <= window:
        return np.zeros(1, np.int64)
    return np.append(np.arange(0, size - window, max(1, window - overlap)), size - window)


def tile_starts(size: int, window: int, margin: int, jitter: int) -> Ints:
    """Tiles side by side, displaced by `jitter` cells (0..window-1), those at the borders moved inward.

    Where the fewest windows that reach from border to border leave every cell `margin` cells of room anyhow, these,
    without jitter.
    """
    fewest = even_starts(size, window, 0)
    if len(fewest) == 1 or window - int(np.diff(fewest).max()) >= 2 * margin:
        return fewest
    grid = np.arange(jitter - window, size, window)
    starts: Ints = np.unique(np.clip(grid, 0, size - window))
    return starts


def rooms(starts: Ints, size: int, window: int) -> Ints:
    """`(size, a)`: cells between each place and the nearest inner edge of each window, -1 outside the window."""
    place = np.arange(size)[:, None]
    before = place - starts
    after = starts + window - 1 - place
    inside = (before >= 0) & (after >= 0)
    before = np.where(starts == 0, AMPLE, before)
    after = np.where(starts + window >= size, AMPLE, after)
    return np.where(inside, np.minimum(before, after), -1)


# --- on the canvas -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Cover:
    """The windows that predict some cells of one image: `t` windows, `p` (window, cell) pairs, by ascending window."""

    rows: Ints
    """`(t,)` first row of each window on the padded canvas."""
    cols: Ints
    """`(t,)` first column."""
    window: Ints
    """`(p,)` number of the window of each pair."""
    position: Ints
    """`(p,)` row-major number of the cell in its window."""
    cell: Ints
    """`(p,)` row-major number of the cell on the canvas."""
    weight: Floats
    """`(p,)` share of this window in the mixture for the cell, up to a factor per cell."""

    def __len__(self) -> int:
        return len(self.rows)


@dataclass(frozen=True, eq=False)
class Layout:
    """Windows over a canvas, as the product of two axes."""

    canvas: Size
    window: Size
    row_starts: Ints
    col_starts: Ints

    @cached_property
    def _row_room(self) -> Ints:
        return rooms(self.row_starts, padding(self.canvas, self.window)[1][0], self.window[0])

    @cached_property
    def _col_room(self) -> Ints:
        return rooms(self.col_starts, padding(self.canvas, self.window)[1][1], self.window[1])

    def room(self, cells: Ints) -> Ints:
        """Distance of each cell `(m,)` to the nearest inner edge of the window that is best for it; 0 = at the edge."""
        rows, cols = _places(cells, self.canvas, self.window)
        room: Ints = np.minimum(self._row_room.max(1)[rows], self._col_room.max(1)[cols])
        return room

    def nearest(self, cells: Ints) -> Cover:
        """Each cell predicted by exactly one window: the one in which it has most room."""
        rows, cols = _places(cells, self.canvas, self.window)
        return self._cover(cells, self._row_room.argmax(1)[rows], self._col_room.argmax(1)[cols])

    def every(self, cells: Ints, central: bool = False) -> Cover:
        """Each cell predicted by all windows that see it, equally or (`central`) by raised-cosine weights."""
        rows, cols = _places(cells, self.canvas, self.window)
        row_at, row_window = _all_of(self._row_room >= 0, rows)
        at, col_window = _all_of(self._col_room >= 0, cols[row_at])
        return self._cover(cells[row_at[at]], row_window[at], col_window, central)

    def _cover(self, cells: Ints, row_window: Ints, col_window: Ints, central: bool = False) -> Cover:
        firsts = self.row_starts[row_window], self.col_starts[col_window]
        return covered(self.canvas, self.window, cells, *firsts, central=central)


def covered(
    canvas: Size, window: Size, cells: Ints, first_row: Ints, first_col: Ints, *, central: bool = False
) -> Cover:
    """The cover in which `cells[i]` is predicted by the window that begins at `(first_row[i], first_col[i])` of the
    padded canvas. central: weight each pair by how central the cell is in the window (raised cosines)."""
    across = padding(canvas, window)[1][1]
    first, number = np.unique(first_row * across + first_col, return_inverse=True)
    by_window = np.argsort(number, kind="stable")
    number, cells = number[by_window].astype(np.int64), cells[by_window]
    window_rows, window_cols = np.divmod(first, across)
    rows, cols = _places(cells, canvas, window)
    rows, cols = rows - window_rows[number], cols - window_cols[number]
    weight = np.ones(len(cells))
    if central:
        weight = _hump(rows, window[0]) * _hump(cols, window[1])
    return Cover(window_rows, window_cols, number, rows * window[1] + cols, cells, weight)


@lru_cache(maxsize=64)
def tiles(canvas: Size, window: Size, margin: int, jitter: Size) -> Layout:
    """Tiles displaced by `jitter` rows and columns, for `Layout.nearest`."""
    (height, width) = padding(canvas, window)[1]
    return Layout(
        canvas,
        window,
        tile_starts(height, window[0], margin, jitter[0]),
        tile_starts(width, window[1], margin, jitter[1]),
    )


@lru_cache(maxsize=64)
def overlapping(canvas: Size, window: Size, overlap: int) -> Layout:
    """Fixed windows at a stride, for `Layout.every`."""
    (height, width) = padding(canvas, window)[1]
    return Layout(canvas, window, strided_starts(height, window[0], overlap), strided_starts(width, window[1], overlap))


@lru_cache(maxsize=64)
def roomy(canvas: Size, window: Size, margin: int) -> Layout:
    """The fewest fixed windows in which every cell has `margin` cells of room, for `Layout.nearest`."""
    (height, width) = padding(canvas, window)[1]
    return Layout(canvas, window, even_starts(height, window[0], 2 * margin), even_starts(width, window[1], 2 * margin))


def padding(canvas: Size, window: Size) -> tuple[Size, Size]:
    """Place of the canvas on the padded canvas, and the padded canvas's size."""
    size = max(canvas[0], window[0]), max(canvas[1], window[1])
    return ((size[0] - canvas[0]) // 2, (size[1] - canvas[1]) // 2), size


def embed(codes: Codes, window: Size) -> Codes:
    """Codes `(n, h, w)` on a new padded canvas; cells beyond the border are unknown."""
    (top, left), size = padding((codes.shape[1], codes.shape[2]), window)
    padded = codes.new_full((len(codes), *size), EMPTY)
    padded[:, top : top + codes.shape[1], left : left + codes.shape[2]] = codes
    return padded


def _places(cells: Ints, canvas: Size, window: Size) -> tuple[Ints, Ints]:
    """Row and column of canvas cells on the padded canvas."""
    rows, cols = np.divmod(cells, canvas[1])
    (top, left), _ = padding(canvas, window)
    return rows + top, cols + left


def _hump(place: Ints, window: int) -> Floats:
    """Raised cosine over a window's side: nearly 0 at its ends, 1 in the middle."""
    hump: Floats = np.sin(np.pi * (place + 0.5) / window) ** 2
    return hump


def _all_of(sees: npt.NDArray[np.bool_], places: Ints) -> tuple[Ints, Ints]:
    """All pairs (index into `places`, window that sees it), by ascending index."""
    at, window = np.nonzero(sees[places])
    return at, window


# --- asking the network --------------------------------------------------------------------------------------------


class Prediction(NamedTuple):
    """What the windows say of `m` cells, some of the cells that were asked for."""

    image: Ints
    """`(m,)` number of the image in the batch."""
    cell: Ints
    """`(m,)` row-major number of the cell on the canvas."""
    p: Tensor
    """`(m, K)` float64 probabilities."""


def predict(
    denoiser: Denoiser,
    codes: Codes,
    covers: Sequence[tuple[int, Cover]],
    label: Tensor | None = None,
    max_batch: int = 64,
) -> Iterator[Prediction]:
    """Probabilities of all cells of `covers` = (image, cover) pairs, given `codes` `(n, h, w)`, piece by piece.

    Every window is evaluated once, all images together in batches of at most `max_batch` windows. A cell that
    several windows see gets the weighted arithmetic mean of their probabilities (Bond-Taylor et al. 2022),
    and comes out as soon as the last of them is known, so that memory does not grow with the canvas.
    Raises ModelError if the network's logits have the wrong shape or are not numbers.
    """
    covers = [(image, cover) for image, cover in covers if len(cover)]
    if not covers:
        return
    padded = embed(codes, denoiser.window)
    image, rows, cols = (np.concatenate(parts) for parts in zip(*[_tasks(*pair) for pair in covers], strict=True))
    first = np.cumsum([0, *(len(cover) for _, cover in covers)])
    task = np.concatenate([cover.window + start for (_, cover), start in zip(covers, first[:-1], strict=True)])
    position = np.concatenate([cover.position for _, cover in covers])
    cell = np.concatenate([cover.cell for _, cover in covers])
    weight = np.concatenate([cover.weight for _, cover in covers])
    mixture = _Mixture(image[task], cell, weight, task)

    batches = -(-len(image) // max_batch)
    bounds = np.arange(batches + 1) * len(image) // batches
    for start, stop in pairwise(bounds.tolist()):
        low, high = np.searchsorted(task, [start, stop])
        local = task[low:high] - start
        # number of the pair within its window: a column of `positions`, whose shorter rows are padded
        column = np.arange(high - low) - np.searchsorted(local, local)
        positions = np.zeros((stop - start, column.max() + 1), np.int64)
        positions[local, column] = position[low:high]
        seen = _cut(padded, image[start:stop], rows[start:stop], cols[start:stop], denoiser.window)
        chosen = None if label is None else label[torch.from_numpy(image[start:stop])]
        logits = _ask(denoiser, seen, torch.from_numpy(positions), chosen)
        step = max(1, _CHUNK // denoiser.codebook_size)
        for at in range(0, high - low, step):
            some = slice(at, at + step)
            index = torch.from_numpy(np.stack([local[some], column[some]])).to(logits.device)
            p = _checked(probabilities(logits[index[0], index[1]]))
            yield from mixture.add(np.arange(low, high)[some], p)
        yield from mixture.finish(int(stop))


class _Mixture:
    """Weighted means of probabilities over the windows of each cell, kept only until the cell's last window."""

    def __init__(self, image: Ints, cell: Ints, weight: Floats, task: Ints) -> None:
        _, first, self.slot = np.unique(image * (cell.max() + 1) + cell, return_index=True, return_inverse=True)
        self.image, self.cell = image, cell
        self.single = len(first) == len(cell)
        self.slot_image, self.slot_cell = image[first], cell[first]
        self.last = np.zeros(len(first), np.int64)
        np.maximum.at(self.last, self.slot, task)
        self.share = weight / np.bincount(self.slot, weight)[self.slot]
        self.open: Ints = np.zeros(0, np.int64)  # slots with a sum, ascending
        self.sums: Tensor | None = None  # (open, K)

    def add(self, pairs: Ints, p: Tensor) -> Iterator[Prediction]:
        """Take the probabilities `(m, K)` of `pairs`; if nothing is mixed at all they go straight through."""
        if self.single:
            yield Prediction(self.image[pairs], self.cell[pairs], p)
            return
        slots = self.slot[pairs]
        known = np.union1d(self.open, slots)
        sums = p.new_zeros(len(known), p.shape[1])
        if self.sums is not None:
            sums[_index(np.searchsorted(known, self.open), p.device)] = self.sums
        share = torch.from_numpy(self.share[pairs]).to(p.device).unsqueeze(1)
        sums.index_add_(0, _index(np.searchsorted(known, slots), p.device), p * share)
        self.open, self.sums = known, sums

    def finish(self, stop: int) -> Iterator[Prediction]:
        """Give out the cells of which no window numbered `stop` or more will speak."""
        if self.sums is None:
            return
        done = self.last[self.open] < stop
        slots = self.open[done]
        p = self.sums[_index(np.flatnonzero(done), self.sums.device)]
        self.open, self.sums = self.open[~done], self.sums[_index(np.flatnonzero(~done), self.sums.device)]
        step = max(1, _CHUNK // p.shape[1])
        for at in range(0, len(slots), step):
            some = slots[at : at + step]
            yield Prediction(self.slot_image[some], self.slot_cell[some], p[at : at + step])


def _tasks(image: int, cover: Cover) -> tuple[Ints, Ints, Ints]:
    return np.full(len(cover), image, np.int64), cover.rows, cover.cols


def _cut(padded: Codes, image: Ints, rows: Ints, cols: Ints, window: Size) -> Codes:
    """Windows `(b, *window)` of the padded canvases."""
    row = torch.from_numpy(rows[:, None, None] + np.arange(window[0])[None, :, None])
    col = torch.from_numpy(cols[:, None, None] + np.arange(window[1])[None, None, :])
    return padded[torch.from_numpy(image)[:, None, None], row, col]


def _ask(denoiser: Denoiser, codes: Codes, positions: Tensor, label: Tensor | None) -> Tensor:
    device = denoiser.device
    with torch.no_grad():
        logits = denoiser(codes.to(device), positions.to(device), label if label is None else label.to(device))
    wanted = (*positions.shape, denoiser.codebook_size)
    if tuple(logits.shape) != wanted:
        raise ModelError(f"the prior returned logits of shape {tuple(logits.shape)} instead of {wanted}")
    return logits.detach().to(exact_device(logits.device))


def _checked(p: Tensor) -> Tensor:
    if not bool(torch.isfinite(p).all()):
        raise ModelError(
            "the prior returned logits that are not numbers (NaN or infinite); "
            "its weights may be damaged, or its precision too low: try float32"
        )
    return p


def _index(values: npt.NDArray[np.intp] | Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values, np.int64)).to(device)

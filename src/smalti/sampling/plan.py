"""The reveal plan: which empty cells are drawn at which step, and what it will cost, before any work is done."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from smalti.errors import UsageError
from smalti.randomness import Purpose, uniforms
from smalti.sampling.guidance import GUIDANCE_SCHEDULES, cells_in_window
from smalti.sampling.options import SamplerOptions
from smalti.sampling.orders import ORDERS, Arrangement, Cells, EmptyCells, Order
from smalti.sampling.outward import Rings, rings
from smalti.sampling.windows import Cover, Floats, Layout, Size, overlapping, padding, tiles
from smalti.types import CellMask

# the R2 sequence: steps of 1/phi and 1/phi^2 for the plastic number phi cover the square evenly
_PLASTIC = 1.32471795724474602596


@dataclass(frozen=True, eq=False)
class RevealPlan:
    """The plan for one image: a pure function of its empty cells, the window, the options and the seed."""

    canvas: Size
    """Height and width in cells."""
    window: Size
    """What the network sees at once."""
    options: SamplerOptions
    seed: int
    counts: tuple[int, ...]
    """Cells drawn at each step, all positive."""
    empty: Cells
    """The cells to be drawn, as row-major numbers, ascending."""
    steps: tuple[Cells, ...]
    """The cells of each step; empty for adaptive orders, which choose them when they see the logits."""
    rings: Rings | None = None
    """How the canvas grows, with `windows="outward"` on a canvas of several windows."""

    @property
    def adaptive(self) -> bool:
        """True if the places are chosen during the work."""
        return ORDERS[self.options.order].adaptive

    @property
    def evaluations(self) -> int:
        """Steps, that is network evaluations of a canvas of one window (S, the "NFE")."""
        return len(self.counts)

    def cost(self, *, guided: bool = False) -> int:
        """Windows that the network will see; `guided`: with the second look that `options.guidance` takes at a labelled
        image. For adaptive orders on canvases of several windows, or guided: at most."""
        if self.adaptive:
            windows = sum(len(self.cover(k, self.empty)) for k in range(self.evaluations))
            return windows * (1 + (guided and self.options.guidance > 0))
        known = np.ones(self.canvas, np.int64)
        known.reshape(-1)[self.empty] = 0
        windows = 0
        for k, cells in enumerate(self.steps):
            cover = self.cover(k, cells)
            windows += len(cover)
            if guided:
                strength = GUIDANCE_SCHEDULES[self.options.guidance_schedule](self._shares_known(cover, known))
                windows += int((self.options.guidance * strength > 0).sum())
                known.reshape(-1)[cells] = 1
        return windows

    def _shares_known(self, cover: Cover, known: Cells) -> Floats:
        """Share of known cells in each window of a cover; `known` `(h, w)` holds 1 for those."""
        (top, left), size = padding(self.canvas, self.window)
        sums = np.zeros((size[0] + 1, size[1] + 1), np.int64)
        sums[1 + top : 1 + top + self.canvas[0], 1 + left : 1 + left + self.canvas[1]] = known
        sums = sums.cumsum(0).cumsum(1)
        above, before, below, after = cover.rows, cover.cols, cover.rows + self.window[0], cover.cols + self.window[1]
        inside = sums[below, after] - sums[above, after] - sums[below, before] + sums[above, before]
        shares: Floats = inside / cells_in_window(self.canvas, self.window)
        return shares

    def layout(self, step: int) -> Layout:
        """The windows of a step."""
        return _layout(self.canvas, self.window, self.options, self.seed, step)

    def cover(self, step: int, cells: Cells) -> Cover:
        """The windows that predict `cells` at a step."""
        if self.rings is not None:
            return self.rings.cover(cells)
        layout = self.layout(step)
        if self.options.windows == "overlap":
            return layout.every(cells, self.options.central_weight)
        return layout.nearest(cells)


def make_plan(
    empty: CellMask | npt.NDArray[np.bool_], window: Size, options: SamplerOptions | None = None, seed: int = 0
) -> RevealPlan:
    """Plan the drawing of the True cells of `empty` `(h, w)`.

    On a canvas larger than the window, `windows="outward"` plans ring after ring, each with as many steps as its
    fullest window needs. With "tiles", cells with less than `margin` cells of room in this step's tiles wait, as long
    as enough others are there; the margin is relaxed, one by one, only when they are not. Orders whose sequence is
    the point (raster, ancestral) and adaptive ones are not rearranged: "outward" is "tiles" for them.
    """
    options = options or SamplerOptions()
    mask = _mask(empty)
    canvas = (mask.shape[0], mask.shape[1])
    order = ORDERS[options.order]
    large = canvas[0] > window[0] or canvas[1] > window[1]
    if large and order.movable and not order.adaptive and options.windows == "outward":
        return _outward(mask, order, window, options, seed)
    arranged = order.arrange(mask, options.steps_schedule(), seed)
    steps: tuple[Cells, ...] = ()
    if not order.adaptive:
        postpones = large and order.movable
        steps = _postponed(arranged, canvas, window, options, seed) if postpones else _cut(arranged)
    return RevealPlan(canvas, window, options, seed, arranged.counts, np.sort(arranged.cells), steps)


def roomiest(cells: Cells, count: int, layout: Layout, options: SamplerOptions) -> npt.NDArray[np.int64]:
    """Indices of the first `count` of `cells` that have `margin` cells of room, or as much as enough of them have."""
    if options.windows == "overlap" or count >= len(cells):
        return np.arange(min(count, len(cells)))
    room = layout.room(cells)
    # the count-th largest room is what enough cells have
    enough = int(np.partition(room, len(room) - count)[len(room) - count])
    return np.flatnonzero(room >= min(options.margin, enough))[:count].astype(np.int64)


def _outward(mask: EmptyCells, order: Order, window: Size, options: SamplerOptions, seed: int) -> RevealPlan:
    grown, schedule = rings(mask, window), options.steps_schedule()
    steps: list[Cells] = []
    for ring in np.unique(grown.number[mask]).tolist():
        part = mask & (grown.number == ring)
        share = grown.fullest(np.flatnonzero(part).astype(np.int64)) / (window[0] * window[1])
        fewer = replace(schedule, steps=max(1, math.ceil(share * schedule.steps)))
        steps += _cut(order.arrange(part, fewer, seed))
    counts = tuple(len(cells) for cells in steps)
    empty = np.flatnonzero(mask).astype(np.int64)
    return RevealPlan((mask.shape[0], mask.shape[1]), window, options, seed, counts, empty, tuple(steps), grown)


def _postponed(
    arranged: Arrangement, canvas: Size, window: Size, options: SamplerOptions, seed: int
) -> tuple[Cells, ...]:
    left, steps = arranged.cells, []
    for k, count in enumerate(arranged.counts):
        now = roomiest(left, count, _layout(canvas, window, options, seed, k), options)
        steps.append(left[now])
        left = np.delete(left, now)
    return tuple(steps)


def _cut(arranged: Arrangement) -> tuple[Cells, ...]:
    return tuple(np.split(arranged.cells, np.cumsum(arranged.counts)[:-1])) if arranged.counts else ()


def _layout(canvas: Size, window: Size, options: SamplerOptions, seed: int, step: int) -> Layout:
    if options.windows == "overlap":
        return overlapping(canvas, window, options.overlap)
    if canvas[0] <= window[0] and canvas[1] <= window[1]:
        return tiles(canvas, window, options.margin, (0, 0))
    start = uniforms(seed, Purpose.WINDOWS, range(2))
    jitter = (start + step * np.array([1 / _PLASTIC, 1 / _PLASTIC**2])) % 1.0 * window
    return tiles(canvas, window, options.margin, (int(jitter[0]), int(jitter[1])))


def _mask(empty: CellMask | npt.NDArray[np.bool_]) -> EmptyCells:
    mask = empty.cpu().numpy() if isinstance(empty, torch.Tensor) else np.asarray(empty)
    if mask.ndim != 2 or mask.dtype != np.bool_:
        raise UsageError(f"a plan needs one mask (h, w) of booleans, not {mask.dtype} of shape {mask.shape}")
    return mask

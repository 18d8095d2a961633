"""Growing a large canvas out of what is known: in which ring a cell is drawn, and which window draws it.

Windows far apart that are filled at the same time agree on nothing that lies between them: a sky ends up in two
colours. Filled ring by ring, each window holds a part that is known already, and what it shows goes on outwards.

A ring is made of blocks of half a window's side; its number is the distance in blocks (Chebyshev) to the nearest block
in which anything is known. Where nothing is known, one window in the middle begins.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from smalti.sampling.windows import Cover, Ints, Size, covered, padding

Mask: TypeAlias = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Rings:
    """Ring and window of every cell of a canvas."""

    canvas: Size
    window: Size
    number: Ints
    """`(h, w)`: rings are drawn in ascending sequence."""
    first_row: Ints
    """`(h, w)`: first row, on the padded canvas, of the window that draws the cell."""
    first_col: Ints

    def cover(self, cells: Ints) -> Cover:
        """The windows that predict `cells` (row-major numbers)."""
        return covered(self.canvas, self.window, cells, self.first_row.flat[cells], self.first_col.flat[cells])

    def fullest(self, cells: Ints) -> int:
        """Most of `cells` that one window draws."""
        return int(np.bincount(self.cover(cells).window).max())


def rings(empty: Mask, window: Size) -> Rings:
    """The rings around the known cells of `empty` `(h, w)`, True = unknown."""
    canvas = (empty.shape[0], empty.shape[1])
    (top, left), size = padding(canvas, window)
    inside = slice(top, top + canvas[0]), slice(left, left + canvas[1])
    known = np.zeros(size, np.bool_)
    known[inside] = ~empty
    block = max(1, window[0] // 2), max(1, window[1] // 2)
    blocks = _distances(_begun(known, window, block))
    number = np.repeat(np.repeat(blocks, block[0], 0), block[1], 1)[: size[0], : size[1]]
    first = np.zeros((2, *size), np.int64)
    for ring in np.unique(number).tolist():
        drawn = _integral(number <= ring)
        for row, col in np.argwhere(blocks == ring) * block:
            here = slice(row, row + block[0]), slice(col, col + block[1])
            first[:, *here] = np.array(_fullest_window(drawn, (row, col), block, window, size))[:, None, None]
    return Rings(canvas, window, number[inside], first[0][inside], first[1][inside])


def _begun(known: Mask, window: Size, block: Size) -> Mask:
    """Blocks in which something is known, else those of one window in the middle."""
    if not known.any():
        rows, cols = (
            slice((side - w) // 2 // b * b, (side - w) // 2 // b * b + w)
            for side, w, b in zip(known.shape, window, block, strict=True)
        )
        known = known.copy()
        known[rows, cols] = True
    starts = [np.arange(0, side, b) for side, b in zip(known.shape, block, strict=True)]
    some: Mask = np.logical_or.reduceat(np.logical_or.reduceat(known, starts[0], 0), starts[1], 1)
    return some


def _distances(begun: Mask) -> Ints:
    """Chebyshev distance of each block to the nearest that has begun."""
    distance = np.where(begun, 0, -1).astype(np.int64)
    ring = 0
    while (distance < 0).any():
        reached = np.pad(distance >= 0, 1)
        near = np.lib.stride_tricks.sliding_window_view(reached, (3, 3)).any((2, 3))
        ring += 1
        distance[near & (distance < 0)] = ring
    return distance


def _integral(cells: Mask) -> Ints:
    """`(h + 1, w + 1)` sums over all cells above and to the left."""
    return np.pad(cells.astype(np.int64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))


def _fullest_window(drawn: Ints, place: tuple[int, int], block: Size, window: Size, size: Size) -> tuple[int, int]:
    """First row and column of the window around the block at `place` that holds most cells known or drawn by then;
    of equals, the one in which the block is most central."""
    candidates = []
    for at, b, w, side in zip(place, block, window, size, strict=True):
        wanted = [at - (w - b) // 2, at - (w - b), at]  # the most central first
        candidates.append([min(max(start, 0), side - w) for start in wanted])
    best, most = (0, 0), -1
    for row in candidates[0]:
        for col in candidates[1]:
            end = row + window[0], col + window[1]
            count = int(drawn[end] - drawn[row, end[1]] - drawn[end[0], col] + drawn[row, col])
            if count > most:
                best, most = (row, col), count
    return best

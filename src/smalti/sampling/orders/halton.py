"""Low-discrepancy points (Halton) as an order."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import numpy as np
import numpy.typing as npt

from smalti.sampling.orders.base import Arrangement, Cells, EmptyCells, by_priority
from smalti.sampling.orders.torus import period, spread
from smalti.sampling.schedules import Schedule


@final
class Halton:
    """Cells in the sequence in which the Halton(2, 3) points hit them, rolled by a random offset per image
    (Besnier et al., "Halton scheduler for masked generative image transformers", arXiv 2503.17076)."""

    adaptive = False
    movable = True

    def arrange(self, empty: EmptyCells, schedule: Schedule, seed: int) -> Arrangement:
        height, width = empty.shape
        base = halton_ranks(*period(height, width))
        return by_priority(empty, spread(base, height, width, seed), schedule)


@lru_cache(maxsize=32)
def halton_ranks(height: int, width: int) -> Cells:
    """Rank `(h, w)` of each cell: the sequence of first hits of the points (radical inverses in base 2 and 3)."""
    n = 2 * height * width
    while True:  # every cell holds an elementary interval of the sequence, so this ends (after at most ~36 h w points)
        i = np.arange(1, n + 1)
        hit = (_radical_inverse(i, 2) * height).astype(np.int64) * width
        hit += (_radical_inverse(i, 3) * width).astype(np.int64)
        cells, first = np.unique(hit, return_index=True)
        if len(cells) == height * width:
            break
        n *= 2
    ranks = np.empty((height, width), np.int64)
    ranks.reshape(-1)[cells[np.argsort(first)]] = np.arange(height * width)
    ranks.setflags(write=False)  # shared by the cache
    return ranks


def _radical_inverse(i: npt.NDArray[np.int64], base: int) -> npt.NDArray[np.float64]:
    value, scale = np.zeros(len(i)), 1.0
    while i.any():
        scale /= base
        i, digit = np.divmod(i, base)
        value += digit * scale
    return value

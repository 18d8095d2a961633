"""Blue noise: at every moment the revealed cells are as far from each other as they can be. The default order."""

from __future__ import annotations

from functools import lru_cache
from typing import final

import numpy as np

from smalti.sampling.orders.base import Arrangement, Cells, EmptyCells, by_priority
from smalti.sampling.orders.torus import coins, period, spread
from smalti.sampling.schedules import Schedule


@final
class BlueNoise:
    """Void-and-cluster order, with a random torus shift, flips and transposition per image.

    Cells drawn in one step are drawn independently of each other, so the less they depend on each other the
    smaller the error; distance is what makes them independent.
    """

    adaptive = False
    movable = True

    def arrange(self, empty: EmptyCells, schedule: Schedule, seed: int) -> Arrangement:
        flip_rows, flip_cols, transpose = coins(seed, 5)[2:] < 0.5
        height, width = empty.shape
        rows, cols = period(height, width)
        base = void_and_cluster(cols, rows).T if transpose else void_and_cluster(rows, cols)
        base = base[:: -1 if flip_rows else 1, :: -1 if flip_cols else 1]
        return by_priority(empty, spread(base, height, width, seed), schedule)


@lru_cache(maxsize=32)
def void_and_cluster(height: int, width: int) -> Cells:
    """Rank `(h, w)` of each cell on a torus: the next cell is where the chosen ones weigh least under a Gaussian
    (Ulichney 1993, the void-finding half), whose width shrinks with the distance between points,
    sigma = max(0.6, 0.45 sqrt(h w / (t + 1))).
    """
    n = height * width
    rows, cols = np.arange(height), np.arange(width)
    distance2 = np.minimum(rows, height - rows)[:, None] ** 2 + np.minimum(cols, width - cols)[None, :] ** 2
    ranks = np.full((height, width), -1, np.int64)
    chosen: list[tuple[int, int]] = []
    taken = np.iinfo(np.int64).max // 2
    sigma = np.inf
    for t in range(n):
        wanted = max(0.6, 0.45 * (n / (t + 1)) ** 0.5)
        if wanted < 0.93 * sigma or wanted == 0.6 < sigma:  # rarely, because all energies change with it
            sigma = wanted
            # whole numbers: sums do not depend on their sequence, so ties and results are the same on any machine
            kernel = np.rint(2.0**24 * np.exp(-distance2 / (2 * sigma**2))).astype(np.int64)
            twice = np.tile(kernel, (2, 2))
            energy = np.zeros((height, width), np.int64)
            for row, col in chosen:
                energy += twice[height - row : 2 * height - row, width - col : 2 * width - col]
                energy[row, col] += taken
        row, col = divmod(int(energy.argmin()), width)
        ranks[row, col] = t
        chosen.append((row, col))
        energy += twice[height - row : 2 * height - row, width - col : 2 * width - col]
        energy[row, col] += taken
    ranks.setflags(write=False)  # shared by the cache
    return ranks

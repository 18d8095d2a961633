"""Uniformly random sequence, with counts from a schedule."""

from __future__ import annotations

from typing import final

import numpy as np
import numpy.typing as npt

from smalti.randomness import Purpose, cell_counters, uniforms
from smalti.sampling.orders.base import Arrangement, EmptyCells, by_priority
from smalti.sampling.schedules import Schedule


@final
class Random:
    """Every sequence of the empty cells is equally likely."""

    adaptive = False
    movable = True

    def arrange(self, empty: EmptyCells, schedule: Schedule, seed: int) -> Arrangement:
        return by_priority(empty, uniforms(seed, Purpose.ORDER, canvas_counters(*empty.shape)), schedule)


def canvas_counters(height: int, width: int) -> npt.NDArray[np.uint64]:
    """`randomness.cell_counters` of a whole canvas, `(h, w)`."""
    return cell_counters(np.arange(height)[:, None], np.arange(width)[None, :])

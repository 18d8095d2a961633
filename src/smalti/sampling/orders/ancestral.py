"""The paper's own sampler, planned ahead."""

from __future__ import annotations

from typing import final

import numpy as np

from smalti.randomness import Purpose, uniforms
from smalti.sampling.orders.base import Arrangement, EmptyCells
from smalti.sampling.orders.random import canvas_counters
from smalti.sampling.schedules import Schedule


@final
class Ancestral:
    """Each cell is revealed at a step uniform on 1..T, independently.

    That is the law of the loop "for t = T..1: reveal each masked cell with probability 1/t" (Bond-Taylor et al. 2022,
    with the linear schedule of absorbing diffusion), because the network never sees t. Steps at
    which nothing is revealed do not exist here. Only the number of steps of the schedule is used, not its curve.
    """

    adaptive = False
    movable = False

    def arrange(self, empty: EmptyCells, schedule: Schedule, seed: int) -> Arrangement:
        cells = np.flatnonzero(empty).astype(np.int64)
        u = uniforms(seed, Purpose.ORDER, canvas_counters(*empty.shape).reshape(-1)[cells])
        step = np.minimum((u * schedule.steps).astype(np.int64), schedule.steps - 1)
        counts = np.unique(step, return_counts=True)[1]
        return Arrangement(cells[np.argsort(step, kind="stable")], tuple(counts.tolist()))

"""MaskGIT: the surest cells first."""

from __future__ import annotations

from typing import final

import numpy as np

from smalti.sampling.orders.base import Arrangement, EmptyCells, by_priority
from smalti.sampling.schedules import Schedule


@final
class Confidence:
    """Draw every empty cell, keep those with the highest log-probability plus annealed Gumbel noise (Chang et al.
    2022, MaskGIT, and its code's "choice temperature"; the choosing is in `fill`).

    Not a sampler of the model's distribution: choosing by value favours likely codes, as a lower temperature does.
    Needs the logits of all empty cells at each step. Here for comparison.
    """

    adaptive = True
    movable = True

    def arrange(self, empty: EmptyCells, schedule: Schedule, seed: int) -> Arrangement:
        return by_priority(empty, np.zeros(empty.shape), schedule)

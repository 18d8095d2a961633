"""Row by row."""

from __future__ import annotations

from typing import final

import numpy as np

from smalti.sampling.orders.base import Arrangement, EmptyCells, by_priority
from smalti.sampling.schedules import Schedule


@final
class Raster:
    """Reading order, as an autoregressive model would. Neighbours are drawn together, so many steps are needed."""

    adaptive = False
    movable = False

    def arrange(self, empty: EmptyCells, schedule: Schedule, seed: int) -> Arrangement:
        return by_priority(empty, np.zeros(empty.shape), schedule)

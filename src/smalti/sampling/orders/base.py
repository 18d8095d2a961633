"""What an order is: the protocol every leaf of this folder follows, and the one helper they share."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from smalti.sampling.schedules import Schedule

Cells: TypeAlias = npt.NDArray[np.int64]
"""Row-major cell numbers `row * width + col` on the canvas."""

EmptyCells: TypeAlias = npt.NDArray[np.bool_]
"""`(h, w)`, True where a code is to be drawn."""


class Arrangement(NamedTuple):
    """Empty cells in the sequence in which they are revealed, cut into steps."""

    cells: Cells
    counts: tuple[int, ...]
    """Cells per step: positive, sum = `len(cells)`."""


class Order(Protocol):
    """Which empty cells are drawn at which step. A new order is one file here and one line in `ORDERS`."""

    @property
    def adaptive(self) -> bool:
        """True: the places are chosen when the codes are known; `arrange` only fixes the counts."""

    @property
    def movable(self) -> bool:
        """True: on a large canvas, a cell at the edge of a tile may wait until a tile has it inside. False where
        the sequence itself is the point."""

    def arrange(self, empty: EmptyCells, schedule: Schedule, seed: int) -> Arrangement:
        """The plan for one image: a pure function of its arguments, independent of any network."""


def by_priority(empty: EmptyCells, priority: npt.NDArray[Any], schedule: Schedule) -> Arrangement:
    """Empty cells by ascending `priority` `(h, w)` (of equals, the first in reading order), counted by `schedule`."""
    cells = np.flatnonzero(empty)
    cells = cells[np.argsort(priority.reshape(-1)[cells], kind="stable")].astype(np.int64)
    return Arrangement(cells, schedule.counts(len(cells)))

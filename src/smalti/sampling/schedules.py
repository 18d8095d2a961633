"""How many cells are revealed at each step.

A schedule is a curve: the share of the empty cells that is filled after a share of the steps. Curves are pure
functions, `SCHEDULES` names them, and `Schedule.counts` rounds them to whole cells.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import TypeAlias, final

Curve: TypeAlias = Callable[[float], float]
"""Share of steps done, 0..1 -> share of cells filled, 0..1; rises from 0 to 1."""


def linear(done: float) -> float:
    """Equal shares per step."""
    return done


def cosine(done: float) -> float:
    """Few cells first, many last, when most of the picture is known (MaskGIT, Chang et al. 2022)."""
    return 1 - math.cos(math.pi / 2 * done)


def explicit(counts: Sequence[int]) -> Curve:
    """The curve through given counts, straight between steps. With another number of empty cells than
    `sum(counts)` the counts act as proportions."""
    total = sum(counts)
    filled = [0, *accumulate(counts)]

    def curve(done: float) -> float:
        at = done * len(counts)
        k = min(int(at + 1e-9), len(counts) - 1)
        return (filled[k] + (at - k) * counts[k]) / total

    return curve


SCHEDULES: dict[str, Curve] = {"linear": linear, "cosine": cosine}
"""Curves by name; `explicit` takes counts and is therefore made by `Schedule.of`."""


@final
@dataclass(frozen=True)
class Schedule:
    """A number of steps and the curve they follow."""

    steps: int
    """Wanted number of steps, S (for the ancestral order: T)."""
    curve: Curve

    @staticmethod
    def of(name: str, steps: int, counts: Sequence[int] | None = None) -> Schedule:
        """The schedule called `name`; `explicit` needs `counts` and has as many steps."""
        if name == "explicit":
            assert counts, "SamplerOptions checks that explicit schedules have counts"
            return Schedule(len(counts), explicit(counts))
        return Schedule(steps, SCHEDULES[name])

    def counts(self, n: int) -> tuple[int, ...]:
        """Cells per step for `n` empty cells: `min(steps, n)` positive numbers whose sum is `n`."""
        steps = min(self.steps, n)
        done, counts = 0, []
        for k in range(1, steps + 1):
            # nearest whole number, but at least one cell now and one for each later step
            target = math.floor(n * self.curve(k / steps) + 0.5 + 1e-9)
            target = min(max(target, done + 1), n - (steps - k))
            counts.append(target - done)
            done = target
        return tuple(counts)

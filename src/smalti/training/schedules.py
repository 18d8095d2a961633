"""How far a stage is, and the learning rate that follows from it."""

from __future__ import annotations

import math
import time
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Length(BaseModel):
    """How long a stage runs: a number of steps, or a number of minutes on whatever machine it has."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    steps: Annotated[int, Field(ge=1)] = 20_000
    """Optimizer steps. The same recipe then gives the same weights on the same machine, interrupted or not."""
    budget_minutes: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Takes the place of `steps`: minutes of training, interruptions not counted. The learning rate follows the time
    used, so that a run ends cooled down when its time is over."""

    def progress(self, step: int, elapsed: float) -> float:
        """Share done, 0..1, after `step` steps and `elapsed` seconds."""
        if self.budget_minutes is not None:
            return min(1.0, elapsed / (60 * self.budget_minutes))
        return min(1.0, step / self.steps)


class LearningRate(BaseModel):
    """A learning rate that rises, stays or falls."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    peak: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-3
    """Learning rate after the warm-up."""
    warmup: Annotated[int, Field(ge=0)] = 100
    """Steps of linear rise from 0."""
    decay: Literal["cosine", "linear", "wsd", "constant"] = "cosine"
    """How it falls from peak to floor: over the whole run along a cosine or a line; "wsd" = only in the last fifth
    (warm-up, stable, decay); "constant" = not."""
    floor: Annotated[float, Field(ge=0, le=1)] = 0.02
    """Share of the peak that is left at the end."""

    def at(self, step: int, progress: float) -> float:
        """Learning rate of step `step` (from 0) at `progress` 0..1 of the stage."""
        match self.decay:
            case "cosine":
                level = 0.5 * (1 + math.cos(math.pi * progress))
            case "linear":
                level = 1 - progress
            case "wsd":
                level = min(1.0, 5 * (1 - progress))
            case "constant":
                level = 1.0
        rise = min(1.0, (step + 1) / self.warmup) if self.warmup else 1.0
        return self.peak * rise * (self.floor + (1 - self.floor) * level)


class Clock:
    """Seconds of training, counted across interruptions."""

    def __init__(self, before: float = 0.0) -> None:
        self._before, self._start = before, time.monotonic()

    @property
    def elapsed(self) -> float:
        return self._before + time.monotonic() - self._start

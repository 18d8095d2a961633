"""Keyword arguments that all verbs of `Pipeline` share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

import torch

from smalti.sampling import SamplerOptions

if TYPE_CHECKING:
    from smalti.pipeline.pipeline import Pipeline

StepCallback = Callable[["Pipeline", int, int, dict[str, Any]], dict[str, Any]]
"""`(pipe, step, cells left, {"codes": (n, h, w)}) -> the same dict`, whose codes may have been edited."""


class Options(TypedDict, total=False):
    """Keyword arguments that all verbs share."""

    num_images: int
    seed: int
    generator: torch.Generator | Sequence[torch.Generator] | None
    preset: str
    num_inference_steps: int
    order: str
    schedule: str
    label: str | int | Sequence[str | int] | None
    guidance: float
    guidance_schedule: str
    temperature: float
    top_k: int
    top_p: float
    windows: str
    overlap: int
    sampler: SamplerOptions
    callback_on_step_end: StepCallback | None
    record_history: bool
    paste_original: bool
    feather: int

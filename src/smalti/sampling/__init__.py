"""Fills empty cells: the one engine behind every verb.

It sees a network only through the `Denoiser` protocol. It knows codes, windows, orders and probabilities; no
tokenizer, no pixels, no files, no progress bar: `fill_steps` yields, and whoever consumes it shows, stops or saves.
"""

from __future__ import annotations

from smalti.sampling.denoiser import Denoiser
from smalti.sampling.fill import FillStep, fill, fill_steps
from smalti.sampling.guidance import GUIDANCE_SCHEDULES, GuidedDenoiser
from smalti.sampling.options import PRESETS, SamplerOptions
from smalti.sampling.orders import ORDERS, Order
from smalti.sampling.plan import RevealPlan, make_plan
from smalti.sampling.schedules import SCHEDULES, Schedule
from smalti.sampling.scoring import elbo_bits, score_plan, surprise

__all__ = [
    "GUIDANCE_SCHEDULES",
    "ORDERS",
    "PRESETS",
    "SCHEDULES",
    "Denoiser",
    "FillStep",
    "GuidedDenoiser",
    "Order",
    "RevealPlan",
    "SamplerOptions",
    "Schedule",
    "elbo_bits",
    "fill",
    "fill_steps",
    "make_plan",
    "score_plan",
    "surprise",
]

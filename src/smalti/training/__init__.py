"""Training of both stages, from a recipe to a model folder. Knows nothing of verbs, servers or terminals' looks."""

from __future__ import annotations

from smalti.training.prior_stage import PriorOptions, train_prior
from smalti.training.progress import Progress, Report, SilentProgress
from smalti.training.runs import RunFolder
from smalti.training.schedules import LearningRate
from smalti.training.tokenizer_stage import Losses, TokenizerOptions, train_tokenizer

__all__ = [
    "LearningRate",
    "Losses",
    "PriorOptions",
    "Progress",
    "Report",
    "RunFolder",
    "SilentProgress",
    "TokenizerOptions",
    "train_prior",
    "train_tokenizer",
]

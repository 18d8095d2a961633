"""Training of both stages, from a recipe to a model folder. Knows nothing of verbs, servers or terminals' looks."""

from __future__ import annotations

from smalti.training.prior_stage import PriorOptions, train_prior
from smalti.training.runs import RunFolder
from smalti.training.schedules import LearningRate, Length

__all__ = ["LearningRate", "Length", "PriorOptions", "RunFolder", "train_prior"]

"""Training of both stages, from a recipe to a model folder. Knows nothing of verbs, servers or terminals' looks."""

from __future__ import annotations

from smalti.training.losses import Losses
from smalti.training.own_pictures import recipe_for
from smalti.training.parallel import leads
from smalti.training.prior_stage import PriorOptions, train_prior
from smalti.training.progress import Progress, Report, SilentProgress
from smalti.training.recipe import Recipe, load_recipe, preset_names
from smalti.training.run import export, train
from smalti.training.runs import RunFolder
from smalti.training.schedules import LearningRate
from smalti.training.tokenizer_stage import TokenizerOptions, train_tokenizer

__all__ = [
    "LearningRate",
    "Losses",
    "PriorOptions",
    "Progress",
    "Recipe",
    "Report",
    "RunFolder",
    "SilentProgress",
    "TokenizerOptions",
    "export",
    "leads",
    "load_recipe",
    "preset_names",
    "recipe_for",
    "train",
    "train_prior",
    "train_tokenizer",
]

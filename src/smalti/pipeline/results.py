"""What comes out of a pipeline one at a time: a finished picture, a score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from PIL import Image

from smalti.pipeline.output import HistoryStep


@dataclass(frozen=True)
class Result:
    """One finished picture."""

    index: int
    image: Image.Image
    codes: torch.Tensor
    """int64 `(h, w)`."""
    seed: int
    history: list[HistoryStep]
    """Steps of this image alone, when they were recorded."""


@dataclass(frozen=True)
class Score:
    """How likely the model finds a picture."""

    bits_per_token: float
    """Upper bound on -log2 p(codes) / cells, by stratified ELBO."""
    bits_per_dim: float
    """The same per colour value of the picture."""
    surprise: torch.Tensor
    """float `(h, w)`: -log2 p(code | all others) of every cell."""
    image: Image.Image
    """The surprise as a map, the size of the picture."""

"""Classes during training: which picture has which, and which of them the prior is not told."""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smalti.errors import UsageError

NO_LABEL: Final = -1
"""The label of a picture of which the class is not told: to the network, the mask token."""
Labels = npt.NDArray[np.integer[Any]]


def resident_labels(labels: Labels, count: int, classes: int, device: torch.device) -> Tensor:
    """int64 `(count,)` on the device. Raises UsageError if they do not fit `count` pictures and `classes` classes."""
    if labels.shape != (count,):
        raise UsageError(f"{count} pictures need {count} labels, not an array of shape {labels.shape}")
    if labels.min() < NO_LABEL or labels.max() >= classes:
        raise UsageError(f"labels reach from {labels.min()} to {labels.max()}; the prior has {classes} classes")
    return torch.from_numpy(labels.astype(np.int64)).to(device)


def dropped(labels: Tensor, share: float, seed: int) -> Tensor:
    """`labels` `(batch,)` with about `share` of them replaced by `NO_LABEL`, so that one network learns both what a
    class looks like and what any picture does (Ho & Salimans, arXiv 2207.12598).

    Which ones depends on the seed and the place in the batch, not on the device or on how the batch is cut.
    """
    kept = torch.rand(len(labels), generator=torch.Generator().manual_seed(seed)) >= share
    return labels.masked_fill(~kept.to(labels.device), NO_LABEL)

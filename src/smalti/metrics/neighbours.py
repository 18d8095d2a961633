"""Nearest neighbours in feature space: has the model invented a picture, or remembered one?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.errors import UsageError

CHUNK = 256
"""Rows of a distance matrix held at a time."""


@dataclass(frozen=True)
class Neighbours:
    """For each query, its nearest references, nearest first."""

    indices: Tensor
    """int64 `(n, k)`: rows of the references."""
    distances: Tensor
    """float64 `(n, k)`: Euclidean, in units of the features."""


def nearest(queries: Tensor, references: Tensor, k: int = 1) -> Neighbours:
    """The `k` nearest of `references` `(m, d)` to each of `queries` `(n, d)`; of equal ones the first."""
    if not 1 <= k <= len(references):
        raise UsageError(f"k must be 1..{len(references)}, the number of references, not {k}", field="k")
    found = [strip.sort(dim=1, stable=True) for _, strip in distance_strips(queries, references)]
    distances = torch.cat([f.values[:, :k] for f in found])
    return Neighbours(torch.cat([f.indices[:, :k] for f in found]), distances)


def distance_strips(x: Tensor, y: Tensor, chunk: int = CHUNK) -> Iterator[tuple[int, Tensor]]:
    """Euclidean distances, float64, as (first row, `(<= chunk, m)`).

    Differences are squared and summed as such: the faster `|x|^2 + |y|^2 - 2 x.y` cancels between near pictures, and
    the distance of a pair would depend on which of the two comes first.
    """
    if x.ndim != 2 or x.shape[1:] != y.shape[1:]:
        raise UsageError(f"features {tuple(x.shape)} and {tuple(y.shape)} cannot be compared")
    x, y = x.double(), y.double()
    for first in range(0, len(x), chunk):
        rows = x[first : first + chunk]
        yield first, torch.cdist(rows, y, compute_mode="donot_use_mm_for_euclid_dist")

"""Precision, recall, density and coverage: is what is made plausible, and is everything there is made?

Precision and recall: Kynkäänniemi et al. (NeurIPS 2019); density and coverage: Naeem et al. (ICML 2020). Around every
picture lies a ball that reaches to its k-th nearest neighbour in its own set, the picture itself not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.metrics.neighbours import CHUNK, distance_strips


@dataclass(frozen=True)
class PRDC:
    """All four depend on k and on the sizes of the sets, so they travel together."""

    precision: float
    """Share of made pictures inside any ball of a real one, 0..1."""
    recall: float
    """Share of real pictures inside any ball of a made one, 0..1."""
    density: float
    """Balls of real pictures around a made picture, over k: about 1 for equal distributions, not bounded by 1."""
    coverage: float
    """Share of real pictures whose ball holds a made one, 0..1."""
    k: int
    real: int
    """Number of real pictures."""
    made: int
    """Number of made pictures."""


def prdc(real: Tensor, made: Tensor, k: int = 3, *, chunk: int = CHUNK) -> PRDC:
    """Of features `(n, d)` and `(m, d)`, in float64; memory grows with `chunk` times the larger set.

    Raises UsageError if a set has no k-th neighbour (k >= its size).
    """
    if not 1 <= k < min(len(real), len(made)):
        raise UsageError(f"k must be at least 1 and less than both sets ({len(real)}, {len(made)}), not {k}", field="k")
    real_radii, made_radii = radii(real, k, chunk=chunk), radii(made, k, chunk=chunk)
    balls_around_made = torch.zeros(len(made), dtype=torch.int64)
    recalled = covered = 0
    for first, apart in distance_strips(real, made, chunk):
        radius = real_radii[first : first + len(apart), None]
        balls_around_made += (apart < radius).sum(0)
        recalled += int((apart < made_radii).any(1).sum())
        covered += int((apart < radius).any(1).sum())
    return PRDC(
        precision=float((balls_around_made > 0).double().mean()),
        recall=recalled / len(real),
        density=float(balls_around_made.double().mean()) / k,
        coverage=covered / len(real),
        k=k,
        real=len(real),
        made=len(made),
    )


def radii(features: Tensor, k: int, *, chunk: int = CHUNK) -> Tensor:
    """Distance of each of `(n, d)` to its k-th nearest neighbour, float64 `(n,)`: the k+1-th smallest with itself."""
    return torch.cat([strip.kthvalue(k + 1, dim=1).values for _, strip in distance_strips(features, features, chunk)])

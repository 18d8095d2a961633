"""Fréchet distance between two sets of features, as Gaussians (Dowson & Landau 1982; Heusel et al., NeurIPS 2017)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from smalti.errors import UsageError


class Moments(NamedTuple):
    """Mean and covariance of features, float64."""

    mean: Tensor
    """`(d,)`."""
    covariance: Tensor
    """`(d, d)`, divided by count - 1."""
    size: int
    """Pictures behind them."""


def moments(features: Tensor) -> Moments:
    """Of features `(n, d)`. Raises UsageError for fewer than 2 rows."""
    if features.ndim != 2 or len(features) < 2:
        raise UsageError(f"a covariance needs at least 2 feature vectors (n, d), not {tuple(features.shape)}")
    x = features.double()
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1), len(x))


def frechet_distance(a: Moments, b: Moments) -> float:
    """`|m1 - m2|^2 + Tr(S1 + S2 - 2 (S1 S2)^(1/2))`, in squared units of the features; >= 0 up to rounding.

    It grows as the sets shrink (bias about c / n), so compare only numbers of equal counts.
    """
    if a.mean.shape != b.mean.shape:
        raise UsageError(f"features of {len(a.mean)} and {len(b.mean)} numbers cannot be compared")
    apart = (a.mean - b.mean).square().sum()
    trace = a.covariance.trace() + b.covariance.trace() - 2 * trace_of_root(a.covariance, b.covariance)
    return float(apart + trace)


def trace_of_root(s1: Tensor, s2: Tensor) -> float:
    """`Tr (S1 S2)^(1/2)` for symmetric positive semidefinite matrices, float64.

    S1 S2 has the eigenvalues of the symmetric `S1^(1/2) S2 S1^(1/2)`: no square root of an unsymmetric matrix, no
    imaginary parts, and nothing is added to the diagonal of singular ones. Eigenvalues below rounding (d eps times the
    largest) are taken as 0, because their roots would not be small: sqrt(1e-16) = 1e-8, d times.
    """
    values, vectors = torch.linalg.eigh(_symmetric(s1.double()))
    root = (vectors * _significant(values).sqrt()) @ vectors.T
    inner = torch.linalg.eigvalsh(_symmetric(root @ _symmetric(s2.double()) @ root))
    return float(_significant(inner).sqrt().sum())


def _significant(eigenvalues: Tensor) -> Tensor:
    floor = len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues.abs().max()
    return torch.where(eigenvalues > floor, eigenvalues, torch.zeros_like(eigenvalues))


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2

"""Fréchet distance against closed forms and against the reference's matrix square root."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.metrics import Moments, frechet_distance, moments
from smalti.metrics.frechet import trace_of_root


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def reference(a: Moments, b: Moments) -> float:
    """The formula as published, with scipy's square root of the unsymmetric product."""
    linalg = pytest.importorskip("scipy.linalg")
    root = linalg.sqrtm((a.covariance @ b.covariance).numpy()).real
    apart = (a.mean - b.mean).square().sum()
    return float(apart + a.covariance.trace() + b.covariance.trace() - 2 * np.trace(root))


def rotated(values: list[float], seed: int) -> Tensor:
    q = torch.linalg.qr(normal(len(values), len(values), seed)).Q
    return q @ torch.diag(torch.tensor(values, dtype=torch.float64)) @ q.T


def test_moments_are_those_of_numpy() -> None:
    x = normal(30, 4, 0)
    m = moments(x.float())
    assert m.size == 30
    assert np.allclose(m.mean, x.mean(0), atol=1e-6)
    assert np.allclose(m.covariance, np.cov(x.numpy().T), atol=1e-6)
    assert m.covariance.dtype == torch.float64


def test_gaussians_with_common_axes_have_a_closed_form() -> None:
    """|m1 - m2|^2 + sum (sqrt(v1) - sqrt(v2))^2."""
    v1, v2 = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 0.0, 1.0]).double()
    a = Moments(torch.tensor([0.0, 1.0, 2.0]).double(), torch.diag(v1), 10)
    b = Moments(torch.tensor([3.0, 1.0, 0.0]).double(), torch.diag(v2), 10)
    assert frechet_distance(a, b) == pytest.approx(9 + 4 + (v1.sqrt() - v2.sqrt()).square().sum().item(), rel=1e-12)


@pytest.mark.parametrize(("d", "n", "m"), [(8, 200, 300), (40, 60, 100), (64, 500, 70)])
def test_agrees_with_the_reference_on_random_covariances(d: int, n: int, m: int) -> None:
    mix = normal(d, d, 1)
    a, b = moments(normal(n, d, 2) @ mix), moments(normal(m, d, 3) @ mix * 1.3 + 0.2)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-6)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


@pytest.mark.parametrize("least", [1e-6, 1e-9, 1e-12])
def test_agrees_with_the_reference_near_singularity(least: float) -> None:
    a = Moments(torch.zeros(40).double(), rotated([1.0] * 20 + [least] * 20, 4), 99)
    b = Moments(torch.ones(40).double(), rotated([2.0] * 20 + [least] * 20, 5), 99)
    assert frechet_distance(a, b) == pytest.approx(reference(a, b), rel=1e-6)


def test_fewer_pictures_than_features_needs_no_diagonal_added() -> None:
    """Of singular covariances the trace is exactly the nuclear norm of the product of the centred features."""
    x, y = normal(20, 50, 6), normal(30, 50, 7) * 2
    a, b = moments(x), moments(y)
    product = ((x - x.mean(0)) / 19**0.5) @ ((y - y.mean(0)) / 29**0.5).T
    exact = torch.linalg.svdvals(product).sum().item()
    assert trace_of_root(a.covariance, b.covariance) == pytest.approx(exact, rel=1e-10)


def test_equal_sets_are_at_distance_zero() -> None:
    m = moments(normal(30, 60, 8))
    assert abs(frechet_distance(m, m)) < 1e-6 * m.covariance.trace().item()


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(UsageError, match="at least 2"):
        moments(torch.zeros(1, 3))
    with pytest.raises(UsageError, match="3 and 4 numbers"):
        frechet_distance(moments(normal(5, 3, 0)), moments(normal(5, 4, 0)))

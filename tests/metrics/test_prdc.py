"""Precision, recall, density, coverage and neighbours against brute force and known arrangements."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.metrics import nearest, prdc


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(real: np.ndarray, made: np.ndarray, k: int) -> tuple[float, float, float, float]:
    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(((a - b) ** 2).sum()))

    def radius(i: int, points: np.ndarray) -> float:
        return sorted(apart(points[i], points[j]) for j in range(len(points)) if j != i)[k - 1]

    r = [radius(i, real) for i in range(len(real))]
    m = [radius(j, made) for j in range(len(made))]
    d = [[apart(x, y) for y in made] for x in real]
    n, each = len(real), range(len(made))
    precision = np.mean([any(d[i][j] < r[i] for i in range(n)) for j in each])
    recall = np.mean([any(d[i][j] < m[j] for j in each) for i in range(n)])
    density = sum(d[i][j] < r[i] for i in range(n) for j in each) / (k * len(made))
    coverage = np.mean([min(d[i]) < r[i] for i in range(n)])
    return float(precision), float(recall), float(density), float(coverage)


@pytest.mark.parametrize(("n", "m", "k"), [(30, 20, 3), (17, 40, 5), (9, 9, 1), (6, 8, 5)])
@pytest.mark.parametrize("chunk", [1, 7, 256])
def test_equals_brute_force(n: int, m: int, k: int, chunk: int) -> None:
    real, made = normal(n, 3, n), normal(m, 3, m) * 0.8 + 0.3
    got = prdc(real, made, k, chunk=chunk)
    expected = brute_force(real.numpy(), made.numpy(), k)
    assert (got.precision, got.recall, got.density, got.coverage) == pytest.approx(expected, abs=1e-15)
    assert (got.k, got.real, got.made) == (k, n, m)


def test_equals_the_reference_package() -> None:
    package = pytest.importorskip("prdc")
    real, made = normal(200, 16, 0), normal(150, 16, 1) * 0.9
    expected = package.compute_prdc(real.numpy(), made.numpy(), nearest_k=5)
    got = prdc(real, made, 5)
    for name in ("precision", "recall", "density", "coverage"):
        assert getattr(got, name) == pytest.approx(expected[name], abs=1e-6)


def test_a_copy_is_perfect_and_a_stranger_worthless() -> None:
    real = normal(50, 4, 0)
    copy = prdc(real, real.clone(), 3)
    # ties are exact: the k-th neighbour of x lies on the ball of x, not in it; so k balls hold x: its own and k - 1
    assert (copy.precision, copy.recall, copy.coverage) == (1, 1, 1)
    assert copy.density == 1
    far = prdc(real, real + 1000, 3)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_one_mode_of_two_has_precision_but_half_the_coverage() -> None:
    left, right = normal(100, 2, 1), normal(100, 2, 2) + 100
    got = prdc(torch.cat([left, right]), normal(200, 2, 3), 3)
    assert got.precision > 0.9
    assert 0.4 < got.coverage <= 0.5
    assert got.recall <= 0.5


@pytest.mark.parametrize("k", [0, 5, 6])
def test_k_without_a_neighbour_is_refused(k: int) -> None:
    with pytest.raises(UsageError, match="less than both sets"):
        prdc(normal(5, 2, 0), normal(9, 2, 0), k)


def test_nearest_equals_brute_force_in_any_chunk() -> None:
    x, y = normal(300, 5, 0), normal(40, 5, 1)  # more queries than one chunk
    found = nearest(x, y, 3)
    apart = ((x[:, None] - y[None]) ** 2).sum(-1).sqrt().numpy()
    order = np.argsort(apart, axis=1, kind="stable")[:, :3]
    assert np.array_equal(found.indices, order)
    assert np.allclose(found.distances, np.take_along_axis(apart, order, 1), rtol=1e-12)


def test_a_remembered_picture_is_at_distance_zero() -> None:
    training = normal(30, 8, 0) + 1e4  # where |x|^2 - 2 x.y + |y|^2 would cancel
    found = nearest(training[[7, 3]], training, 1)
    assert found.indices.flatten().tolist() == [7, 3]
    assert float(found.distances.abs().max()) == 0


def test_more_neighbours_than_references_are_refused() -> None:
    with pytest.raises(UsageError, match=r"1\.\.4"):
        nearest(normal(2, 2, 0), normal(4, 2, 0), 5)

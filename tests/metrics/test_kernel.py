"""Kernel distance against brute force, and its interval against repetition."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.metrics import kernel_distance


def normal(n: int, d: int, seed: int) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute_force(x: Tensor, y: Tensor) -> float:
    def k(a: Tensor, b: Tensor) -> float:
        return (sum(float(p) * float(q) for p, q in zip(a, b, strict=True)) / len(a) + 1) ** 3

    def within(z: Tensor) -> float:
        pairs = [k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(pairs) / len(pairs)

    return within(x) + within(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


@pytest.mark.parametrize(("n", "m", "blocks"), [(4, 4, 50), (13, 9, 3), (20, 31, 50)])
def test_equals_brute_force(n: int, m: int, blocks: int) -> None:
    x, y = normal(n, 5, 0), normal(m, 5, 1) + 0.5
    assert kernel_distance(x, y, blocks=blocks).value == pytest.approx(brute_force(x, y), rel=1e-12, abs=1e-12)


def test_equals_the_mean_over_all_pairs_at_size() -> None:
    x, y = normal(300, 16, 2), normal(211, 16, 3) * 1.1
    k = [((a @ b.T / 16 + 1) ** 3).numpy() for a, b in ((x, x), (y, y), (x, y))]
    inside = [(m.sum() - np.trace(m)) / (len(m) * (len(m) - 1)) for m in k[:2]]
    assert kernel_distance(x, y).value == pytest.approx(inside[0] + inside[1] - 2 * k[2].mean(), rel=1e-10)


def test_is_unbiased_and_its_interval_has_the_right_width() -> None:
    """For x ~ N(0, 1), y ~ N(1, 1) in one dimension, E k = E (1 + x y)^3 follows from moments."""
    found = [kernel_distance(normal(120, 1, s), normal(120, 1, 1000 + s) + 1, resamples=200) for s in range(120)]
    values = np.array([f.value for f in found])
    # E(1+xx')^3 = 1 + 3 E[x]^2 + 3 E[x^2]^2 + E[x^3]^2: 4 for N(0,1), 1 + 3 + 12 + 16 = 32 for N(1,1), 1 + 6 = 7 across
    truth = 4 + 32 - 2 * 7
    assert abs(values.mean() - truth) < 4 * values.std() / len(values) ** 0.5
    assert np.mean([f.standard_error for f in found]) == pytest.approx(values.std(), rel=0.25)
    assert np.mean([f.low <= truth <= f.high for f in found]) > 0.8


def test_equal_distributions_are_near_zero_on_both_sides() -> None:
    pairs = [(normal(60, 8, s), normal(60, 8, 500 + s)) for s in range(60)]
    values = np.array([kernel_distance(x, y, resamples=10).value for x, y in pairs])
    assert abs(values.mean()) < 4 * values.std() / 60**0.5
    assert (values < 0).any()


def test_the_seed_decides_the_interval_and_only_that() -> None:
    x, y = normal(40, 3, 0), normal(40, 3, 1)
    assert kernel_distance(x, y, seed=1) == kernel_distance(x, y, seed=1)
    one, two = kernel_distance(x, y, seed=1), kernel_distance(x, y, seed=2)
    assert one.value == two.value
    assert one.low != two.low


def test_few_pictures_are_refused() -> None:
    with pytest.raises(UsageError, match="4 or more"):
        kernel_distance(normal(3, 2, 0), normal(9, 2, 0))

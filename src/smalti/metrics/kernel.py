"""Kernel distance (KID): squared maximum mean discrepancy with a cubic kernel, unbiased, with a confidence interval.

Binkowski et al., "Demystifying MMD GANs" (ICLR 2018): `k(x, y) = (x.y / d + 1)^3`. The reference averages over random
subsets; here the U-statistic uses all pairs, which has less variance, and its uncertainty comes from a bootstrap over
blocks of pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.randomness import Purpose, uniforms

Matrix = npt.NDArray[np.float64]


@dataclass(frozen=True)
class KernelDistance:
    """An estimate of the squared MMD."""

    value: float
    """Unbiased: near 0 for equal distributions, and then as often below 0 as above."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    """Upper end of the 95 % interval."""
    standard_error: float
    """Standard deviation over bootstrap resamples."""


def polynomial(x: Tensor, y: Tensor) -> Tensor:
    """`(x.y / d + 1)^3`, float64 `(n, m)`, of features `(n, d)` and `(m, d)`."""
    return (x.double() @ y.double().T / x.shape[1] + 1) ** 3


def kernel_distance(
    x: Tensor, y: Tensor, *, blocks: int = 50, resamples: int = 1000, seed: int = 0
) -> KernelDistance:
    """Squared MMD of features `(n, d)` and `(m, d)`, with a 95 % percentile interval.

    `mean_(i != j) k(x_i, x_j) + mean_(i != j) k(y_i, y_j) - 2 mean k(x_i, y_j)`. The bootstrap draws whole blocks of
    consecutive pictures (at most `blocks` per set, of at least 2), both sets independently; a picture is never paired
    with its own copy, which would bias the resamples. Raises UsageError for fewer than 4 pictures in a set.
    """
    if x.shape[1:] != y.shape[1:] or min(len(x), len(y)) < 4:
        raise UsageError(f"a kernel distance needs 4 or more features of one size: {tuple(x.shape)}, {tuple(y.shape)}")
    cuts_x, cuts_y = _cuts(len(x), blocks), _cuts(len(y), blocks)
    xx, yy, xy = _sums(x, x, cuts_x, cuts_x), _sums(y, y, cuts_y, cuts_y), _sums(x, y, cuts_x, cuts_y)
    each_x, each_y = np.diff(cuts_x).astype(np.float64), np.diff(cuts_y).astype(np.float64)
    pairs_x, pairs_y = _pairs(each_x), _pairs(each_y)

    def estimate(wx: Matrix, wy: Matrix) -> Matrix:
        """Of block weights `(r, b)`: one number per resample."""
        within_x = _quadratic(wx, xx, wx) / _quadratic(wx, pairs_x, wx)
        within_y = _quadratic(wy, yy, wy) / _quadratic(wy, pairs_y, wy)
        return within_x + within_y - 2 * _quadratic(wx, xy, wy) / ((wx @ each_x) * (wy @ each_y))

    value = float(estimate(np.ones((1, len(xx))), np.ones((1, len(yy))))[0])
    again = estimate(_resampled(len(xx), resamples, seed, 0), _resampled(len(yy), resamples, seed, 1))
    low, high = np.quantile(again, [0.025, 0.975])
    return KernelDistance(value, float(low), float(high), float(again.std(ddof=1)))


def _cuts(count: int, blocks: int) -> npt.NDArray[np.int64]:
    """Bounds of blocks of nearly equal size, each of at least 2 pictures."""
    number = max(2, min(blocks, count // 2))
    return np.arange(number + 1) * count // number


def _sums(x: Tensor, y: Tensor, cuts_x: npt.NDArray[np.int64], cuts_y: npt.NDArray[np.int64]) -> Matrix:
    """Kernel summed over every pair of blocks, float64 `(b, c)`; of a set with itself without the diagonal."""
    out = np.zeros((len(cuts_x) - 1, len(cuts_y) - 1))
    for a in range(len(out)):  # one strip of the kernel matrix at a time bounds the memory
        first, last = int(cuts_x[a]), int(cuts_x[a + 1])
        strip = polynomial(x[first:last], y)
        if x is y:
            strip[torch.arange(last - first), torch.arange(first, last)] = 0
        out[a] = np.add.reduceat(strip.sum(0).numpy(), cuts_y[:-1])
    return out


def _pairs(each: Matrix) -> Matrix:
    """Ordered pairs of different pictures per pair of blocks."""
    return np.outer(each, each) - np.diag(each)


def _quadratic(left: Matrix, matrix: Matrix, right: Matrix) -> Matrix:
    out: Matrix = np.einsum("ra,ab,rb->r", left, matrix, right, optimize=True)
    return out


def _resampled(blocks: int, resamples: int, seed: int, which: int) -> Matrix:
    """How often each block is drawn, `(resamples, blocks)`."""
    chosen = (uniforms(seed, Purpose.CHOOSE, np.arange(resamples * blocks), which) * blocks).astype(np.int64)
    rows = np.repeat(np.arange(resamples), blocks)
    return np.bincount(rows * blocks + chosen, minlength=resamples * blocks).reshape(resamples, blocks).astype(float)

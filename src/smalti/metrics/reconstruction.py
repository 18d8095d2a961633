"""What a picture loses on its way through the codes, and whether the whole codebook is used."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.data import as_images
from smalti.errors import UsageError
from smalti.metrics.efficientnet import EfficientNetLite0, feature_distance
from smalti.metrics.features import Pixels
from smalti.types import Codes

WINDOW, SIGMA = 11, 1.5
K1, K2 = 0.01, 0.03


def psnr(a: Pixels, b: Pixels) -> Tensor:
    """Peak signal-to-noise ratio of each pair, dB, float64 `(n,)`: `10 log10(255^2 / mean squared error)`, over all
    pixels and channels; infinite for equal pictures.
    """
    x, y = _pair(a, b)
    return 10 * torch.log10(255**2 / (x - y).square().mean((1, 2, 3)))


def ssim(a: Pixels, b: Pixels) -> Tensor:
    """Structural similarity of each pair, float64 `(n,)`, 1 for equal pictures (Wang et al., IEEE TIP 2004).

    Gaussian window of 11x11 pixels, sigma 1.5, K1 0.01, K2 0.03, population variances, only windows that lie inside
    the picture, on red, green and blue apart, then averaged. Raises UsageError for sides below 11 pixels.
    """
    x, y = _pair(a, b)
    if min(x.shape[-2:]) < WINDOW:
        raise UsageError(f"SSIM needs pictures of at least {WINDOW}x{WINDOW} pixels")
    mx, my = _blur(x), _blur(y)
    vx, vy, cov = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
    c1, c2 = (K1 * 255) ** 2, (K2 * 255) ** 2
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return index.mean((1, 2, 3))


@torch.inference_mode()
def perceptual_distance(net: EfficientNetLite0, a: Pixels, b: Pixels) -> Tensor:
    """How far apart a classifier sees each pair, float64 `(n,)`: the form of LPIPS with equal weights on
    EfficientNet-Lite0, not LPIPS itself, and its numbers are not comparable with those.
    """
    device = next(net.parameters()).device
    ours, _ = net.features(as_images(a, device))
    theirs, _ = net.features(as_images(b, device))
    return feature_distance(ours, theirs).cpu().double().clone()


class CodebookUse(NamedTuple):
    """How evenly the codes of a set of grids are used."""

    usage: float
    """Share of the K codes that occur at all, 0..1; at most cells / K."""
    perplexity: float
    """`2^(entropy of the codes in bits)`, 1..K: the number of equally used codes with that entropy."""


def codebook_use(codes: Codes, codebook_size: int) -> CodebookUse:
    """Of grids `(n, h, w)`. The entropy is that of the counts, which is too low by about K / 2n nats for n cells."""
    counts = torch.bincount(codes.flatten(), minlength=codebook_size).double()
    p = counts[counts > 0] / counts.sum()
    return CodebookUse(float((counts > 0).double().mean()), float(torch.exp(-(p * p.log()).sum())))


def _pair(a: Pixels, b: Pixels) -> tuple[Tensor, Tensor]:
    if a.shape != b.shape:
        raise UsageError(f"pictures {a.shape} and {b.shape} cannot be compared")
    x, y = (torch.from_numpy(p.astype("float64")).permute(0, 3, 1, 2) for p in (a, b))
    return x, y


def _blur(x: Tensor) -> Tensor:
    """Gaussian means over all windows that lie inside, one axis after the other."""
    at = torch.arange(WINDOW, dtype=torch.float64) - WINDOW // 2
    weights = torch.exp(-at.square() / (2 * SIGMA**2))
    weights = (weights / weights.sum()).expand(x.shape[1], 1, -1)
    down = F.conv2d(x, weights[:, :, :, None], groups=x.shape[1])
    return F.conv2d(down, weights[:, :, None, :], groups=x.shape[1])

"""How far a reconstruction is from its picture."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.types import Images


def gradient_loss(difference: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels' slopes, along rows plus along columns: keeps edges sharp.

    difference: reconstruction - picture, `(n, 3, H, W)`.
    """
    across = difference[..., 1:] - difference[..., :-1]
    down = difference[..., 1:, :] - difference[..., :-1, :]
    return across.abs().mean() + down.abs().mean()


def psnr(images: Images, targets: Images) -> Tensor:
    """Peak signal-to-noise ratio in dB per picture `(n,)`, on 8-bit values as they would be saved."""
    ours = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    theirs = ((targets.float() + 1) * 127.5).round()
    error = (ours - theirs).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return 10 * torch.log10(255.0**2 / error)


def perplexity(counts: Tensor) -> float:
    """exp(entropy) of code counts `(K,)`: as many equally used codes would be as varied. 1 = one code only."""
    p = counts.double() / counts.sum().clamp(min=1)
    return float(torch.exp(-(p * torch.log(p.clamp(min=1e-30))).sum()))

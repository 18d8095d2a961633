"""Which cells are hidden from the network while it learns, and in which proportion.

Two families: masks with an exact count per sample (ours; counts stratified over the batch), and the paper's, where each
cell is masked independently with probability t/T or a fixed share is. Everything is a pure function of given uniforms,
so that a test, a resumed run and another device see the same masks. Functions keep the device of their input.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from smalti.types import EMPTY, Codes

RatioLaw = Literal["beta", "uniform", "cosine", "arccos"]
"""Law of the masked share: Beta(2,2) (= the paper's reweighting), uniform (= likelihood), MaskGIT's, its inverse."""


class Noised(NamedTuple):
    """Codes with some cells hidden: what the network sees, and what it is asked."""

    codes: Codes
    """int64 like the clean codes, `EMPTY` where masked."""
    mask: Tensor
    """bool like `codes`, True = masked."""


def hide(codes: Codes, mask: Tensor) -> Noised:
    """`codes` with `EMPTY` where `mask` is True; the given tensors stay as they are."""
    return Noised(codes.masked_fill(mask, EMPTY), mask)


# --- how many ---------------------------------------------------------------------------------------------------------


def beta22_quantile(u: Tensor) -> Tensor:
    """Inverse CDF of Beta(2,2): the root in 0..1 of 3 r^2 - 2 r^3 = u, by the trigonometric solution of the cubic."""
    return 0.5 - torch.sin(torch.asin((1 - 2 * u).clamp(-1, 1)) / 3)


def quantile(law: RatioLaw, u: Tensor) -> Tensor:
    """Masked share in 0..1 at probability u of `law`."""
    match law:
        case "beta":
            return beta22_quantile(u)
        case "uniform":
            return u
        case "cosine":  # MaskGIT: most samples nearly full of masks
            return torch.cos(0.5 * math.pi * u)
        case "arccos":
            return torch.arccos(u.clamp(0, 1)) / (0.5 * math.pi)


def stratified(n: int, shared: float) -> Tensor:
    """One point in each n-th part of 0..1: (i + shared) / n, float64 `(n,)`; `shared` uniform in [0, 1)."""
    return (torch.arange(n, dtype=torch.float64) + shared) / n


def mask_counts(ratios: Tensor, cells: int) -> Tensor:
    """Masked cells per sample, int64 in 1..cells: floor(ratio * cells) + 1, which is uniform for uniform ratios."""
    return ((ratios * cells).floor().long() + 1).clamp(1, cells)


# --- which ------------------------------------------------------------------------------------------------------------


def exact_masks(counts: Tensor, uniforms: Tensor) -> Tensor:
    """Masks with exactly `counts[i]` True cells at uniformly random places.

    counts: int64 `(n,)`; uniforms: `(n, N)` -> bool `(n, N)`. The cells with the smallest uniforms are masked.
    """
    order = uniforms.argsort(dim=1)  # (n, N)
    first = torch.arange(uniforms.shape[1], device=uniforms.device) < counts[:, None]
    return torch.zeros_like(first).scatter_(1, order, first)


def complementary_pairs(masks: Tensor) -> Tensor:
    """`(n, ...)` -> `(2n, ...)`: each mask, then each complement, so that every cell is asked exactly once."""
    return torch.cat([masks, ~masks])


# --- the paper's ------------------------------------------------------------------------------------------------------


def q_sample(codes: Codes, t: Tensor, total_steps: int, uniforms: Tensor) -> Noised:
    """The forward process: each cell is masked with probability t/T (paper, section 3.2), i.e. where u < t/T.

    codes: `(n, ...)`; t: int64 `(n,)` in 1..T; uniforms: float32 shaped like codes.
    """
    share = t.float().view(-1, *[1] * (codes.dim() - 1)) / total_steps
    return hide(codes, uniforms < share)


def fixed_counts(t: Tensor, total_steps: int, cells: int) -> Tensor:
    """Masked cells of the paper's "fixed" schedule: t/T of all, rounded half to even in float32, at least 1."""
    return (t.float() / total_steps * cells).round().long().clamp(min=1)


def q_sample_fixed(codes: Codes, t: Tensor, total_steps: int, uniforms: Tensor) -> Noised:
    """The "fixed" schedule: exactly `fixed_counts` cells at random places; arguments as in `q_sample`."""
    counts = fixed_counts(t, total_steps, codes[0].numel())
    return hide(codes, exact_masks(counts, uniforms.flatten(1)).view_as(codes))

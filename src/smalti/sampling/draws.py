"""One code from a distribution: temperature, top-k, top-p, and an exact draw by inverse CDF.

Everything is float64 and one uniform per cell decides: noise added in lower precision (Gumbel-max in float32 and
below) truncates the tails and silently lowers the temperature (Zheng et al., arXiv 2409.02908). Knows nothing of
grids, seeds or networks.
"""

from __future__ import annotations

import torch
from torch import Tensor


def exact_device(device: torch.device) -> torch.device:
    """Where float64 exists: `device` itself, or the CPU for devices without it (MPS)."""
    return torch.device("cpu") if device.type == "mps" else device


def probabilities(logits: Tensor) -> Tensor:
    """Float64 softmax of `(m, K)` logits of any precision, on a device that has float64."""
    return torch.softmax(logits.to(exact_device(logits.device)).double(), dim=-1)


def adjust(p: Tensor, *, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> Tensor:
    """The distribution that is drawn from, `(m, K)` float64 normalised, in this order:

    - temperature: `p^(1/temperature)`, that is logits divided by the temperature;
    - `top_k` > 0: only the k most likely codes (of equals, those of lower number);
    - `top_p` < 1: only the smallest set of most likely codes whose share of what is left reaches top_p.
    """
    if temperature != 1.0:
        p = (p / p.amax(-1, keepdim=True)) ** (1.0 / temperature)
    if 0 < top_k < p.shape[-1]:
        p = torch.where(_most_likely(p, top_k), p, 0.0)
    p = p / p.sum(-1, keepdim=True)
    if top_p < 1.0:
        p = _nucleus(p, top_p)
        p = p / p.sum(-1, keepdim=True)
    return p


def draw(p: Tensor, u: Tensor) -> Tensor:
    """The code at which the cumulative sum of `p` `(m, K)` passes `u` `(m,)` in [0, 1): int64 `(m,)`.

    Exact to 2^-53, and a code of probability 0 is never drawn.
    """
    cdf = p.cumsum(-1)
    total = cdf[:, -1:]
    # below the total even where rounding would reach it, so that the last code of probability 0 is out of reach
    target = torch.minimum(u.to(p.device).unsqueeze(-1) * total, torch.nextafter(total, torch.zeros_like(total)))
    code = torch.searchsorted(cdf, target, right=True).clamp_(max=p.shape[-1] - 1)
    # parallel sums on accelerators need not be monotone in their last bit
    possible = p.gather(-1, code) > 0
    return torch.where(possible, code, p.argmax(-1, keepdim=True)).squeeze(-1)


def _most_likely(p: Tensor, k: int) -> Tensor:
    smallest = p.topk(k, dim=-1).values[:, -1:]
    above, equal = p > smallest, p == smallest
    free = k - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= free))


def _nucleus(p: Tensor, top_p: float) -> Tensor:
    ranked, codes = p.sort(dim=-1, descending=True, stable=True)
    before = ranked.cumsum(-1) - ranked
    # a little slack: a share that reaches top_p up to rounding has reached it; the first code always stays
    keep = before < top_p - 1e-12
    keep[:, 0] = True
    return torch.zeros_like(p).scatter_(-1, codes, torch.where(keep, ranked, 0.0))

"""Attention among all cells of a window, and the two ways it is told where cells are and how it is computed.

Bidirectional multi-head attention (Vaswani et al., 2017) with optional query/key normalisation and axial rotary
positions (Su et al., 2021, applied to rows and columns separately). `attend` picks between two equal computations.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EXPLICIT_UP_TO = 512
"""Longest sequence for which the explicit product is used on a CPU in bfloat16; beyond it, memory matters more."""


def attend(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """softmax(q k^T / sqrt(c)) v.  q `(n, heads, m, c)`, k and v `(n, heads, N, c)` -> `(n, heads, m, c)`.

    On a CPU in bfloat16 the fused kernel reaches half the speed of three plain operations, so those are used there;
    everywhere else the fused kernel wins. Equal up to rounding.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= EXPLICIT_UP_TO:
        return explicit_attention(q, k, v, dropout)
    return F.scaled_dot_product_attention(q, k, v, dropout_p=dropout)


def explicit_attention(q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
    """`attend` as two batched products and a softmax, with the N x m weights in memory."""
    scores = torch.matmul(q * (1.0 / math.sqrt(q.shape[-1])), k.transpose(-2, -1))  # (n, heads, m, N)
    weights = F.dropout(scores.softmax(dim=-1), dropout, training=dropout > 0)
    return torch.matmul(weights, v)


def axial_phases(rows: Tensor, columns: Tensor, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosine and sine tables `(N, head_dim / 2)`: the first half of the pairs turns by row, the second by column.

    rows, columns: `(N,)` cell coordinates. Pair i of an axis turns by theta^(-i / pairs) radians per cell.
    """
    pairs = head_dim // 4
    speeds = theta ** (-torch.arange(pairs, dtype=torch.float64) / pairs)  # (pairs,)
    angles = torch.cat([rows[:, None] * speeds, columns[:, None] * speeds], dim=1)  # (N, 2 pairs)
    return angles.cos().float(), angles.sin().float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn each pair (channel i, channel i + c/2) of x `(..., N, c)` by its phase, tables `(N, c/2)` or broadcast."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)


class HeadNorm(nn.Module):
    """Root-mean-square normalisation of each head's channels with a learned scale (query/key norm)."""

    def __init__(self, head_dim: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(head_dim))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Attention(nn.Module):
    """Queries of some tokens look at the keys and values of all.

    `query`, `key`, `value` and `output` are separate matrices, as in the paper's code, so that its weights load by
    name and queries can be computed for fewer tokens than keys.
    """

    def __init__(self, d_model: int, n_heads: int, *, bias: bool, qk_norm: bool, dropout: float, eps: float) -> None:
        super().__init__()
        self.n_heads = n_heads
        self.dropout = dropout
        self.query = nn.Linear(d_model, d_model, bias=bias)
        self.key = nn.Linear(d_model, d_model, bias=bias)
        self.value = nn.Linear(d_model, d_model, bias=bias)
        self.output = nn.Linear(d_model, d_model, bias=bias)
        self.query_norm = HeadNorm(d_model // n_heads, eps) if qk_norm else nn.Identity()
        self.key_norm = HeadNorm(d_model // n_heads, eps) if qk_norm else nn.Identity()

    def forward(
        self,
        asking: Tensor,
        seen: Tensor,
        asking_phases: tuple[Tensor, Tensor] | None,
        seen_phases: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        """asking `(n, m, d)`, seen `(n, N, d)`, phases as `rotate` takes them -> mixed values `(n, m, d)`.

        The result still has to go through `output`: the caller may want it for fewer tokens.
        """
        q = self.query_norm(self._heads(self.query(asking)))  # (n, heads, m, c)
        k = self.key_norm(self._heads(self.key(seen)))  # (n, heads, N, c)
        v = self._heads(self.value(seen))  # (n, heads, N, c)
        if asking_phases is not None and seen_phases is not None:
            q = rotate(q, *(phase.to(q.dtype) for phase in asking_phases))
            k = rotate(k, *(phase.to(k.dtype) for phase in seen_phases))
        mixed = attend(q, k, v, self.dropout if self.training else 0.0)
        return mixed.transpose(1, 2).flatten(2)  # (n, m, d)

    def _heads(self, x: Tensor) -> Tensor:
        """`(n, tokens, d)` -> `(n, heads, tokens, c)`; heads are contiguous slices of the channels."""
        n, tokens, d = x.shape
        return x.view(n, tokens, self.n_heads, d // self.n_heads).transpose(1, 2)

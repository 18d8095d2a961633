"""Shape aliases and the one alphabet used in every room.

`n` images · `h w` cells · `H W` pixels · `K` codebook size · `N = h*w` cells · `T` diffusion steps of the
paper · `S` network evaluations · `d` channels. Codes are row-major, `(row, col)` order, ranges half-open.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from torch import Tensor

EMPTY: Final = -1
"""The code of a cell that is still to be filled."""

Codes: TypeAlias = Tensor
"""int64 `(n, h, w)`, values `0..K-1`, or `EMPTY`."""

Logits: TypeAlias = Tensor
"""float `(n, m, K)`: unnormalised log-probabilities of the codes at `m` chosen cells."""

Images: TypeAlias = Tensor
"""float32 `(n, 3, H, W)` in [-1, 1]."""

CellMask: TypeAlias = Tensor
"""bool `(h, w)` or `(n, h, w)`; True = selected (regenerate, unless said otherwise)."""

PixelMask: TypeAlias = Tensor
"""bool `(H, W)`; True = selected."""

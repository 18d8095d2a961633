"""What the engine knows of a network: the `Denoiser` protocol, nothing else."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from smalti.types import Codes, Logits


@runtime_checkable
class Denoiser(Protocol):
    """Anything that, given some codes of a window, says how likely each code is in each other cell.

    `smalti.prior.AbsorbingTransformer`, a guided pair of networks, or `smalti.testing.ToyPrior`.
    """

    @property
    def codebook_size(self) -> int:
        """K: codes are 0..K-1."""

    @property
    def window(self) -> tuple[int, int]:
        """Height and width, in cells, of what the network sees at once."""

    @property
    def device(self) -> torch.device:
        """Where it wants its input."""

    def __call__(self, codes: Codes, positions: Tensor | None = None, label: Tensor | None = None) -> Logits:
        """Logits `(n, m, K)` at the cells `positions` `(n, m)` (row-major numbers in the window) of windows
        `codes` `(n, *window)`, where `EMPTY` cells are unknown. `label` int64 `(n,)` for class-conditional networks.
        """

"""A prior that is cheap at any window size and looks at every cell it is given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor


class ContextPrior:
    """Logits depend on the place in the window and on all known codes near and far: mistakes in cutting, padding or
    batching change them. Counts the windows and calls it has seen."""

    def __init__(self, codebook_size: int = 11, window: tuple[int, int] = (6, 6)) -> None:
        self.codebook_size, self.window, self.device = codebook_size, window, torch.device("cpu")
        generator = torch.Generator().manual_seed(1)
        n = window[0] * window[1]
        self.embedding = torch.randn(codebook_size + 1, 8, generator=generator)
        self.embedding[-1] = 0  # an unknown cell says nothing
        self.mixing = torch.randn(n, n, generator=generator) / n**0.5
        self.head = torch.randn(8, codebook_size, generator=generator)
        self.bias = torch.randn(n, codebook_size, generator=generator)
        self.windows_seen = self.calls = 0
        self.largest_batch = 0

    def __call__(self, codes: Tensor, positions: Tensor | None = None, label: Tensor | None = None) -> Tensor:
        assert tuple(codes.shape[1:]) == self.window
        self.windows_seen += len(codes)
        self.calls += 1
        self.largest_batch = max(self.largest_batch, len(codes))
        hidden = self.embedding[codes.flatten(1)]  # (n, N, 8); EMPTY = -1 is the last row
        logits = torch.einsum("ij,njd->nid", self.mixing, hidden) @ self.head + self.bias
        if label is not None:
            logits = logits + label.view(-1, 1, 1) * self.bias
        if positions is None:
            return logits
        assert positions.shape[0] == len(codes)
        return logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, self.codebook_size))


@pytest.fixture
def context_prior() -> ContextPrior:
    return ContextPrior()

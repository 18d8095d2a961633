"""An exponential moving average of a network's weights: what is validated, sampled from and shipped."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

Net = TypeVar("Net", bound=nn.Module)


class Ema(Generic[Net]):
    """`model` follows the weights given to `update`; its first steps follow faster, so that no start value lingers."""

    def __init__(self, network: Net, decay: float) -> None:
        """decay: share of the old average kept per step, 0..1 (0.999 averages about the last thousand steps)."""
        self.model: Net = copy.deepcopy(network).eval().requires_grad_(False)
        self.decay = decay

    def decay_at(self, step: int) -> float:
        """min(decay, (1 + step) / (10 + step)): the warm-up of many EMA implementations, first in TensorFlow's."""
        return min(self.decay, (1 + step) / (10 + step))

    @torch.no_grad()
    def update(self, network: nn.Module, step: int) -> None:
        """Move the averaged weights towards `network`'s after step `step` (from 0); buffers are copied as they are."""
        ours: list[Tensor] = list(self.model.parameters())
        theirs: list[Tensor] = list(network.parameters())
        torch._foreach_lerp_(ours, theirs, 1 - self.decay_at(step))
        for mine, other in zip(self.model.buffers(), network.buffers(), strict=True):
            mine.copy_(other)

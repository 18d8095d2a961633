"""Inputs that any version of any library makes to the bit nearly: for numbers recorded once elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn


def waves(n: int, d: int, phase: float) -> Tensor:
    """Features float64 `(n, d)` without structure: the fractions of large sines."""
    i, j = torch.arange(n, dtype=torch.float64)[:, None], torch.arange(d, dtype=torch.float64)[None]
    return torch.remainder(torch.sin(i * 12.9898 + j * 78.233 + phase) * 43758.5453, 1.0)


def pictures(n: int, height: int, width: int) -> np.ndarray:
    """uint8 `(n, height, width, 3)`: waves of another length in every picture and channel."""
    i, y, x, c = np.meshgrid(*(np.arange(s) for s in (n, height, width, 3)), indexing="ij")
    return np.floor(127.5 + 127 * np.sin(0.05 * (i + 2) * x + 0.09 * (c + 1) * y + i)).astype(np.uint8)


def fill_with_waves(network: nn.Module) -> None:
    """Weights without structure that keep activations near 1 through all layers; norms near the identity."""
    for name, value in network.state_dict().items():
        if not value.is_floating_point():
            continue
        noise = waves(1, value.numel(), len(name)).view(value.shape) - 0.5  # variance 1/12
        if value.dim() > 1:
            noise *= math.sqrt(12 * 2 / value[0].numel())
        elif name.endswith(("weight", "running_var")):
            noise = 1 + noise / 4
        value.copy_(noise)


FEATURES: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
    "more pictures than features": (lambda: 1.1 * waves(200, 24, 0.0) + 0.05, lambda: waves(200, 24, 1.0)),
    "fewer pictures than features": (lambda: waves(40, 64, 2.0) - 0.1, lambda: waves(40, 64, 3.0)),
}
"""Made and real features to compare, by name."""
SIZES = ((128, 96), (299, 299), (340, 400))
"""Heights and widths in pixels of pictures that Inception sees."""

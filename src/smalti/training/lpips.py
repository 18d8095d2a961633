"""LPIPS with VGG-16 (Zhang et al., "The Unreasonable Effectiveness of Deep Features", CVPR 2018), from files the user
has: VGG-16 as torchvision saves it and the linear weights of LPIPS 0.1. Nothing is downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import ModelError
from smalti.formats.safe_load import load_tensors
from smalti.types import Images

SLICES = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Convolutions between two poolings; the output of each group is compared."""
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""ImageNet's means and deviations for pictures in [-1, 1], as LPIPS writes them."""


class Lpips(nn.Module):
    """Distance of pictures `(n, 3, H, W)` in [-1, 1]: 0 = equal. Frozen."""

    def __init__(self, files: Sequence[str]) -> None:
        """`files` together hold `features.N.weight|bias` and `linK.model.1.weight`; raises ModelError otherwise."""
        super().__init__()
        self.register_buffer("shift", torch.tensor(SHIFT)[:, None, None])
        self.register_buffer("scale", torch.tensor(SCALE)[:, None, None])
        convolutions: list[nn.Module] = []
        channels = 3
        for group in SLICES:
            for width in group:
                convolutions.append(nn.Conv2d(channels, width, 3, padding=1))
                channels = width
        self.convolutions = nn.ModuleList(convolutions)
        self.linear = nn.ParameterList(torch.zeros(1, group[-1], 1, 1) for group in SLICES)
        found: dict[str, Tensor] = {}
        for file in files:
            found |= load_tensors(file)
        self._take(found, ", ".join(files))
        self.eval().requires_grad_(False)

    def forward(self, images: Images, targets: Images) -> Tensor:
        """Mean distance, a scalar."""
        ours = self._features(images)
        with torch.no_grad():
            theirs = self._features(targets)
        return torch.stack(
            [
                ((F.normalize(a, dim=1, eps=1e-10) - F.normalize(b, dim=1, eps=1e-10)).square() * weight).sum(1).mean()
                for a, b, weight in zip(ours, theirs, self.linear, strict=True)
            ]
        ).sum()

    def _features(self, images: Images) -> list[Tensor]:
        x = (images.float() - self.shift) / self.scale  # type: ignore[operator]
        features, layers = [], iter(self.convolutions)
        for i, group in enumerate(SLICES):
            if i:
                x = F.max_pool2d(x, 2)
            for _ in group:
                x = F.relu(next(layers)(x))
            features.append(x)
        return features

    @torch.no_grad()
    def _take(self, found: dict[str, Tensor], name: str) -> None:
        numbers = sorted({int(m[1]) for key in found if (m := re.fullmatch(r"features\.(\d+)\.weight", key))})
        wanted = [f"lin{k}.model.1.weight" for k in range(len(SLICES))]
        missing = [key for key in wanted if key not in found]
        if len(numbers) != len(self.convolutions) or missing:
            what = ", ".join(missing) or f"{len(self.convolutions)} convolutions features.N (found {len(numbers)})"
            raise ModelError(f"{name} do not hold VGG-16 and LPIPS weights: missing {what}")
        layers = list(zip(numbers, self.convolutions, strict=True))
        pairs = [(f"features.{n}.{kind}", getattr(layer, kind)) for n, layer in layers for kind in ("weight", "bias")]
        pairs += list(zip(wanted, self.linear, strict=True))
        for key, parameter in pairs:
            if key not in found or found[key].shape != parameter.shape:
                raise ModelError(f"{name}: tensor {key} is missing or has another shape than {tuple(parameter.shape)}")
            parameter.copy_(found[key])

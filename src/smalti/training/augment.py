"""Pictures changed at random: mirrored for everybody, and more for the critic's eyes alone."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.types import Images

Augmentation = Literal["colour", "translation", "cutout"]


def mirrored(images: Images, turn: Tensor) -> Images:
    """The pictures where bool `(n,)` `turn` is True as in a mirror, the others as they are."""
    return torch.where(turn.to(images.device)[:, None, None, None], images.flip(-1), images)


class DiffAugment:
    """One draw of differentiable augmentations (Zhao et al., NeurIPS 2020, section 3.2) for a batch of pictures.

    Called with real pictures and with their reconstructions, it changes both alike, so that a critic compares what
    belongs together, and gradients pass through it. It never reaches the losses of pixels.
    """

    def __init__(
        self, policy: Sequence[Augmentation], count: int, size: Sequence[int], generator: torch.Generator | None = None
    ) -> None:
        """policy: which, in the order of application: "colour" = brightness by up to 0.5 of [-1, 1], saturation times
        0..2, contrast times 0.5..1.5; "translation" = up to 1/8 of a side, grey moves in; "cutout" = a grey rectangle
        of half the height and width. size: height and width. generator: of the CPU; None = torch's global one."""
        self._policy, self._size = tuple(policy), size
        self._draws = {name: torch.rand(3, count, generator=generator) for name in self._policy}

    def rows(self, rows: slice) -> DiffAugment:
        """The same draw for some pictures of the batch."""
        part = copy.copy(self)
        part._draws = {name: draws[:, rows] for name, draws in self._draws.items()}
        return part

    def __call__(self, images: Images) -> Images:
        """images `(n, 3, H, W)` in [-1, 1] -> the same, changed."""
        change = {"colour": recoloured, "translation": self._shifted, "cutout": self._cut}
        for name in self._policy:
            images = change[name](images, self._draws[name].to(images.device))
        return images

    def _shifted(self, images: Images, draws: Tensor) -> Images:
        reach = torch.tensor([side // 8 for side in self._size], device=images.device)[:, None]
        return shifted(images, _whole(draws[:2], -reach, reach))

    def _cut(self, images: Images, draws: Tensor) -> Images:
        sides = torch.tensor(self._size, device=images.device)[:, None]
        # the middle is anywhere in the picture, so that its rim is as often hidden as the rest
        corner = _whole(draws[:2], -(sides // 4), sides - sides // 4)
        return cut_out(images, corner, (self._size[0] // 2, self._size[1] // 2))


def _whole(uniforms: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Uniform whole numbers `low`..`high`, both included."""
    return (low + (uniforms * (high - low + 1)).floor().long()).clamp(low, high)


def recoloured(images: Images, draws: Tensor) -> Images:
    """Brightness, saturation and contrast by draws `(3, n)` in 0..1; 0.5 changes nothing."""
    brightness, saturation, contrast = draws[:, :, None, None, None]
    images = images + (brightness - 0.5)
    grey = images.mean(dim=1, keepdim=True)
    images = grey + (images - grey) * (2 * saturation)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    out: Tensor = middle + (images - middle) * (0.5 + contrast)
    return out


def shifted(images: Images, by: Tensor) -> Images:
    """Each picture moved by whole pixels, by int64 `(2, n)` down and to the right; grey (0) moves in."""
    n, _, height, width = images.shape
    down, right = by[:, :, None]
    rows = (torch.arange(height, device=images.device) - down + 1).clamp(0, height + 1)  # (n, H), 0 and H + 1 = grey
    columns = (torch.arange(width, device=images.device) - right + 1).clamp(0, width + 1)
    framed = F.pad(images, (1, 1, 1, 1))
    item = torch.arange(n, device=images.device)[:, None, None]
    moved = framed.permute(0, 2, 3, 1)[item, rows[:, :, None], columns[:, None, :]]  # (n, H, W, 3)
    return moved.permute(0, 3, 1, 2)


def cut_out(images: Images, corner: Tensor, size: tuple[int, int]) -> Images:
    """A grey rectangle of `size` (height, width) with its top left at corner int64 `(2, n)`, cut at the border."""
    hidden = []
    for axis, (start, length) in enumerate(zip(corner, size, strict=True)):
        at = torch.arange(images.shape[2 + axis], device=images.device)
        hidden.append((at >= start[:, None]) & (at < start[:, None] + length))  # (n, side)
    inside = hidden[0][:, :, None] & hidden[1][:, None, :]  # (n, H, W)
    out: Tensor = images * ~inside[:, None]
    return out

"""The pieces encoders and decoders are built from. Shapes: `(n, d, h, w)` in and out unless said otherwise."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class LeanBlock(nn.Module):
    """x + conv(relu(conv(relu(x)))), no normalisation (EDSR, Lim et al. 2017); the identity when new.

    Without statistics over the picture a block sees two pixels to each side and nothing else.
    """

    radius = 2

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv2(F.relu(self.conv1(F.relu(x))))
        return out


class SpaceToDepth(nn.Module):
    """Halve the resolution: 2x2 pixels become channels, mixed by a 1x1 convolution."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in * 4, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pixel_unshuffle(x, 2))  # type: ignore[no-any-return]


class DepthToSpace(nn.Module):
    """Double the resolution: a convolution writes the four pixels of each 2x2 block."""

    def __init__(self, channels_in: int, channels_out: int, kernel: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out * 4, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.conv(x), 2)


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """The classic VQGAN's normalisation: 32 groups unless a checkpoint says otherwise, eps 1e-6."""
    return nn.GroupNorm(groups, channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """norm, swish, conv, norm, swish, conv, plus the input (through a 1x1 convolution where channels change)."""

    def __init__(self, channels_in: int, channels_out: int, groups: int = 32) -> None:
        super().__init__()
        self.norm1 = group_norm(channels_in, groups)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.norm2 = group_norm(channels_out, groups)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        same = channels_in == channels_out
        self.shortcut = nn.Identity() if same else nn.Conv2d(channels_in, channels_out, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(F.silu(self.norm2(h)))
        return self.shortcut(x) + h  # type: ignore[no-any-return]


class AttentionBlock(nn.Module):
    """Single-head self-attention over all pixels of a feature map, added to the input."""

    def __init__(self, channels: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = group_norm(channels, groups)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        n, d, h, w = x.shape
        y = self.norm(x)
        q, k, v = (layer(y).flatten(2).transpose(1, 2).unsqueeze(1) for layer in (self.q, self.k, self.v))  # n 1 hw d
        out = F.scaled_dot_product_attention(q, k, v)  # scale d^-1/2
        return x + self.proj_out(out.squeeze(1).transpose(1, 2).reshape(n, d, h, w))  # type: ignore[no-any-return]


class Downsample(nn.Module):
    """3x3 convolution of stride 2; zeros are padded at the bottom and right only, as in the original."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # type: ignore[no-any-return]


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))  # type: ignore[no-any-return]

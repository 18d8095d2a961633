"""Code vectors to pixels."""

from __future__ import annotations

import math

from torch import Tensor, nn

from smalti.tokenizer.blocks import AttentionBlock, DepthToSpace, LeanBlock, ResidualBlock, Upsample, group_norm
from smalti.tokenizer.config import ClassicArchitecture, LeanArchitecture
from smalti.tokenizer.encoder import middle


class LeanDecoder(nn.Module):
    """`(n, code_dim, h, w)` -> `(n, 3, h*cell, w*cell)`; see `LeanArchitecture`."""

    def __init__(self, arch: LeanArchitecture, code_dim: int) -> None:
        super().__init__()
        channels, blocks = list(reversed(arch.decoder_channels)), list(reversed(arch.decoder_blocks))
        layers: list[nn.Module] = [nn.Conv2d(code_dim, channels[0], 3, padding=1)]
        for level, (width, depth) in enumerate(zip(channels, blocks, strict=True)):
            if level:
                layers.append(DepthToSpace(channels[level - 1], width))
            layers += [LeanBlock(width) for _ in range(depth)]
        self.layers = nn.Sequential(*layers, nn.ReLU(), DepthToSpace(channels[-1], 3, kernel=3))
        self.halo = _receptive_radius(blocks)

    @property
    def last_kernel(self) -> Tensor:
        """Of the convolution that writes the pixels."""
        return self.layers[-1].conv.weight  # type: ignore[return-value, union-attr]

    def forward(self, z: Tensor) -> Tensor:
        return self.layers(z)  # type: ignore[no-any-return]


def _receptive_radius(blocks_coarse_to_fine: list[int]) -> int:
    """How many cells away a code can change a pixel: one step per 3x3 convolution, halved at every finer level."""
    radius: float = 1.0  # the first convolution
    for level, depth in enumerate(blocks_coarse_to_fine):
        radius += depth * LeanBlock.radius / (1 << level)
    radius += 1 / (1 << (len(blocks_coarse_to_fine) - 1))  # the head
    return math.ceil(radius)


class ClassicDecoder(nn.Module):
    """`(n, z_channels, h, w)` -> `(n, 3, h*cell, w*cell)`; see `ClassicArchitecture`.

    Attention and group norms look at the whole picture: `halo` is None, a tiled decode can only be blended.
    """

    halo: int | None = None

    def __init__(self, arch: ClassicArchitecture) -> None:
        super().__init__()
        channels, groups = arch.base_channels * arch.channel_multipliers[-1], arch.norm_groups
        layers: list[nn.Module] = [nn.Conv2d(arch.z_channels, channels, 3, padding=1), *middle(arch, channels)]
        for level in reversed(range(len(arch.channel_multipliers))):
            for _ in range(arch.res_blocks + arch.extra_decoder_blocks):
                width = arch.base_channels * arch.channel_multipliers[level]
                layers.append(ResidualBlock(channels, width, groups))
                channels = width
                if level in arch.attention_levels:
                    layers.append(AttentionBlock(channels, groups))
            if level > 0:
                layers.append(Upsample(channels))
        layers.append(group_norm(channels, groups))
        if arch.final_activation:
            layers.append(nn.SiLU())
        layers.append(nn.Conv2d(channels, 3, 3, padding=1))
        self.blocks = nn.ModuleList(layers)
        self.logsigma = (
            nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(), nn.Conv2d(channels, 3, 1))
            if arch.logsigma_head
            else None
        )

    @property
    def last_kernel(self) -> Tensor:
        """Of the convolution that writes the pixels."""
        return self.blocks[-1].weight  # type: ignore[return-value]

    def features(self, z: Tensor) -> Tensor:
        """Everything before the last convolution: what the mean and the `logsigma` head share."""
        for block in self.blocks[:-1]:
            z = block(z)
        return z

    def forward(self, z: Tensor) -> Tensor:
        return self.blocks[-1](self.features(z))  # type: ignore[no-any-return]

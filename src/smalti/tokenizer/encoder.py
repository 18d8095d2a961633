"""Pixels to feature vectors, one per cell."""

from __future__ import annotations

from torch import Tensor, nn

from smalti.tokenizer.blocks import AttentionBlock, Downsample, LeanBlock, ResidualBlock, SpaceToDepth, group_norm
from smalti.tokenizer.config import ClassicArchitecture, LeanArchitecture


class LeanEncoder(nn.Module):
    """`(n, 3, H, W)` -> `(n, code_dim, H/cell, W/cell)`; see `LeanArchitecture`."""

    def __init__(self, arch: LeanArchitecture, code_dim: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        previous = 3
        for channels, blocks in zip(arch.encoder_channels, arch.encoder_blocks, strict=True):
            layers += [SpaceToDepth(previous, channels), *(LeanBlock(channels) for _ in range(blocks))]
            previous = channels
        self.layers = nn.Sequential(*layers, nn.ReLU(), nn.Conv2d(previous, code_dim, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)  # type: ignore[no-any-return]


class ClassicEncoder(nn.Module):
    """`(n, 3, H, W)` -> `(n, z_channels, H/cell, W/cell)`; see `ClassicArchitecture`.

    One flat list of layers, in the order in which unleashing-transformers numbers its blocks.
    """

    def __init__(self, arch: ClassicArchitecture) -> None:
        super().__init__()
        channels, groups = arch.stem, arch.norm_groups
        layers: list[nn.Module] = [nn.Conv2d(3, channels, 3, padding=1)]
        last = len(arch.channel_multipliers) - 1
        for level, multiplier in enumerate(arch.channel_multipliers):
            for _ in range(arch.res_blocks):
                layers.append(ResidualBlock(channels, arch.base_channels * multiplier, groups))
                channels = arch.base_channels * multiplier
                if level in arch.attention_levels:
                    layers.append(AttentionBlock(channels, groups))
            if level < last:
                layers.append(Downsample(channels))
        layers += middle(arch, channels)
        layers.append(group_norm(channels, groups))
        if arch.final_activation:
            layers.append(nn.SiLU())
        layers.append(nn.Conv2d(channels, arch.z_channels, 3, padding=1))
        self.blocks = nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x


def middle(arch: ClassicArchitecture, channels: int) -> list[nn.Module]:
    """The blocks at the coarsest resolution, the same in encoder and decoder."""
    groups = arch.norm_groups
    attention = [AttentionBlock(channels, groups)] if arch.mid_attention else []
    return [ResidualBlock(channels, channels, groups), *attention, ResidualBlock(channels, channels, groups)]

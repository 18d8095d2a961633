"""The Inception network of FID: the TensorFlow graph of 2015-12-05 in PyTorch, weights from a file that you bring.

Szegedy et al., "Rethinking the Inception Architecture" (CVPR 2016), as Heusel et al. (NeurIPS 2017) took it from
TensorFlow. It is not torchvision's: averages over 3x3 do not count the padding, the last block takes a maximum where
the others average, and there are 1008 classes. Modules are named as in the weight file
`pt_inception-2015-12-05-6726825d.pth`, which pytorch-fid and torch-fidelity share.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import ModelError
from smalti.formats.safe_load import checked, load_tensors, names

SIDE = 299
"""Height and width in pixels that the network was trained on."""
PUBLISHED = "6726825d"
"""How the sha256 of the file begins that published numbers were made with."""


class Conv(NamedTuple):
    """A convolution of a branch."""

    name: str
    channels: int
    kernel: tuple[int, int]


Level = tuple[Conv, ...]
"""Convolutions of the same input, side by side; nearly always one."""


def unit(channels_in: int, channels: int, kernel: tuple[int, int], *, stride: int = 1, pad: bool = True) -> nn.Module:
    """Convolution, batch norm, ReLU; padded so that the size stays, or not at all."""
    padding = (kernel[0] // 2, kernel[1] // 2) if pad else 0
    conv = nn.Conv2d(channels_in, channels, kernel, stride, padding, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels, eps=1e-3), relu=nn.ReLU()))


class Mixed(nn.Module):
    """Branches of the same input, concatenated, the last of them a pooling of 3x3.

    pool_to: channels of the convolution after the pooling; None = no convolution, and the block halves the resolution:
    the last convolution of every branch and the pooling, then a maximum, have stride 2 and no padding.
    """

    def __init__(
        self, channels_in: int, branches: list[list[Level]], pool_to: int | None = None, *, maximum: bool = False
    ) -> None:
        super().__init__()
        halves = pool_to is None
        self.branches, self.halves, self.maximum = branches, halves, maximum or halves
        self.channels = channels_in if pool_to is None else pool_to
        for branch in branches:
            width = channels_in
            for level in branch:
                last = halves and level is branch[-1]
                for conv in level:
                    made = unit(width, conv.channels, conv.kernel, stride=2 if last else 1, pad=not last)
                    self.add_module(conv.name, made)
                width = sum(conv.channels for conv in level)
            self.channels += width
        if pool_to is not None:
            self.branch_pool = unit(channels_in, pool_to, (1, 1))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for branch in self.branches:
            h = x
            for level in branch:
                h = torch.cat([self.get_submodule(conv.name)(h) for conv in level], 1)
            outputs.append(h)
        return torch.cat([*outputs, self._pooled(x)], 1)

    def _pooled(self, x: Tensor) -> Tensor:
        if self.halves:
            return F.max_pool2d(x, 3, 2)
        if self.maximum:
            pooled = F.max_pool2d(x, 3, 1, 1)
        else:
            pooled = F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        out: Tensor = self.branch_pool(pooled)
        return out


class FidInception(nn.Module):
    """Pictures `(n, 3, 299, 299)` in [-1, 127/128] -> features `(n, 2048)`, the averages of the last block (pool3)."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = unit(3, 32, (3, 3), stride=2, pad=False)
        self.Conv2d_2a_3x3 = unit(32, 32, (3, 3), pad=False)
        self.Conv2d_2b_3x3 = unit(32, 64, (3, 3))
        self.Conv2d_3b_1x1 = unit(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = unit(80, 192, (3, 3), pad=False)
        self.mixed: list[str] = []
        width = 192
        for name, branches, pool_to in _BLOCKS:
            block = Mixed(width, branches, pool_to, maximum=name == "Mixed_7c")
            self.add_module(name, block)
            self.mixed.append(name)
            width = block.channels
        self.fc = nn.Linear(width, 1008)  # unused; in the file

    def forward(self, x: Tensor) -> Tensor:
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name in self.mixed:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))


def load_inception(path: str | Path) -> FidInception:
    """The network with the weights in `path`, a state dictionary, frozen. Raises ModelError if it holds another one."""
    net = FidInception()
    wanted = {name for name in net.state_dict() if not name.endswith("num_batches_tracked")}
    found = {name: value for name, value in load_tensors(path).items() if not name.endswith("num_batches_tracked")}
    if any(name.startswith("AuxLogits") for name in found):
        raise ModelError(f"{path} is torchvision's Inception, trained anew: numbers made with it are no FID; bring "
                         "pt_inception-2015-12-05-6726825d.pth, which pytorch-fid and torch-fidelity use")  # fmt: skip
    if missing := wanted - set(found):
        raise ModelError(f"{path} is not FID's Inception (pt_inception-2015-12-05): it lacks {names(missing, 3)}")
    if strange := set(found) - wanted:
        raise ModelError(f"{path} is not FID's Inception (pt_inception-2015-12-05): it also has {names(strange, 3)}")
    shapes = {name: value.shape for name, value in net.state_dict().items()}
    if other := [name for name in found if found[name].shape != shapes[name]]:
        raise ModelError(f"{path} is not FID's Inception: {other[0]} has the shape {tuple(found[other[0]].shape)}, "
                         f"not {tuple(shapes[other[0]])}")  # fmt: skip
    net.load_state_dict(checked(path, found), strict=False)
    return net.eval().requires_grad_(False)


def resized_as_tensorflow(x: Tensor, side: int = SIDE) -> Tensor:
    """`(n, c, H, W)` scaled to `side` x `side` as TensorFlow 1 did: bilinear, pixel i from i H / side, no antialiasing.

    The picture shifts by up to half a pixel and shrinking it skips pixels: part of FID as it was first published.
    """
    for axis in (-2, -1):
        size = x.shape[axis]
        at = torch.arange(side, device=x.device, dtype=torch.float32) * torch.tensor(size / side, dtype=torch.float32)
        low = at.long()
        high = (low + 1).clamp(max=size - 1)
        share = (at - low).view(-1, *[1] * (-1 - axis))
        below, above = x.index_select(axis, low), x.index_select(axis, high)
        x = below + (above - below) * share
    return x


def _one(name: str, channels: int, height: int = 1, width: int | None = None) -> Level:
    return (Conv(name, channels, (height, width or height)),)


def _fork(name: str, channels: int) -> Level:
    """A row and a column of 3 in place of a square."""
    return Conv(f"{name}a", channels, (1, 3)), Conv(f"{name}b", channels, (3, 1))


def _at_35() -> list[list[Level]]:
    return [
        [_one("branch1x1", 64)],
        [_one("branch5x5_1", 48), _one("branch5x5_2", 64, 5)],
        [_one("branch3x3dbl_1", 64), _one("branch3x3dbl_2", 96, 3), _one("branch3x3dbl_3", 96, 3)],
    ]


def _at_17(c: int) -> list[list[Level]]:
    twice = [_one(f"branch7x7dbl_{i}", c if i < 5 else 192, *((7, 1) if i % 2 == 0 else (1, 7))) for i in range(2, 6)]
    return [
        [_one("branch1x1", 192)],
        [_one("branch7x7_1", c), _one("branch7x7_2", c, 1, 7), _one("branch7x7_3", 192, 7, 1)],
        [_one("branch7x7dbl_1", c), *twice],
    ]


def _at_8() -> list[list[Level]]:
    return [
        [_one("branch1x1", 320)],
        [_one("branch3x3_1", 384), _fork("branch3x3_2", 384)],
        [_one("branch3x3dbl_1", 448), _one("branch3x3dbl_2", 384, 3), _fork("branch3x3dbl_3", 384)],
    ]


_TO_17: list[list[Level]] = [
    [_one("branch3x3", 384, 3)],
    [_one("branch3x3dbl_1", 64), _one("branch3x3dbl_2", 96, 3), _one("branch3x3dbl_3", 96, 3)],
]
_TO_8: list[list[Level]] = [
    [_one("branch3x3_1", 192), _one("branch3x3_2", 320, 3)],
    [
        _one("branch7x7x3_1", 192), _one("branch7x7x3_2", 192, 1, 7), _one("branch7x7x3_3", 192, 7, 1),
        _one("branch7x7x3_4", 192, 3),
    ],
]  # fmt: skip
_BLOCKS: list[tuple[str, list[list[Level]], int | None]] = [
    ("Mixed_5b", _at_35(), 32),
    ("Mixed_5c", _at_35(), 64),
    ("Mixed_5d", _at_35(), 64),
    ("Mixed_6a", _TO_17, None),
    ("Mixed_6b", _at_17(128), 192),
    ("Mixed_6c", _at_17(160), 192),
    ("Mixed_6d", _at_17(160), 192),
    ("Mixed_6e", _at_17(192), 192),
    ("Mixed_7a", _TO_8, None),
    ("Mixed_7b", _at_8(), 192),
    ("Mixed_7c", _at_8(), 192),
]
"""Name in the file, branches, channels after the pooling; the blocks at 35x35, 17x17 and 8x8 pixels."""

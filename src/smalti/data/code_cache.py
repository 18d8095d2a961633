"""The codes of a data set, made once per tokenizer and kept as uint16.

The file's name is a hash of the tokenizer (configuration and weights) and of the pictures, so it can never be stale:
another tokenizer or another picture is another file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smalti.data.pictures import Pictures
from smalti.files import atomic_write, explained, sha256_bytes
from smalti.tokenizer import VQGAN

Codes16 = npt.NDArray[np.uint16]


def tokenizer_hash(tokenizer: VQGAN) -> str:
    """sha256 of a tokenizer's configuration and weights."""
    digest = hashlib.sha256(tokenizer.config.model_dump_json().encode())
    for name, value in sorted(tokenizer.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def cached_codes(
    pictures: Pictures,
    tokenizer: VQGAN,
    cache: Path,
    *,
    flip: bool = False,
    batch: int = 32,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Codes16:
    """Codes of all pictures, uint16 `(views * count, h, w)`, memory-mapped; encoded now if `cache` has none.

    flip: two views, the pictures and then their mirror images. report: called with (done, total) pictures.
    Encodes in float32, as everything that uses the codes later does.
    """
    key = sha256_bytes(f"{tokenizer_hash(tokenizer)} {pictures.fingerprint} flip={flip}".encode())
    path = cache / f"codes-{key[:24]}.npy"
    if not path.is_file():
        with explained(cache):
            cache.mkdir(parents=True, exist_ok=True)
        codes = _encode(pictures, tokenizer, flip, batch, report)
        with atomic_write(path, force=True) as temporary, temporary.open("wb") as file:
            np.save(file, codes, allow_pickle=False)
    loaded: Codes16 = np.load(path, mmap_mode="r", allow_pickle=False)
    return loaded


def code_labels(pictures: Pictures, *, flip: bool = False) -> npt.NDArray[np.int64]:
    """The class of each row of `cached_codes`, int64 `(views * count,)`. Raises DataError if there are no classes."""
    return np.tile(pictures.own_labels(), 2 if flip else 1)


def as_images(pixels: npt.NDArray[np.uint8], device: torch.device | str = "cpu") -> Tensor:
    """uint8 `(n, H, W, 3)` -> float32 `(n, 3, H, W)` in [-1, 1], channels last in memory."""
    moved = torch.from_numpy(np.ascontiguousarray(pixels)).to(device, non_blocking=True).permute(0, 3, 1, 2)
    return (moved.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def _encode(
    pictures: Pictures, tokenizer: VQGAN, flip: bool, batch: int, report: Callable[[int, int], None]
) -> Codes16:
    height, width = (-(-side // tokenizer.cell) for side in pictures.size)
    count, views = len(pictures), 2 if flip else 1
    out = np.empty((views, count, height, width), np.uint16)
    for start in range(0, count, batch):
        images = as_images(pictures.batch(np.arange(start, min(start + batch, count))), tokenizer.device)
        for view in range(views):
            out[view, start : start + len(images)] = tokenizer.encode(images.flip(-1) if view else images).cpu().numpy()
        report(start + len(images), count)
    return out.reshape(views * count, height, width)

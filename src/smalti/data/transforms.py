"""From a picture of any size to the one size a model is trained on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def fit(image: Image.Image, height: int, width: int) -> Pixels:
    """Scale until the picture just covers `height` x `width`, cut the middle out; uint8 `(height, width, 3)`.

    Scaling is antialiased (Lanczos). A picture that has the size already is not touched.
    """
    if image.size != (width, height):
        scale = max(height / image.height, width / image.width)
        wide, high = (
            max(side, math.floor(old * scale + 0.5)) for side, old in ((width, image.width), (height, image.height))
        )
        left, top = (wide - width) // 2, (high - height) // 2
        image = image.resize((wide, high), Image.Resampling.LANCZOS).crop((left, top, left + width, top + height))
    return np.asarray(image, dtype=np.uint8)


def random_cut(image: Image.Image, height: int, width: int, zoom: float, at: tuple[float, float, float]) -> Pixels:
    """A part of `height`:`width` of the picture, scaled to that size (antialiased); uint8 `(height, width, 3)`.

    at: three numbers in [0, 1): how much the part is magnified, from 1 to `zoom` times beyond covering, spread evenly
    in octaves; and where it lies, from left and from top.
    """
    per_pixel = min(image.width / width, image.height / height) / zoom ** at[0]  # of the picture, per pixel of the cut
    wide, high = width * per_pixel, height * per_pixel
    left, top = (image.width - wide) * at[1], (image.height - high) * at[2]
    box = (left, top, min(left + wide, image.width), min(top + high, image.height))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS, box=box), dtype=np.uint8)


def cut_away(image_size: tuple[int, int], height: int, width: int) -> float:
    """The share of a picture of `image_size` = (height, width) that `fit` cuts off, 0..1."""
    high, wide = image_size
    scale = max(height / high, width / wide)
    return max(0.0, 1 - height * width / (high * wide * scale**2))


def enlarged(image: Image.Image, height: int, width: int) -> bool:
    """Whether `fit` has to make the picture larger."""
    return image.height < height or image.width < width

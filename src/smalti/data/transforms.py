"""From a picture of any size to the one size a model is trained on."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from PIL import Image


def fit(image: Image.Image, height: int, width: int) -> npt.NDArray[np.uint8]:
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


def enlarged(image: Image.Image, height: int, width: int) -> bool:
    """Whether `fit` has to make the picture larger."""
    return image.height < height or image.width < width

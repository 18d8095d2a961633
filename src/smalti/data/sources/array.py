"""Pictures as one NumPy array."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from smalti.errors import DataError
from smalti.files import sha256_file


class ArraySource:
    """A NumPy file of pictures: uint8 `(count, height, width, 3)`."""

    kind = "array"
    labels = None

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            self.pixels: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{path} is not a readable .npy file: {error}") from error
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[3] != 3:
            raise DataError(f"{path} must be uint8 (count, height, width, 3), not {self.pixels.dtype} "
                            f"{self.pixels.shape}")  # fmt: skip
        self.names = [f"{i:08d}" for i in range(len(self.pixels))]

    def stored(self, index: int) -> Image.Image:
        return Image.fromarray(np.asarray(self.pixels[index]))

    def fingerprint(self) -> str:
        return sha256_file(self._path)

"""Where pictures come from: a folder tree, a zip, or one array of pixels (a new kind: a class, and `open_source`).

A source lists its pictures under stable names, opens any of them, and has a fingerprint of its contents, so that
nothing made from it can outlive a change unnoticed.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from smalti.errors import DataError
from smalti.files import sha256_bytes, sha256_file
from smalti.images import open_image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif")
"""What counts as a picture in a folder or an archive, in small letters."""


class Source(Protocol):
    """Pictures that can be listed and opened one by one, from several threads."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def names(self) -> Sequence[str]:
        """One stable name per picture, sorted."""

    def open(self, index: int) -> Image.Image:
        """Picture `index` as 8-bit RGB. Raises ImageError naming it if it is damaged."""

    def fingerprint(self) -> str:
        """sha256 over names and contents."""


class FolderSource:
    """All pictures below a folder, by relative path; hidden files and folders are left out."""

    def __init__(self, folder: Path) -> None:
        self.name = str(folder)
        found = (p for p in folder.rglob("*") if p.suffix.lower() in ENDINGS and p.is_file())
        self._files = sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))
        self.names = [p.relative_to(folder).as_posix() for p in self._files]

    def open(self, index: int) -> Image.Image:
        return open_image(self._files[index])

    def fingerprint(self) -> str:
        pairs = zip(self.names, self._files, strict=True)
        return sha256_bytes("".join(f"{name}\n{sha256_file(file)}\n" for name, file in pairs).encode())


class ZipSource:
    """All pictures in a zip archive. Members are read, never unpacked to disk."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path} is not a readable zip archive: {error}") from error
        members = [m for m in self._zip.infolist() if Path(m.filename).suffix.lower() in ENDINGS]
        members = [m for m in members if not any(p.startswith((".", "__MACOSX")) for p in Path(m.filename).parts)]
        self._members = sorted(members, key=lambda m: m.filename)
        self.names = [m.filename for m in self._members]

    def open(self, index: int) -> Image.Image:
        member = self._members[index]
        try:
            file = io.BytesIO(self._zip.read(member))  # ZipFile locks, so threads may share it
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self.name}: {member.filename} cannot be read: {error}") from error
        file.name = f"{self.name}: {member.filename}"
        return open_image(file)

    def fingerprint(self) -> str:
        return sha256_bytes("".join(f"{m.filename}\n{m.file_size} {m.CRC:08x}\n" for m in self._members).encode())


class ArraySource:
    """A NumPy file of pictures: uint8 `(count, height, width, 3)`."""

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        self._path = path
        try:
            self.pixels: npt.NDArray[np.uint8] = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is not a readable .npy file: {error}") from error
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 4 or self.pixels.shape[3] != 3:
            raise DataError(f"{path} must be uint8 (count, height, width, 3), not {self.pixels.dtype} "
                            f"{self.pixels.shape}")  # fmt: skip
        self.names = [f"{i:08d}" for i in range(len(self.pixels))]

    def open(self, index: int) -> Image.Image:
        return Image.fromarray(np.asarray(self.pixels[index]))

    def fingerprint(self) -> str:
        return sha256_file(self._path)


def open_source(path: str | Path) -> Source:
    """The pictures at `path`. Raises DataError if it does not exist, is of no known kind, or holds none."""
    place = Path(path)
    source: Source
    if place.is_dir():
        source = FolderSource(place)
    elif not place.exists():
        raise DataError(f"no data at {place}")
    elif place.suffix.lower() == ".zip":
        source = ZipSource(place)
    elif place.suffix.lower() == ".npy":
        source = ArraySource(place)
    else:
        raise DataError(f"{place} is neither a folder of pictures nor a .zip nor a .npy file")
    if not source.names:
        raise DataError(f"{place} holds no pictures ({', '.join(ENDINGS)})")
    return source

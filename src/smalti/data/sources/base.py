"""What every source of pictures offers, and the few rules they share."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import BinaryIO, Protocol

from PIL import Image

from smalti.images import open_image

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm")
"""What counts as a picture in a folder or an archive, in small letters."""


class Source(Protocol):
    """Pictures that can be listed and opened one by one, from several threads."""

    kind: str
    """What it is, in a few words: "folder", "zip archive"."""

    @property
    def name(self) -> str:
        """What messages call it."""

    @property
    def names(self) -> Sequence[str]:
        """One name per picture, in an order that never changes."""

    @property
    def labels(self) -> Sequence[str] | None:
        """The name of each picture's class, or None if the source has no classes."""

    def stored(self, index: int) -> BinaryIO | Image.Image:
        """Picture `index` as it is kept, named for messages. Raises DataError if it cannot be read."""

    def fingerprint(self) -> str:
        """sha256 over names and contents, so that nothing made from the source outlives a change unnoticed."""


def open_picture(source: Source, index: int) -> Image.Image:
    """Picture `index` as upright 8-bit RGB. Raises InputError naming it if it is damaged."""
    return open_image(source.stored(index))


def is_picture(path: str) -> bool:
    """Whether a path inside a source names a picture: by its ending; hidden and macOS bookkeeping files do not."""
    place = PurePosixPath(path)
    return place.suffix.lower() in ENDINGS and not any(p.startswith((".", "__MACOSX")) for p in place.parts)


def named(data: bytes, name: str) -> io.BytesIO:
    """Bytes as a file that error messages can name."""
    file = io.BytesIO(data)
    file.name = name
    return file


def class_names(names: Sequence[str]) -> list[str] | None:
    """The class of each picture by its folder: `cats/1.png`, `dogs/2.png` -> `cats`, `dogs`.

    The first folder in which names differ counts (archives often hold one folder with everything in it). None if
    pictures lie outside of folders there, if there is one folder only, or if no folder holds two pictures.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    if not folders:
        return None
    depth = 0
    while all(len(parts) > depth for parts in folders) and len({parts[depth] for parts in folders}) == 1:
        depth += 1
    if any(len(parts) <= depth for parts in folders):
        return None
    found = [parts[depth] for parts in folders]
    return found if len(set(found)) < len(found) else None

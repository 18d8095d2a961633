"""A folder tree of picture files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from smalti.data.sources.base import class_names, is_picture, named
from smalti.errors import DataError
from smalti.files import sha256_bytes, sha256_file

RUN_MARKS = ("config.yaml", "env.json")
"""Files that a run's folder has (see `smalti.training.runs`)."""


class FolderSource:
    """All pictures below a folder, by relative path; hidden files and folders, and training runs, are left out.

    classes: whether sub-folders are classes, if all pictures lie in them.
    """

    kind = "folder"

    def __init__(self, folder: Path, *, classes: bool = True) -> None:
        self.name = str(folder)
        try:
            found = ((path.relative_to(folder).as_posix(), path) for path in _below(folder))
            pairs = sorted((pair for pair in found if is_picture(pair[0]) and pair[1].is_file()), key=lambda p: p[1])
        except OSError as error:
            raise DataError(f"{folder} cannot be listed: {error.strerror or error}") from error
        self.names = [name for name, _ in pairs]
        self._files = [path for _, path in pairs]
        self.labels = class_names(self.names) if classes else None

    def stored(self, index: int) -> BinaryIO:
        path = self._files[index]
        try:
            return named(path.read_bytes(), str(path))
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error.strerror or error}") from error

    def fingerprint(self) -> str:
        pairs = zip(self.names, self._files, strict=True)
        return sha256_bytes("".join(f"{name}\n{_hash(file)}\n" for name, file in pairs).encode())


def _below(folder: Path) -> Iterator[Path]:
    """All that lies below, but for what a training run in the same place has drawn: its grids are no pictures."""
    for path in folder.iterdir():
        yield path
        if path.is_dir() and not path.is_symlink() and not all((path / name).is_file() for name in RUN_MARKS):
            with suppress(PermissionError):  # what others keep to themselves, lost+found and the like, is not ours
                yield from _below(path)


def _hash(path: Path) -> str:
    try:
        return sha256_file(path)
    except OSError as error:  # it is left out when it comes to reading it, like any broken picture
        return f"unreadable: {error.errno}"

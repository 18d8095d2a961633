"""Pictures in a zip archive."""

from __future__ import annotations

import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from smalti.data.sources.base import class_names, is_picture, named
from smalti.errors import DataError
from smalti.files import sha256_bytes


class ZipSource:
    """All pictures in a zip archive. Members are read, never unpacked to disk."""

    kind = "zip archive"

    def __init__(self, path: Path) -> None:
        self.name = str(path)
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, OSError) as error:
            raise DataError(f"{path} is not a readable zip archive: {error}") from error
        members = [m for m in self._zip.infolist() if is_picture(m.filename)]
        self._members = sorted(members, key=lambda m: m.filename)
        self.names = [m.filename for m in self._members]
        self.labels = class_names(self.names)

    def holds(self, name: str) -> bool:
        """Whether a member has that file name, in any folder."""
        return any(PurePosixPath(member).name == name for member in self._zip.namelist())

    def stored(self, index: int) -> BinaryIO:
        member = self._members[index]
        try:
            return named(self._zip.read(member), f"{self.name}: {member.filename}")  # ZipFile locks: threads may share
        except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError) as error:
            raise DataError(f"{self.name}: {member.filename} cannot be read: {error}") from error

    def fingerprint(self) -> str:
        return sha256_bytes("".join(f"{m.filename}\n{m.file_size} {m.CRC:08x}\n" for m in self._members).encode())

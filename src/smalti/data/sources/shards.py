"""Tar files in the layout of WebDataset (https://github.com/webdataset/webdataset).

Files of one sample follow each other and share a name up to the first dot of the last part of their path:
`0001.jpg`, `0001.cls`, `0001.json`. The picture is taken, and the class from `.cls` if every sample has one. A tar of
an ordinary folder of pictures reads as well.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from smalti.data.sources.base import class_names, is_picture, named
from smalti.errors import DataError
from smalti.files import sha256_bytes, sha256_file

_LONGEST_CLASS = 1000
"""Bytes of a `.cls` file that are read."""


@dataclass(frozen=True)
class _Member:
    shard: Path
    name: str
    offset: int
    size: int
    label: str | None


class ShardSource:
    """All pictures of some tar files, in the order in which they lie there.

    Members are read in place, never unpacked: by the first of several processes, once, into the array of pictures from
    which all of them take their rows of each batch.
    """

    kind = "tar shards"

    def __init__(self, shards: Sequence[Path], name: str) -> None:
        self.name, self._shards = name, list(shards)
        self._members = [member for shard in self._shards for member in _pictures_of(shard)]
        several = len(self._shards) > 1
        self.names = [f"{m.shard.name}/{m.name}" if several else m.name for m in self._members]
        labels = [m.label for m in self._members if m.label is not None]
        inner = [m.name for m in self._members]
        self.labels = labels if labels and len(labels) == len(inner) else class_names(inner)

    def stored(self, index: int) -> BinaryIO:
        member = self._members[index]
        try:
            return named(_bytes(member.shard, member.offset, member.size), f"{member.shard}: {member.name}")
        except OSError as error:
            raise DataError(f"{member.shard}: {member.name} cannot be read: {error.strerror or error}") from error

    def fingerprint(self) -> str:
        return sha256_bytes("".join(f"{s.name}\n{sha256_file(s)}\n" for s in self._shards).encode())


def named_shards(pattern: str) -> list[Path]:
    """`data-{000..012}.tar` -> the thirteen paths, as WebDataset writes it; [] if `pattern` is not of that form."""
    match = re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*\.tar)", pattern)
    if match is None:
        return []
    before, first, last, after = match.groups()
    return [Path(f"{before}{number:0{len(first)}d}{after}") for number in range(int(first), int(last) + 1)]


def _pictures_of(shard: Path) -> list[_Member]:
    """The pictures of one shard. Raises DataError if it is no tar file, or ends early."""
    samples: dict[str, list[tarfile.TarInfo]] = {}
    try:
        with tarfile.open(shard, "r:") as archive:
            for info in archive:
                if info.isreg() and not info.issparse():
                    samples.setdefault(_key(info.name), []).append(info)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise DataError(f"{shard} is not a readable tar file: {error}") from error
    found = []
    for key, files in samples.items():
        pictures = [file for file in files if is_picture(file.name)]
        # a sample may hold more, such as a mask `0001.mask.png`: its picture is the one without a second name
        plain = [file for file in pictures if file.name[len(key) :].count(".") == 1]
        classes = [file for file in files if file.name == f"{key}.cls"]
        label = _text(shard, classes[0]) if classes else None
        for file in plain[:1] or pictures:
            found.append(_Member(shard, file.name, file.offset_data, file.size, label))
    return found


def _key(name: str) -> str:
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.split(".", 1)[0] if not last.startswith(".") else name


def _text(shard: Path, file: tarfile.TarInfo) -> str:
    return _bytes(shard, file.offset_data, min(file.size, _LONGEST_CLASS)).decode("utf-8", "replace").strip()


def _bytes(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)

"""Where pictures come from: one class per kind of store, and `open_source`, which recognises the kind.

A new kind: a file here with a class that satisfies `Source`, and its line in `_in_folder` or `_in_file`.
"""

from __future__ import annotations

from pathlib import Path

from smalti.data.sources.archive import ZipSource
from smalti.data.sources.array import ArraySource
from smalti.data.sources.base import ENDINGS, Source, open_picture
from smalti.data.sources.ffhq import ffhq_pictures
from smalti.data.sources.folder import FolderSource
from smalti.data.sources.huggingface import TableSource, table_files
from smalti.data.sources.lsun import LsunSource
from smalti.data.sources.shards import ShardSource, named_shards
from smalti.errors import DataError

__all__ = [
    "ENDINGS",
    "ArraySource",
    "FolderSource",
    "LsunSource",
    "ShardSource",
    "Source",
    "TableSource",
    "ZipSource",
    "exists",
    "open_picture",
    "open_source",
]
KINDS = "a folder of pictures, .zip, .tar, .parquet, .npy, or an LMDB folder of LSUN"


def exists(path: str | Path) -> bool:
    """Whether there is anything at `path`, which may name many shards as `name-{000..123}.tar`."""
    return Path(path).exists() or any(shard.exists() for shard in named_shards(str(path)))


def open_source(path: str | Path) -> Source:
    """The pictures at `path`. Raises DataError if it does not exist, is of no known kind, or holds none."""
    place = Path(path)
    shards = named_shards(str(path))
    if shards and not place.exists():
        absent = [shard for shard in shards if not shard.is_file()]
        if absent:
            raise DataError(f"no data at {absent[0]} (of {len(shards)} shards, {len(absent)} are missing)")
        source: Source = ShardSource(shards, str(path))
    elif not place.exists():
        raise DataError(f"no data at {place}")
    else:
        source = _in_folder(place) if place.is_dir() else _in_file(place)
    if not source.names:
        raise DataError(f"{place} holds no pictures ({', '.join(ENDINGS)}){_hint(place)}")
    return source


def _in_folder(place: Path) -> Source:
    if (place / "data.mdb").is_file():
        return LsunSource(place)
    if (pictures := ffhq_pictures(place)) is not None:
        return FolderSource(pictures, classes=False)
    source = FolderSource(place)
    if not source.names and (tables := table_files(place)):  # beside pictures, a table only says something of them
        return TableSource(tables, str(place))
    if not source.names and (tars := sorted(place.rglob("*.tar"))):
        return ShardSource(tars, str(place))
    return source


def _in_file(place: Path) -> Source:
    ending = place.suffix.lower()
    if ending == ".zip":
        return ZipSource(place)
    if ending == ".npy":
        return ArraySource(place)
    if ending == ".tar":
        return ShardSource([place], str(place))
    if ending in (".parquet", ".arrow"):
        return TableSource([place], str(place))
    if ending == ".mdb":
        return LsunSource(place.parent)
    if ending in (".tgz", ".gz", ".bz2", ".xz", ".zst"):
        raise DataError(f"{place} is compressed: unpack it, and give the .tar or the folder")
    if ending in ENDINGS:
        raise DataError(f"{place} is one picture: give the folder it is in")
    raise DataError(f"{place} is neither {KINDS}")


def _hint(place: Path) -> str:
    """What a path without pictures may have been meant to be."""
    if place.is_dir():
        inner = sorted(p.parent for p in place.rglob("data.mdb")) or sorted(place.rglob("*.zip"))
        if inner:
            return f"; did you mean {inner[0]}?"
    elif place.suffix.lower() == ".zip" and ZipSource(place).holds("data.mdb"):
        return "; it is an LMDB folder: unpack it, and give the folder"
    return ""

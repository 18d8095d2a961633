"""Tables of pictures as Hugging Face `datasets` keeps them: parquet files, or the Arrow files of `save_to_disk`.

A picture is a cell of bytes, or of {bytes, path}; a column `label` gives classes, with names if the table has them.
Needs the package pyarrow, `pip install "smalti[parquet]"`; `datasets` itself is not needed.
"""

from __future__ import annotations

import json
import re
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, BinaryIO

from smalti.data.sources.base import named
from smalti.errors import DataError
from smalti.files import sha256_bytes, sha256_file

_PICTURES = ("image", "img", "picture", "jpg", "png", "pixel_values")
_LABELS = ("label", "labels", "class", "cls", "fine_label")
_KEPT = 4
"""Row groups held in memory: readers go through a table in order."""


class TableSource:
    """All pictures of some tables, in the order of the rows."""

    kind = "table"

    def __init__(self, files: Sequence[Path], name: str) -> None:
        self.name, self._files = name, list(files)
        self._pyarrow = _package(name)
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, Any] = OrderedDict()
        self._pieces: list[tuple[int, Callable[[], Any]]] = []
        labels: list[str] = []
        for file in self._files:
            try:
                pieces, classes = self._opened(file)
            except (self._pyarrow.ArrowException, OSError) as error:
                raise DataError(f"{file} is not a readable table: {_line(error)}") from error
            self._pieces += pieces
            labels += classes
        self._ends = list(accumulate(rows for rows, _ in self._pieces))
        count = self._ends[-1] if self._ends else 0
        self.names = [f"row {index}" for index in range(count)]
        self.labels = labels if labels and len(labels) == count else None

    def stored(self, index: int) -> BinaryIO:
        name = f"{self.name}: row {index}"
        piece = bisect_right(self._ends, index)
        row = index - (self._ends[piece - 1] if piece else 0)
        try:
            with self._lock:
                cell = self._piece(piece)[row].as_py()
            data = cell.get("bytes") if isinstance(cell, dict) else cell
            if data is None and isinstance(cell, dict) and cell.get("path"):
                data = Path(cell["path"]).read_bytes()
        except (self._pyarrow.ArrowException, OSError) as error:
            raise DataError(f"{name} cannot be read: {_line(error)}") from error
        if not isinstance(data, bytes):
            raise DataError(f"{name} holds no picture")
        return named(data, name)

    def fingerprint(self) -> str:
        return sha256_bytes("".join(f"{f.name}\n{sha256_file(f)}\n" for f in self._files).encode())

    def _piece(self, index: int) -> Any:
        """The picture column of one piece."""
        if index not in self._kept:
            self._kept[index] = self._pieces[index][1]()
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return self._kept[index]

    def _opened(self, file: Path) -> tuple[list[tuple[int, Callable[[], Any]]], list[str]]:
        """What can be loaded of one file, and the class of each of its rows ([] if it has none)."""
        if file.suffix.lower() == ".arrow":
            table = _arrow(self._pyarrow, file)
            picture, label = _columns(table.schema, file)
            classes = [] if label is None else _labels(table.schema, label, table.column(label).to_pylist())
            return [(table.num_rows, lambda: table.column(picture))], classes
        import pyarrow.parquet

        parquet = pyarrow.parquet.ParquetFile(file, memory_map=True)
        schema = parquet.schema_arrow
        picture, label = _columns(schema, file)

        def group(number: int) -> Callable[[], Any]:
            return lambda: parquet.read_row_group(number, columns=[picture]).column(picture)

        sizes = [parquet.metadata.row_group(i).num_rows for i in range(parquet.num_row_groups)]
        classes = [] if label is None else _labels(schema, label, parquet.read([label]).column(label).to_pylist())
        return [(rows, group(number)) for number, rows in enumerate(sizes)], classes


def table_files(folder: Path) -> list[Path]:
    """The tables of a folder: Arrow files of `save_to_disk`, or parquet files at any depth; [] if it holds none.

    If parquet files are called after splits (train-00000-of-00002.parquet, test-...), those of `train` are taken.
    Raises DataError for a folder with several data sets in it.
    """
    if (folder / "dataset_dict.json").is_file():
        parts = sorted(p.name for p in folder.iterdir() if (p / "dataset_info.json").is_file())
        raise DataError(f"{folder} holds several data sets: name one of {', '.join(str(folder / p) for p in parts)}")
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return sorted(folder.glob("*.arrow"))
    files = sorted(folder.rglob("*.parquet"))
    split = [f for f in files if re.match(r"(train|test|validation|valid|val|dev)\b", f.name)]
    return [f for f in split if f.name.startswith("train")] or files


def _package(name: str) -> Any:
    try:
        import pyarrow
    except ImportError:
        raise DataError(f'{name} is a table of pictures: to read it, pip install "smalti[parquet]"') from None
    return pyarrow


def _arrow(pyarrow: Any, file: Path) -> Any:
    """An Arrow file, memory-mapped; `datasets` writes streams, others write files."""
    mapped = pyarrow.memory_map(str(file))
    try:
        return pyarrow.ipc.open_stream(mapped).read_all()
    except pyarrow.ArrowInvalid:
        mapped.seek(0)
        return pyarrow.ipc.open_file(mapped).read_all()


def _features(schema: Any) -> dict[str, Any]:
    """What `datasets` notes about the columns; {} if it did not write the table."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
    except (ValueError, KeyError, TypeError):
        return {}
    return features if isinstance(features, dict) else {}


def _columns(schema: Any, file: Path) -> tuple[str, str | None]:
    """The columns of pictures and, if there is one, of classes."""
    features, names = _features(schema), list(schema.names)
    images = [n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "Image" and n in names]
    picture = next(iter([*images, *(name for name in _PICTURES if name in names)]), None)
    if picture is None:
        raise DataError(f"{file} has no column of pictures ({', '.join(_PICTURES)}); it has: {', '.join(names)}")
    classes = [n for n, f in features.items() if isinstance(f, dict) and f.get("_type") == "ClassLabel" and n in names]
    return picture, next(iter([*classes, *(name for name in _LABELS if name in names)]), None)


def _labels(schema: Any, column: str, values: list[Any]) -> list[str]:
    """Numbers become names where the table knows them; [] if a row has no class."""
    if any(value is None for value in values):
        return []
    names = (_features(schema).get(column) or {}).get("names")
    if isinstance(names, list):
        return [names[v] if isinstance(v, int) and 0 <= v < len(names) else str(v) for v in values]
    return [str(value) for value in values]


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""LSUN as published (https://github.com/fyu/lsun): a folder with an LMDB, key -> WebP or JPEG of one picture.

Needs the package lmdb, `pip install "smalti[lmdb]"`.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, BinaryIO
from weakref import WeakValueDictionary

from smalti.data.sources.base import named
from smalti.errors import DataError
from smalti.files import sha256_file

_OPEN: WeakValueDictionary[Path, Any] = WeakValueDictionary()
"""LMDB refuses to open a folder twice in one process: sources of the same folder share the environment."""
_LOCK = threading.Lock()


class LsunSource:
    """All pictures of an LMDB folder, by key. Nothing is written to the folder."""

    kind = "LMDB"
    labels = None

    def __init__(self, folder: Path) -> None:
        self.name, self._file = str(folder), folder / "data.mdb"
        self._lmdb = _package(folder)
        try:
            with _LOCK:
                environment: Any = _OPEN.get(folder.resolve())
                if environment is None:
                    # no lock file (the folder may be read-only), no read-ahead (pictures are fetched one by one)
                    environment = self._lmdb.open(str(folder), readonly=True, lock=False, readahead=False, create=False)
                    _OPEN[folder.resolve()] = environment
                self._environment = environment
            _check_whole(self._file, environment)
            with self._environment.begin() as transaction, transaction.cursor() as cursor:
                self._keys: list[bytes] = list(cursor.iternext(keys=True, values=False))
        except self._lmdb.Error as error:
            raise DataError(f"{folder} is not a readable LMDB folder: {error}") from error
        self.names = [key.decode("utf-8", "backslashreplace") for key in self._keys]

    def stored(self, index: int) -> BinaryIO:
        name = f"{self.name}: {self.names[index]}"
        try:
            with self._environment.begin() as transaction:
                data = transaction.get(self._keys[index])
        except self._lmdb.Error as error:
            raise DataError(f"{name} cannot be read: {error}") from error
        if data is None:
            raise DataError(f"{name} has gone: the LMDB changed while it was read")
        return named(bytes(data), name)

    def fingerprint(self) -> str:
        return sha256_file(self._file)


def _check_whole(file: Path, environment: Any) -> None:
    """Raise DataError for a file that ends early: to read behind its end would kill the process."""
    needed = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
    if file.stat().st_size < needed:
        raise DataError(f"{file} is incomplete: {file.stat().st_size:,} of {needed:,} bytes; download it again")


def _package(folder: Path) -> Any:
    try:
        import lmdb
    except ImportError:
        raise DataError(f'{folder} is an LMDB folder: to read it, pip install "smalti[lmdb]"') from None
    return lmdb

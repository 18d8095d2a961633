"""Codes of one picture as a small `.npz`: what `smalti encode` writes. Reading runs no code."""

from __future__ import annotations

import io
import zipfile
import zlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from smalti.codes import CodeGrid
from smalti.errors import InputError, UsageError
from smalti.files import write_bytes

_MOST_BYTES = 1 << 28  # unpacked: more is no picture
# what numpy and zipfile raise over damaged bytes; AttributeError and TypeError come from a bare .npy
_UNREADABLE = (
    OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, NotImplementedError, RuntimeError,
    OverflowError, SyntaxError, MemoryError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip


class SavedCodes(NamedTuple):
    """What a file of codes holds."""

    grid: CodeGrid
    size: tuple[int, int] | None
    """Width and height in pixels of the encoded picture, whose sides need not be whole cells."""


def save_codes(grid: CodeGrid, path: str | Path, *, size: tuple[int, int] | None = None, force: bool = False) -> None:
    """Write a grid with its codebook size, model, and the picture's size. Raises OutputError if it cannot."""
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        codes=grid.codes.numpy().astype(np.int32),
        codebook_size=np.int64(grid.codebook_size),
        model=np.str_(grid.model or ""),
        size=np.array(size or (0, 0), np.int64),
    )
    write_bytes(path, buffer.getvalue(), force=force)


def load_codes(path: str | Path) -> SavedCodes:
    """Read a file written by `save_codes`. Raises InputError naming the file."""
    not_ours = InputError(f"{path} is not a file of codes written by smalti encode")
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > _MOST_BYTES:
                raise not_ours  # checked before anything is unpacked
        with np.load(path, allow_pickle=False) as data:
            codes, count, model = data["codes"], int(data["codebook_size"]), str(data["model"])
            width, height = (int(v) for v in data["size"])
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder, not a file of codes") from None
    except _UNREADABLE:
        raise not_ours from None
    if codes.dtype.kind not in "iu":
        raise not_ours
    try:
        grid = CodeGrid(torch.from_numpy(codes.astype(np.int64)), count, model or None)
    except UsageError as error:
        raise InputError(f"{path}: {error}") from None
    return SavedCodes(grid, (width, height) if min(width, height) > 0 else None)

"""Codes that exist already, in place of pictures: a latents file of unleashing-transformers, or a .npy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from smalti.errors import DataError, UsageError
from smalti.formats import read_latents
from smalti.randomness import Purpose, permutation
from smalti.training.recipe import DataOptions

_MOST_HELD = 1000
GivenCodes = npt.NDArray[np.integer[Any]]


def given_codes(data: DataOptions, codebook_size: int, cell: int) -> tuple[GivenCodes, GivenCodes]:
    """(training, validation) codes `(count, h, w)` of `data.codes`, and of `data.validation` if there is one.

    The grid is that of pictures of `data.size`. Raises DataError for a file that holds no codes of such a codebook,
    UsageError if its grid is another.
    """
    assert data.codes is not None
    grid = -(-data.size[0] // cell), -(-data.size[1] // cell)
    codes = _read(data.codes, codebook_size, grid)
    if data.validation is not None:
        return codes, _read(data.validation, codebook_size, grid)
    count = min(_MOST_HELD, max(1, round(data.validation_share * len(codes))))  # as pictures are split
    if count >= len(codes):
        raise DataError(f"{data.codes} holds {len(codes)} picture(s): too few to hold some out for validation")
    order = permutation(0, Purpose.CHOOSE, len(codes))
    return codes[np.sort(order[count:])], codes[np.sort(order[:count])]


def _read(path: str, codebook_size: int, grid: tuple[int, int]) -> GivenCodes:
    if not Path(path).is_file():
        raise DataError(f"no file of codes at {path}")
    try:
        if Path(path).suffix == ".npy":
            return _read_npy(path, codebook_size, grid)
        return read_latents(path, codebook_size=codebook_size, grid=grid).numpy()
    except UsageError as error:
        raise UsageError(f"{str(error).removesuffix(': give the grid')}: set data.size to the pictures' height and "
                         "width in pixels", field="data.size") from None  # fmt: skip


def _read_npy(path: str, codebook_size: int, grid: tuple[int, int]) -> GivenCodes:
    try:
        codes: GivenCodes = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path} is damaged, or no .npy: {str(error).splitlines()[0]}") from None
    if codes.dtype.kind not in "iu" or codes.ndim not in (2, 3) or not codes.size:
        raise DataError(f"{path} holds {codes.dtype} of shape {codes.shape}, not codes (count, height, width)")
    if codes.shape[1:] not in (grid, (grid[0] * grid[1],)):
        raise UsageError(f"{path} holds {'x'.join(map(str, codes.shape[1:]))} codes per picture, not {_by(grid)}")
    low, high = int(codes.min()), int(codes.max())
    if low < 0 or high >= codebook_size:
        raise DataError(f"{path} holds the code {low if low < 0 else high}, outside 0..{codebook_size - 1}")
    return codes.reshape(-1, *grid)


def _by(grid: tuple[int, int]) -> str:
    return f"{grid[0]}x{grid[1]}"

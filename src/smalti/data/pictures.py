"""A data set ready for training: every picture in one memory-mapped array of the training size.

Pictures are decoded and scaled once, into `pictures-<key>.npy` of a cache folder; the key covers the contents of the
source and the size, so a changed source makes a new file. Damaged pictures are named and left out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from smalti.data.sources import ArraySource, Source, open_source
from smalti.data.transforms import enlarged, fit
from smalti.errors import DataError, InputError
from smalti.files import atomic_write, explained, sha256_bytes, write_text
from smalti.randomness import Purpose, permutation

Message = Callable[[str], None]
_CHUNK = 256
"""Pictures decoded at a time; bounds the memory of the first pass."""


@dataclass(frozen=True)
class Pictures:
    """Some pictures of one size."""

    pixels: npt.NDArray[np.uint8]
    """uint8 `(all, H, W, 3)`, usually a memory map."""
    chosen: npt.NDArray[np.int64]
    """int64 `(count,)`: the rows of `pixels` that belong to this set."""
    fingerprint: str
    """sha256 of what the set contains."""

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def batch(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Pictures `indices` (0..len-1) of the set: uint8 `(n, H, W, 3)`, a copy."""
        return self.pixels[self.chosen[indices]]

    def subset(self, chosen: npt.NDArray[np.int64]) -> Pictures:
        """The pictures at `chosen` (indices into this set)."""
        rows = self.chosen[chosen]
        return Pictures(self.pixels, rows, sha256_bytes(self.fingerprint.encode() + rows.tobytes()))


def load_pictures(
    path: str | Path, size: tuple[int, int], cache: Path, *, message: Message = lambda text: None, workers: int = 4
) -> Pictures:
    """All pictures at `path` (see `open_source`) as `size` = (height, width) pixels.

    Raises DataError if there are none, or all are damaged. The pixels of a .npy file of that size are used in place.
    """
    source = open_source(path)
    fingerprint = source.fingerprint()
    if isinstance(source, ArraySource) and source.pixels.shape[1:3] == size:
        return Pictures(source.pixels, np.arange(len(source.pixels)), fingerprint)
    key = sha256_bytes(f"{fingerprint} {size[0]}x{size[1]} fit".encode())
    array, facts = cache / f"pictures-{key[:16]}.npy", cache / f"pictures-{key[:16]}.json"
    if not (array.is_file() and facts.is_file() and json.loads(facts.read_text("utf-8")).get("key") == key):
        with explained(cache):
            cache.mkdir(parents=True, exist_ok=True)
        message(f"reading {len(source.names)} pictures of {source.name}")
        skipped = _write_pixels(source, size, array, message, workers)
        note = {"key": key, "source": source.name, "size": list(size), "skipped": skipped}
        write_text(facts, json.dumps(note, indent=1), force=True)
    pixels = np.load(array, mmap_mode="r", allow_pickle=False)
    return Pictures(pixels, np.arange(len(pixels)), key)


def split(pictures: Pictures, share: float, most: int = 1000) -> tuple[Pictures, Pictures]:
    """(training, validation): `share` of the pictures is held out, at least 1 and at most `most`, always the same."""
    count = min(most, max(1, round(share * len(pictures))))
    if count >= len(pictures):
        raise DataError(f"{len(pictures)} picture(s) cannot be split into training and validation: give more pictures")
    order = permutation(0, Purpose.CHOOSE, len(pictures))
    return pictures.subset(np.sort(order[count:])), pictures.subset(np.sort(order[:count]))


def _write_pixels(source: Source, size: tuple[int, int], target: Path, message: Message, workers: int) -> list[str]:
    """Decode all into `target` and return the names of those that could not be."""
    skipped: list[str] = []
    small = 0

    def read(index: int) -> tuple[npt.NDArray[np.uint8], bool] | InputError:
        try:
            image = source.open(index)
        except InputError as error:
            return error
        return fit(image, *size), enlarged(image, *size)

    def rows() -> Iterator[npt.NDArray[np.uint8]]:
        nonlocal small
        with ThreadPoolExecutor(workers) as pool:
            for start in range(0, len(source.names), _CHUNK):
                chunk = range(start, min(start + _CHUNK, len(source.names)))
                for index, result in zip(chunk, pool.map(read, chunk), strict=True):
                    if isinstance(result, InputError):
                        skipped.append(source.names[index])
                        message(f"left out: {result}")
                    else:
                        small += result[1]
                        yield result[0]

    with atomic_write(target, force=True) as temporary:
        count = _write_npy(temporary, rows(), size)
        if not count:
            raise DataError(f"none of the {len(source.names)} pictures of {source.name} can be read")
    if small:
        message(f"{small} of {count} pictures are smaller than {size[0]}x{size[1]} and were enlarged")
    return skipped


def _write_npy(path: Path, rows: Iterator[npt.NDArray[np.uint8]], size: tuple[int, int]) -> int:
    """Write rows of unknown number as one .npy file: the header, of fixed length, is written again at the end."""

    def header(count: int) -> bytes:
        text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count}, {size[0]}, {size[1]}, 3), }}"
        return b"\x93NUMPY\x01\x00" + (246).to_bytes(2, "little") + text.ljust(245).encode() + b"\n"

    count = 0
    with path.open("wb") as file:
        file.write(header(0))
        for row in rows:
            file.write(row.tobytes())
            count += 1
        file.seek(0)
        file.write(header(count))
    return count

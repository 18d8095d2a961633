"""A data set ready for training: every picture in one memory-mapped array of the training size.

Pictures are decoded and scaled once, into `pictures-<key>.npy` of a cache folder; the key covers the contents of the
source and the size, so a changed source makes a new file. Damaged pictures are named and left out.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from smalti.data.sources import ArraySource, Source, open_picture, open_source
from smalti.data.transforms import Pixels, enlarged, fit, random_cut
from smalti.errors import DataError, InputError, OutputError
from smalti.files import atomic_write, explained, sha256_bytes, write_text
from smalti.randomness import Purpose, permutation, uniforms

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
    cuts: int = 1
    """Rows of `pixels` made from each picture: they follow each other, the middle first. 1 after `split`."""
    classes: tuple[str, ...] = ()
    """Names of the classes, sorted; () if there are none."""
    labels: npt.NDArray[np.int64] | None = None
    """int64 `(all,)`: the class of each row of `pixels`, if there are classes."""

    def __len__(self) -> int:
        return len(self.chosen)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    def batch(self, indices: npt.NDArray[np.int64]) -> npt.NDArray[np.uint8]:
        """Pictures `indices` (0..len-1) of the set: uint8 `(n, H, W, 3)`, a copy."""
        return self.pixels[self.chosen[indices]]

    def own_labels(self) -> npt.NDArray[np.int64]:
        """int64 `(count,)`: the class of each picture of the set. Raises DataError if there are no classes."""
        if self.labels is None:
            raise DataError("these pictures have no classes: put those of each class into a folder of its own")
        return self.labels[self.chosen]

    def with_classes(self, classes: Sequence[str]) -> Pictures:
        """The same pictures with their labels counted by `classes`. Raises DataError for a class that is not there."""
        self.own_labels()
        unknown = [name for name in self.classes if name not in classes]
        if unknown:
            raise DataError(f"pictures of the class {unknown[0]!r}, which is none of {', '.join(classes)}")
        numbers = np.array([list(classes).index(name) for name in self.classes], np.int64)
        return replace(self, classes=tuple(classes), labels=numbers[self.labels])

    def subset(self, chosen: npt.NDArray[np.int64]) -> Pictures:
        """The pictures at `chosen` (indices into this set)."""
        rows = self.chosen[chosen]
        fingerprint = sha256_bytes(self.fingerprint.encode() + rows.tobytes())
        return Pictures(self.pixels, rows, fingerprint, classes=self.classes, labels=self.labels)


def load_pictures(
    path: str | Path | Source,
    size: tuple[int, int],
    cache: Path,
    *,
    cuts: int = 1,
    zoom: float = 1.0,
    message: Message = lambda text: None,
    report: Callable[[int, int], None] = lambda done, count: None,
    workers: int = 4,
) -> Pictures:
    """All pictures at `path` (see `open_source`), or of a source, as `size` = (height, width) pixels.

    cuts, zoom: of each picture the middle, and `cuts` - 1 random parts magnified up to `zoom` times (`random_cut`);
    which parts depends on nothing but the picture's place in the source. report: hears (pictures read, all). Raises
    DataError if there are no pictures, or all are damaged, OutputError if the disk has no room for them. The pixels of
    a .npy file of that size are used in place.
    """
    source = open_source(path) if isinstance(path, str | Path) else path
    fingerprint = source.fingerprint()
    if cuts == 1 and isinstance(source, ArraySource) and source.pixels.shape[1:3] == size:
        return Pictures(source.pixels, np.arange(len(source.pixels)), fingerprint)
    how = "fit" if cuts == 1 else f"fit cuts={cuts} zoom={zoom}"
    key = sha256_bytes(f"{fingerprint} {size[0]}x{size[1]} {how}".encode())
    array, facts = cache / f"pictures-{key[:16]}.npy", cache / f"pictures-{key[:16]}.json"
    if not (array.is_file() and facts.is_file() and json.loads(facts.read_text("utf-8")).get("key") == key):
        with explained(cache):
            cache.mkdir(parents=True, exist_ok=True)
        space = len(source.names) * cuts * 3 * size[0] * size[1]
        message(f"reading {len(source.names)} pictures of {source.name} ({source.kind}); {space / 1e6:,.0f} MB of disk")
        if space > (free := shutil.disk_usage(cache).free):
            raise OutputError(f"{cache} needs {space / 1e9:.1f} GB for the pictures, {free / 1e9:.1f} GB are free")
        skipped = _Reader(source, size, cuts, zoom, message, report, workers).write(array)
        note = {"key": key, "source": source.name, "size": list(size), "cuts": cuts, "skipped": skipped}
        write_text(facts, json.dumps(note, indent=1), force=True)
    pixels = np.load(array, mmap_mode="r", allow_pickle=False)
    skipped = json.loads(facts.read_text("utf-8"))["skipped"]
    classes, labels = _classes(source, set(skipped), cuts)
    return Pictures(pixels, np.arange(len(pixels)), key, cuts, classes, labels)


def split(pictures: Pictures, share: float, most: int = 1000) -> tuple[Pictures, Pictures]:
    """(training, validation): `share` of the pictures is held out, at least 1 and at most `most`, always the same.

    All cuts of a picture are on one side; of those held out, the middle alone is used.
    """
    whole = len(pictures) // pictures.cuts
    count = held_out(whole, share, most)
    if count >= whole:
        raise DataError(f"{whole} picture(s) cannot be split into training and validation: give more pictures")
    order = permutation(0, Purpose.CHOOSE, whole)
    cuts = np.arange(pictures.cuts)
    training = (np.sort(order[count:])[:, None] * pictures.cuts + cuts).reshape(-1)
    return pictures.subset(training), pictures.subset(np.sort(order[:count]) * pictures.cuts)


def held_out(count: int, share: float, most: int = 1000) -> int:
    """How many of `count` pictures `split` takes for validation."""
    return min(most, max(1, round(share * count)))


def _classes(source: Source, skipped: set[str], cuts: int) -> tuple[tuple[str, ...], npt.NDArray[np.int64] | None]:
    """Names of the classes, and the class of each row."""
    if source.labels is None:
        return (), None
    kept = [label for name, label in zip(source.names, source.labels, strict=True) if name not in skipped]
    names, numbers = np.unique(np.array(kept), return_inverse=True)
    return tuple(str(name) for name in names), np.repeat(numbers.astype(np.int64), cuts)


class _Reader:
    """Decodes and scales all pictures of a source into one file."""

    def __init__(
        self,
        source: Source,
        size: tuple[int, int],
        cuts: int,
        zoom: float,
        message: Message,
        report: Callable[[int, int], None],
        workers: int,
    ) -> None:
        self.source, self.size, self.cuts, self.zoom = source, size, cuts, zoom
        self.message, self.report, self.workers = message, report, workers
        self.skipped: list[str] = []
        self.small = 0

    def write(self, target: Path) -> list[str]:
        """Write `target` and return the names of the pictures that could not be read."""
        with atomic_write(target, force=True) as temporary:
            count = _write_npy(temporary, self._rows(), self.size) // self.cuts
            if not count:
                what = f"{len(self.source.names)} pictures of {self.source.name}"
                raise DataError(f"none of the {what} can be read")
        if self.small:
            high, wide = self.size
            self.message(f"{self.small} of {count} pictures are smaller than {high}x{wide} and were enlarged")
        return self.skipped

    def _rows(self) -> Iterator[Pixels]:
        total = len(self.source.names)
        with ThreadPoolExecutor(self.workers) as pool:
            for start in range(0, total, _CHUNK):
                chunk = range(start, min(start + _CHUNK, total))
                for index, result in zip(chunk, pool.map(self._read, chunk), strict=True):
                    if isinstance(result, InputError):
                        self.skipped.append(self.source.names[index])
                        self.message(f"left out: {result}")
                    else:
                        self.small += result[1]
                        yield from result[0]
                self.report(chunk.stop, total)

    def _read(self, index: int) -> tuple[list[Pixels], bool] | InputError:
        try:
            image = open_picture(self.source, index)
        except InputError as error:
            return error
        places = uniforms(1, Purpose.CHOOSE, np.arange(3 * self.cuts), step=index).reshape(self.cuts, 3).tolist()
        parts = [random_cut(image, *self.size, self.zoom, (z, x, y)) for z, x, y in places[1:]]
        return [fit(image, *self.size), *parts], enlarged(image, *self.size)


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

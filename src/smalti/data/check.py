"""What is in a data set, and what training will make of it: every picture is decoded once, nothing is written."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from smalti.data.sources import Source, open_source
from smalti.data.transforms import cut_away
from smalti.errors import InputError
from smalti.images import FORMATS, open_image

_CHUNK = 256
"""Pictures looked at between two reports."""


@dataclass(frozen=True)
class Broken:
    """A picture that cannot be read."""

    name: str
    reason: str


@dataclass(frozen=True)
class Checkup:
    """What `check` found. Sizes are (height, width) in pixels, after turning pictures upright."""

    path: str
    kind: str
    count: int
    """All pictures, the broken ones too."""
    sizes: dict[tuple[int, int], int]
    """How many of each size, the most frequent first."""
    modes: dict[str, int]
    """How many in each of Pillow's modes (RGB, L, RGBA ...), as they are kept."""
    formats: dict[str, int]
    """How many in each file format."""
    classes: dict[str, int] | None
    """How many of each class, broken ones left out; None if there are no classes."""
    broken: tuple[Broken, ...]
    duplicates: tuple[tuple[str, ...], ...]
    """Names of pictures that are the same to the pixel, in groups."""
    size: tuple[int, int]
    """The training size that the next three speak of."""
    smaller: tuple[str, ...]
    """Pictures that have to be enlarged to cover `size`."""
    untouched: int
    """Pictures that have `size` already."""
    cut_away: float
    """The mean share of a picture that is cut off, 0..1."""

    @property
    def readable(self) -> int:
        return self.count - len(self.broken)

    @property
    def repeated(self) -> int:
        """Pictures that could be left out, because another is the same."""
        return sum(len(group) - 1 for group in self.duplicates)

    @property
    def warnings(self) -> list[str]:
        """What should be known before training, in words."""
        said, wanted = [], f"{self.size[0]}x{self.size[1]}"
        if not self.readable:
            said.append("none of the pictures can be read: there is nothing to train on")
        elif self.readable == 1:
            said.append("one picture is not enough: training needs another to validate on")
        if self.broken:
            said.append(f"{len(self.broken)} broken file(s) will be left out")
        if self.smaller:
            said.append(f"{len(self.smaller)} picture(s) are smaller than {wanted} and would be enlarged: blurry")
        if self.repeated:
            said.append(f"{self.repeated} picture(s) repeat another to the pixel: they count twice, and may be on both "
                        "sides of the split into training and validation")  # fmt: skip
        if self.cut_away > 0.4:
            said.append(f"{self.cut_away:.0%} of the average picture would be cut away: a size closer to the pictures' "
                        "own shape keeps more")  # fmt: skip
        return said


def check(
    path: str | Path,
    size: tuple[int, int] = (128, 128),
    *,
    report: Callable[[int, int], None] = lambda done, total: None,
    workers: int = 4,
) -> Checkup:
    """Look at every picture at `path` (see `open_source`), as training at `size` = (height, width) would.

    report: called with (done, total) pictures. Raises DataError if there are no pictures; broken ones are listed.
    """
    source = open_source(path)
    total = len(source.names)
    broken: list[Broken] = []
    found: dict[int, _Facts] = {}
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, total, _CHUNK):
            chunk = range(start, min(start + _CHUNK, total))
            for index, facts in zip(chunk, pool.map(lambda i: _look(source, i), chunk), strict=True):
                if isinstance(facts, InputError):
                    broken.append(Broken(source.names[index], str(facts)))
                else:
                    found[index] = facts
            report(chunk.stop, total)
    same: dict[bytes, list[str]] = {}
    for index, facts in found.items():
        same.setdefault(facts.digest, []).append(source.names[index])
    sizes = Counter(facts.size for facts in found.values())
    labels = source.labels
    return Checkup(
        path=str(path),
        kind=source.kind,
        count=total,
        sizes=dict(sizes.most_common()),
        modes=dict(Counter(facts.mode for facts in found.values()).most_common()),
        formats=dict(Counter(facts.format for facts in found.values()).most_common()),
        classes=None if labels is None else dict(sorted(Counter(labels[index] for index in found).items())),
        broken=tuple(broken),
        duplicates=tuple(tuple(names) for names in same.values() if len(names) > 1),
        size=size,
        smaller=tuple(source.names[index] for index, f in found.items() if f.size[0] < size[0] or f.size[1] < size[1]),
        untouched=sizes[size],
        cut_away=sum(cut_away(own, *size) * count for own, count in sizes.items()) / max(len(found), 1),
    )


@dataclass(frozen=True)
class _Facts:
    size: tuple[int, int]
    mode: str
    format: str
    digest: bytes


def _look(source: Source, index: int) -> _Facts | InputError:
    try:
        stored = source.stored(index)
        image = open_image(stored)  # refuses what is damaged or far too large, before anything else is read
    except InputError as error:
        return error
    if isinstance(stored, Image.Image):
        mode, kind = stored.mode, "array"
    else:
        stored.seek(0)
        with Image.open(stored, formats=FORMATS) as header:
            mode, kind = header.mode, header.format or "unknown"
    digest = hashlib.sha256(f"{image.width} ".encode() + image.tobytes()).digest()
    return _Facts((image.height, image.width), mode, kind, digest)

"""Draw the faces of data/faces-adventurer-*.svgs.xz. Needs Pillow and resvg-py (extra `train`).

    python tools/draw_faces.py data/faces-adventurer-train.svgs.xz data/drawn/faces-train.npy
    python tools/draw_faces.py data/faces-adventurer-val.svgs.xz data/drawn/faces-val.npy --count 1000
    python tools/draw_faces.py data/faces-adventurer-val.svgs.xz some-folder --count 50 --size 256

Each line of the compressed file is one SVG. A name ending in .npy gets one array, uint8 (count, size, size, 3); any
other name a folder of PNGs. 100 to 250 pictures of 128x128 a second on one core.

Faces: "Adventurer" by Lisa Wischofsky, CC BY 4.0; see data/README.md for the line to ship with what is made of them.
"""

from __future__ import annotations

import argparse
import io
import lzma
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image


def faces(source: Path, size: int, first: int = 0, count: int | None = None) -> Iterator[Image.Image]:
    """Pictures of lines `first`.. of `source` as RGB, `size` x `size` pixels."""
    with lzma.open(source, "rt", encoding="utf-8") as lines:
        for line in islice(lines, first, None if count is None else first + count):
            png = resvg_py.svg_to_bytes(svg_string=line.strip(), width=size, height=size)
            yield Image.open(io.BytesIO(bytes(png))).convert("RGB")


def lines_in(source: Path) -> int:
    with lzma.open(source, "rb") as lines:
        return sum(1 for _ in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw faces from compressed SVGs.")
    parser.add_argument("source", type=Path, help="a .svgs.xz file: one SVG per line")
    parser.add_argument("target", type=Path, help="NAME.npy, or a folder for PNGs")
    parser.add_argument("--first", type=int, default=0, help="first line to draw")
    parser.add_argument("--count", type=int, help="how many; default: all")
    parser.add_argument("--size", type=int, default=128, help="pixels per side")
    given = parser.parse_args()
    count = max(0, lines_in(given.source) - given.first)
    count = count if given.count is None else min(count, given.count)
    pictures = faces(given.source, given.size, given.first, count)
    if given.target.suffix == ".npy":
        given.target.parent.mkdir(parents=True, exist_ok=True)
        beside = given.target.with_name(f".{given.target.name}.part")
        pixels = np.lib.format.open_memmap(beside, "w+", np.uint8, (count, given.size, given.size, 3))
        for row, image in enumerate(pictures):
            pixels[row] = np.asarray(image)
        pixels.flush()
        beside.rename(given.target)
    else:
        given.target.mkdir(parents=True, exist_ok=True)
        for row, image in enumerate(pictures):
            image.save(given.target / f"face-{given.first + row:06d}.png")
    print(given.target)


if __name__ == "__main__":
    main()

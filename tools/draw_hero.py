"""Draw docs/hero.png, the picture at the head of the README, with the built-in models.

    python tools/draw_hero.py [--out docs/hero.png] [--faces builtin:faces] [--churches builtin:churches]

Above: a face, the part to remake, four results. Below: a church and what grew around it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from PIL import Image, ImageDraw

from smalti import Pipeline

ROOT = Path(__file__).resolve().parents[1]
PICTURES = ROOT / "examples" / "pictures"
MOUTH = "9:14,4:10"
GAP = 10
RADIUS = 8


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--out", type=Path, default=ROOT / "docs" / "hero.png")
    words.add_argument("--faces", default="builtin:faces")
    words.add_argument("--churches", default="builtin:churches")
    words.add_argument("--seed", type=int, default=11)
    given = words.parse_args()

    faces = Pipeline.from_pretrained(given.faces)
    face = PICTURES / "face-a.png"
    request = faces.request({"kind": "inpaint", "region": MOUTH}, {})
    mouths = faces.inpaint(face, MOUTH, num_images=4, seed=given.seed).images
    above = [Image.open(face), faces.show_mask(request, [face]), *mouths]

    churches = Pipeline.from_pretrained(given.churches)
    church = PICTURES / "church-c.png"
    width = row(above).width
    beside = -(-(width - 128) // churches.tokenizer.cell)  # cells to add, then cut to the width of the row above
    wide = churches.extend(church, left=beside // 2, right=beside - beside // 2, seed=given.seed).images[0]
    wide = wide.crop((0, 0, width, wide.height))
    given.out.parent.mkdir(parents=True, exist_ok=True)
    stacked([row(above), rounded(wide)]).save(given.out, optimize=True)
    print(given.out)


def row(pictures: Sequence[Image.Image]) -> Image.Image:
    """Side by side with a gap, on nothing."""
    out = Image.new("RGBA", (sum(p.width + GAP for p in pictures) - GAP, max(p.height for p in pictures)))
    x = 0
    for picture in map(rounded, pictures):
        out.paste(picture, (x, 0))
        x += picture.width + GAP
    return out


def stacked(pictures: Sequence[Image.Image]) -> Image.Image:
    """One above the other with a gap, on nothing."""
    out = Image.new("RGBA", (max(p.width for p in pictures), sum(p.height + GAP for p in pictures) - GAP))
    y = 0
    for picture in pictures:
        out.paste(picture, (0, y))
        y += picture.height + GAP
    return out


def rounded(picture: Image.Image) -> Image.Image:
    """With round corners, drawn large and made small."""
    mask = Image.new("L", (4 * picture.width, 4 * picture.height))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, mask.width - 1, mask.height - 1), 4 * RADIUS, fill=255)
    out = picture.convert("RGBA")
    out.putalpha(mask.resize(picture.size, Image.Resampling.LANCZOS))
    return out


if __name__ == "__main__":
    main()

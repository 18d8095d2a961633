"""The folder that the FFHQ download script makes (https://github.com/NVlabs/ffhq-dataset).

ffhq/images1024x1024/00000/00000.png ... 69000/69999.png    aligned, 1024x1024
     thumbnails128x128/00000/00000.png ...                  the same, 128x128
     in-the-wild-images/00000/00000.png ...                 before alignment
     ffhq-dataset-v2.json
The folders are thousands, not classes, and the same face is there up to three times.
"""

from __future__ import annotations

from pathlib import Path

_ALIGNED = ("images1024x1024", "thumbnails128x128")


def ffhq_pictures(folder: Path) -> Path | None:
    """The folder of aligned pictures if `folder` is laid out as FFHQ (the root, or one of its parts), else None.

    Of the root, the large pictures are taken if they are there.
    """
    for place in (*(folder / name for name in _ALIGNED), folder):
        if place.is_dir() and _in_thousands(place):
            return place
    return None


def _in_thousands(folder: Path) -> bool:
    """Whether the pictures lie in folders 00000, 01000, 02000 ..., each under its own number."""
    inner = [p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")]
    if not inner or not all(len(p.name) == 5 and p.name.isdigit() and p.name.endswith("000") for p in inner):
        return False
    first = next((p for p in min(inner).iterdir() if not p.name.startswith(".")), None)
    return first is not None and first.stem.isdigit() and first.stem[:2] == first.parent.name[:2]

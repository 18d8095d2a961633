"""`check` sees what training would stumble over."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from smalti.data.check import check
from smalti.errors import DataError


def noise(seed: int, height: int, width: int, channels: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, channels), dtype=np.uint8)
    return Image.fromarray(pixels.squeeze())


def test_everything_is_counted(tmp_path: Path) -> None:
    for folder in ("cats", "dogs"):
        (tmp_path / folder).mkdir()
    for name, image in {
        "cats/a.png": noise(1, 20, 40),
        "cats/b.jpg": noise(2, 10, 20, 1),
        "cats/c.bmp": noise(1, 20, 40),  # a.png in another format
        "dogs/d.png": noise(3, 10, 10, 4),
        "dogs/e.png": noise(4, 5, 30),
    }.items():
        image.save(tmp_path / name)
    (tmp_path / "dogs" / "f.png").write_bytes((tmp_path / "cats" / "a.png").read_bytes()[:99])
    seen: list[tuple[int, int]] = []

    def report(done: int, total: int) -> None:
        seen.append((done, total))

    found = check(tmp_path, (10, 10), report=report)
    assert (found.kind, found.count, found.readable, seen) == ("folder", 6, 5, [(6, 6)])
    assert found.sizes == {(20, 40): 2, (10, 20): 1, (10, 10): 1, (5, 30): 1}
    assert found.modes == {"RGB": 3, "L": 1, "RGBA": 1}
    assert found.formats == {"PNG": 3, "JPEG": 1, "BMP": 1}
    assert found.classes == {"cats": 3, "dogs": 2}
    assert [one.name for one in found.broken] == ["dogs/f.png"]
    assert "dogs/f.png is damaged" in found.broken[0].reason
    assert found.duplicates == (("cats/a.png", "cats/c.bmp"),)
    assert (found.repeated, found.untouched, found.smaller) == (1, 1, ("dogs/e.png",))
    assert found.cut_away == pytest.approx((0.5 * 3 + 0 + 5 / 6) / 5)
    said = " ".join(found.warnings)
    for part in ("1 broken", "1 picture(s) are smaller than 10x10", "1 picture(s) repeat", "47% of the average"):
        assert part in said


def test_a_clean_set_has_no_warnings(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.random.default_rng(0).integers(0, 256, (4, 8, 12, 3), dtype=np.uint8))
    found = check(tmp_path / "a.npy", (8, 12))
    assert (found.warnings, found.classes, found.untouched, found.formats) == ([], None, 4, {"array": 4})


def test_too_little(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        check(tmp_path)
    (tmp_path / "a.png").write_bytes(b"")
    assert "none of the pictures can be read" in check(tmp_path).warnings[0]
    noise(1, 200, 200).save(tmp_path / "b.png")
    assert "one picture is not enough" in check(tmp_path).warnings[0]

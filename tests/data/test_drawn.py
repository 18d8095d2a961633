"""The programs that draw the built-in models' data draw what they always drew."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]


def tool(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("index", "plan", "tower", "facade", "digest"),
    [
        (0, "dome", "pyramid", "rose", "62d1f56a421c4978"),
        (1, "single", "pyramid", "rose", "ffdf02ba5d28fa51"),
        (2, "single", "spire", "clock", "b6ad8aeafebd62db"),
        (19999, "single", "dome", "rose", "da3d449fdde30239"),
        (1000000, "single", "spire", "lancets", "b5468ee4ae8470ec"),
    ],
)
def test_churches_to_the_pixel(index: int, plan: str, tower: str, facade: str, digest: str) -> None:
    image, what = tool("draw_churches").church(index)
    assert (what["plan"], what["tower"], what["facade"]) == (plan, tower, facade)
    assert hashlib.sha256(image.tobytes()).hexdigest()[:16] == digest


def test_church_files(tmp_path: Path) -> None:
    for target in ("a.npy", "pngs"):
        command = [sys.executable, ROOT / "tools/draw_churches.py", tmp_path / target, "--count", "2", "--size", "32"]
        subprocess.run(command, check=True, capture_output=True)
    assert np.load(tmp_path / "a.npy").shape == (2, 32, 32, 3)
    names = sorted(p.name for p in (tmp_path / "pngs").iterdir())
    assert names == ["attributes.jsonl", "church-000000.png", "church-000001.png"]


def test_faces_from_the_shipped_drawings() -> None:
    pytest.importorskip("resvg_py")
    draw = tool("draw_faces")
    first, second = draw.faces(ROOT / "data/faces-adventurer-val.svgs.xz", 128, count=2)
    assert (first.size, first.mode) == ((128, 128), "RGB")
    assert hashlib.sha256(first.tobytes()).hexdigest()[:16] == "b9784a9332127e52"
    assert first.tobytes() != second.tobytes()
    assert draw.lines_in(ROOT / "data/faces-adventurer-val.svgs.xz") == 2000

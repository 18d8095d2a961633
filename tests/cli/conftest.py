"""A model folder of random weights, and a folder of pictures to work in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.tiny import tiny_pipeline


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_pipeline().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with a.png and b.png in it (61x45 pixels: no whole number of cells)."""
    for seed, name in enumerate(("a.png", "b.png")):
        noise = np.random.default_rng(seed).integers(0, 256, (45, 61, 3), dtype=np.uint8)
        Image.fromarray(noise, "RGB").save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path

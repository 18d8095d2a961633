"""Toy pictures and toy recipes: one training step takes milliseconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from smalti.training import Recipe

TINY_VQGAN = {
    "architecture": {
        "kind": "lean",
        "encoder_channels": [8, 8],
        "encoder_blocks": [1, 1],
        "decoder_channels": [8, 8],
        "decoder_blocks": [1, 1],
    },
    "codebook_size": 16,
    "code_dim": 4,
}
TINY_PRIOR = {"d_model": 16, "n_layers": 1, "n_heads": 1}


def toy_pixels(count: int, side: int = 16, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Two flat colours per picture, left and right: uint8 `(count, side, side, 3)`."""
    rng = np.random.default_rng(seed)
    colours = rng.choice(np.array([20, 120, 230]), (count, 1, 2, 3))
    return np.broadcast_to(np.repeat(colours, side // 2, axis=2), (count, side, side, 3)).astype(np.uint8)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 40 toy pictures."""
    folder = tmp_path_factory.mktemp("pictures")
    for i, pixels in enumerate(toy_pixels(40)):
        Image.fromarray(pixels).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture
def fields(pictures: Path, tmp_path: Path) -> dict[str, Any]:
    """A complete toy recipe as plain fields."""
    stage = {"batch": 4, "precision": "float32", "log_every": 5, "checkpoint_every": 5, "validate_every": 10}
    return {
        "name": "toy",
        "run": str(tmp_path / "run"),
        "device": "cpu",
        "data": {"path": str(pictures), "size": 16, "validation_share": 0.2},
        "tokenizer": {**stage, "steps": 20, "size": "vqgan_tiny", "model": TINY_VQGAN, "revive_every": 10},
        "prior": {**stage, "steps": 20, "size": "tiny", "model": TINY_PRIOR, "samples": 2, "sample_every": 10},
    }


@pytest.fixture
def recipe(fields: dict[str, Any]) -> Recipe:
    return Recipe.model_validate(fields)

"""Fixtures of the pipeline's tests."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image

from pipeline.tiny import tiny_pipeline
from smalti.pipeline.pipeline import Pipeline


@pytest.fixture(scope="session")
def pipe() -> Pipeline:
    return tiny_pipeline()


@pytest.fixture(scope="session")
def picture() -> Callable[..., Image.Image]:
    def make(width: int = 64, height: int = 64, seed: int = 0) -> Image.Image:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        return Image.fromarray(noise, "RGB")

    return make

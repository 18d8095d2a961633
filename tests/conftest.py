"""Fixtures shared by all tests: one torch thread (small machines, bit-stable results) and the optional golden files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("smalti", deadline=None, derandomize=True, max_examples=30, database=None)
settings.load_profile("smalti")
torch.set_num_threads(1)


@pytest.fixture
def shared_golden() -> Path:
    """The folder with the original implementations' files, beside a developer's checkout; skipped elsewhere."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "golden"
    if not folder.is_dir():
        pytest.skip("no ../shared/golden beside this checkout")
    return folder

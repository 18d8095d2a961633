"""Fixtures shared by all tests: one torch thread (small machines, bit-stable results) and the originals' files."""

from __future__ import annotations

import lzma
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("smalti", deadline=None, derandomize=True, max_examples=30, database=None)
settings.load_profile("smalti")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def originals(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints as the original implementations wrote them, with what they answer: tests/golden, unpacked once."""
    packed, folder = Path(__file__).parent / "golden", tmp_path_factory.mktemp("golden")
    for file in packed.rglob("*"):
        if file.is_file():
            target = folder / file.relative_to(packed)
            target.parent.mkdir(parents=True, exist_ok=True)
            content = file.read_bytes()
            if file.suffix == ".xz":
                target, content = target.with_suffix(""), lzma.decompress(content)
            target.write_bytes(content)
    return folder

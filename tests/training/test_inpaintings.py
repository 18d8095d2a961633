"""The inpainting grid: kept codes are kept, and each row shows one picture five times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from smalti.testing import ToyTokenizer, UniformPrior
from smalti.training.inpaintings import draw_inpaintings, middle
from smalti.training.progress import Picture, SilentProgress
from smalti.training.runs import RunFolder


def test_a_row_is_the_picture_the_hole_and_three_results(tmp_path: Path) -> None:
    seen: list[Picture] = []

    class Record(SilentProgress):
        def picture(self, picture: Picture) -> None:
            seen.append(picture)

    tokenizer, prior = ToyTokenizer(8, cell=4), UniformPrior(8, (4, 6))
    codes = torch.randint(0, 8, (5, 4, 6), generator=torch.Generator().manual_seed(0))
    before = codes.clone()
    stage = RunFolder(tmp_path, Record()).stage("prior")
    draw_inpaintings(stage, 7, prior, tokenizer, codes, "float32", 3)  # type: ignore[arg-type]
    assert torch.equal(codes, before)
    path = tmp_path / "samples" / "prior-inpaintings-00000007.png"
    assert seen == [Picture("prior", "inpaintings", 7, path)]
    with Image.open(path) as opened:
        sheet = np.asarray(opened)
    height, width, gap = 16, 24, 2
    assert sheet.shape == (4 * (height + gap) - gap, 5 * (width + gap) - gap, 3)
    tiles = np.array([
        [sheet[r * (height + gap) :, c * (width + gap) :][:height, :width] for c in range(5)] for r in range(4)
    ])  # fmt: skip
    hole = np.zeros((height, width), bool)
    hole[4:12, 4:16] = True  # the middle 2x3 of 4x6 cells
    for column in range(1, 5):
        assert np.array_equal(tiles[:, column, ~hole], tiles[:, 0, ~hole]), "what is kept stays"
    assert (tiles[:, 1, hole] == 128).all()
    results = tiles[:, 2:, hole]
    assert not (results[:, 0] == results[:, 1]).all()
    assert not (results[0] == results[1]).all()
    first = path.read_bytes()
    draw_inpaintings(stage, 7, prior, tokenizer, codes, "float32", 3)  # type: ignore[arg-type]
    assert path.read_bytes() == first


def test_the_middle_of_any_grid() -> None:
    assert middle(16, 16) == (slice(4, 12), slice(4, 12))
    assert middle(1, 3) == (slice(0, 1), slice(1, 2))

"""The region grammar: every form, its inverse, and one clear line for what it does not allow."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smalti.errors import ImageError, UsageError
from smalti.regions import Piece, Region, cells_of_pixels, grow, parse_piece, pixels_of_cells

CELL = 8


def cells(text: str, rows: int = 16, columns: int = 16) -> torch.Tensor:
    return Region.parse(text).to_cells(rows * CELL, columns * CELL, CELL)


def box(row0: int, row1: int, col0: int, col1: int, rows: int = 16, columns: int = 16) -> torch.Tensor:
    mask = torch.zeros(rows, columns, dtype=torch.bool)
    mask[row0:row1, col0:col1] = True
    return mask


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("5:8,3:13", box(5, 8, 3, 13)),
        (" 5 : 8 , 3 : 13 ", box(5, 8, 3, 13)),
        ("center:8x6", box(4, 12, 5, 11)),
        ("center:1x1", box(7, 8, 7, 8)),
        ("center:16x16", box(0, 16, 0, 16)),
        ("top:4", box(0, 4, 0, 16)),
        ("bottom:4", box(12, 16, 0, 16)),
        ("left:4", box(0, 16, 0, 4)),
        ("right:4", box(0, 16, 12, 16)),
        ("px:40:90,32:120", box(5, 12, 4, 15)),
        ("px:7:9,7:9", box(0, 2, 0, 2)),
        ("top:1+bottom:2", box(0, 1, 0, 16) | box(14, 16, 0, 16)),
        ("0:2,0:2 + 1:3,1:3", box(0, 2, 0, 2) | box(1, 3, 1, 3)),
        ("not:top:4", box(4, 16, 0, 16)),
        ("not:top:4+left:4", box(4, 16, 4, 16)),
        ("5:5,3:13", box(0, 0, 0, 0)),
        ("top:0", box(0, 0, 0, 0)),
    ],
)
def test_grammar(text: str, expected: torch.Tensor) -> None:
    assert torch.equal(cells(text), expected)
    again = str(Region.parse(text))
    assert torch.equal(cells(again), expected)  # the text a recipe stores means the same
    assert str(Region.parse(again)) == again


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "5:8", "5:8,3", "a:b,c:d", "-1:3,0:2", "5:8,3:13+", "+5:8,3:13", "center:8", "center:8,6", "middle:3",
        "top:-1", "top:1.5", "top:nan", "px:1:2", "5:8;3:13", "not:", "not:not:top:1", "fit:top:1", "bits:2x2:!!",
        "5:8,3:" + "9" * 5000, "٥:٨,٣:١٣", "mask.txt", "$(rm -rf x)",
    ],
)  # fmt: skip
def test_what_is_not_grammar(text: str) -> None:
    with pytest.raises(UsageError, match="is not understood: write rows:columns as 5:8,3:13") as caught:
        Region.parse(text)
    assert caught.value.field == "region"
    assert len(str(caught.value)) < 300
    with pytest.raises(UsageError):
        Region(text)


@pytest.mark.parametrize(
    "text",
    ["0:17,0:4", "0:4,0:17", "20:30,20:30", "top:17", "right:17", "center:17x2", "px:0:129,0:4", "0:999999999,0:1"],
)
def test_boxes_outside_the_picture(text: str) -> None:
    with pytest.raises(UsageError, match=r"(leaves the picture|is larger than the picture)") as caught:
        cells(text)
    assert "16x16 cells" in str(caught.value) or "128x128 pixels" in str(caught.value)


def test_a_box_that_ends_before_it_starts() -> None:
    with pytest.raises(UsageError, match="ends before it starts"):
        cells("8:5,0:3")


def test_constructors() -> None:
    assert Region["5:8, 3:13"] == Region.box(5, 8, 3, 13) == Region.parse(Region.box(5, 8, 3, 13))
    assert Region.center(8, 6) == Region["center:8x6"]
    assert torch.equal(
        (Region["top:1"] + Region["left:2"]).to_cells(128, 128, CELL), box(0, 1, 0, 16) | box(0, 16, 0, 2)
    )


@given(st.sampled_from(["5:8,3:13", "center:8x6", "px:1:2,3:100", "top:3+left:2", "not:bottom:2"]))
def test_inversion_is_its_own_inverse_and_exact_in_pixels(text: str) -> None:
    region = Region[text]
    assert ~~region == region
    assert torch.equal((~region).to_pixels(128, 128, CELL), ~region.to_pixels(128, 128, CELL))


def test_joining_an_inverted_region_is_refused() -> None:
    with pytest.raises(UsageError, match="cannot be joined"):
        Region["top:1"] + ~Region["left:1"]


def test_pixel_boxes_are_exact_and_cells_are_whole() -> None:
    exact = Region["px:3:5,10:20"].to_pixels(20, 30, CELL)
    assert exact.sum() == 2 * 10
    assert exact[3:5, 10:20].all()
    whole = Region["2:3,3:4"].to_pixels(20, 30, CELL)  # the last cell of 20x30 pixels has 4x6 of them
    assert whole.sum() == 4 * 6
    assert whole[16:, 24:].all()


@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 9), st.integers(0, 999))
def test_a_cell_is_marked_if_any_of_its_pixels_is(height: int, width: int, cell: int, seed: int) -> None:
    mask = torch.rand(height, width, generator=torch.Generator().manual_seed(seed)) < 0.03
    marked = cells_of_pixels(mask, cell)
    assert marked.shape == (-(-height // cell), -(-width // cell))
    slow = torch.zeros_like(marked)
    for row, col in mask.nonzero().tolist():
        slow[row // cell, col // cell] = True
    assert torch.equal(marked, slow)
    covered = pixels_of_cells(marked, cell, height, width)
    assert covered.shape == mask.shape
    assert bool((covered | ~mask).all())
    assert torch.equal(cells_of_pixels(covered, cell), marked)


def test_grow_adds_rings_of_eight_neighbours() -> None:
    seed = box(5, 6, 5, 6)
    assert torch.equal(grow(seed, 0), seed)
    assert torch.equal(grow(seed, 1), box(4, 7, 4, 7))
    assert torch.equal(grow(seed, 2), grow(grow(seed, 1), 1))
    assert torch.equal(grow(box(0, 1, 0, 1), 1), box(0, 2, 0, 2))  # the edge ends it
    assert torch.equal(seed, box(5, 6, 5, 6))


def noise_mask(height: int, width: int) -> torch.Tensor:
    return torch.rand(height, width, generator=torch.Generator().manual_seed(1)) < 0.5


def test_masks_of_all_kinds_select_the_same_pixels() -> None:
    mask = noise_mask(21, 34)
    array = mask.numpy()
    grey = Image.fromarray(array.astype(np.uint8) * 255)
    clear = Image.new("RGBA", (34, 21), (255, 255, 255, 255))
    clear.putalpha(grey)  # white everywhere, but only there where one sees it
    arrays = [array, array.astype(np.uint8) * 255, array.astype(np.uint8), array.astype(np.float32)]
    for same in (mask, *arrays, grey, grey.convert("1"), clear):
        assert torch.equal(Region.from_mask(same).to_pixels(21, 34, CELL), mask)


def test_grey_counts_from_the_middle_up() -> None:
    ramp = np.array([[0, 127, 128, 255]], dtype=np.uint8)
    assert Region.from_mask(Image.fromarray(ramp)).to_pixels(1, 4, CELL).tolist() == [[False, False, True, True]]


def test_a_mask_file_becomes_part_of_the_text(tmp_path: Path) -> None:
    mask = noise_mask(20, 30)
    path = tmp_path / "a+b mask.png"
    Image.fromarray(mask.numpy().astype(np.uint8) * 255).save(path)
    region = Region.parse(str(path))
    path.unlink()
    again = Region.parse(str(region))  # as from a recipe: the file is gone
    assert torch.equal(again.to_pixels(20, 30, CELL), mask)
    assert torch.equal((~again).to_pixels(20, 30, CELL), ~mask)
    assert torch.equal((again + Region["top:1"]).to_cells(20, 30, CELL)[0], torch.ones(4, dtype=torch.bool))


def test_a_mask_of_another_size_is_refused_unless_it_may_be_resized(tmp_path: Path) -> None:
    path = tmp_path / "mask.png"
    half = Image.new("L", (10, 10))
    half.paste(255, (0, 0, 5, 10))
    half.save(path)
    with pytest.raises(UsageError, match=r"10x10 pixels, the picture 64x32.*fit:mask\.png"):
        Region.parse(str(path)).to_pixels(32, 64, CELL)
    fitted = Region.parse(f"fit:{path}").to_pixels(32, 64, CELL)
    assert fitted[:, :32].all()
    assert not fitted[:, 32:].any()


def test_mask_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"none\.png does not exist"):
        Region.parse(str(tmp_path / "none.png"))
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ImageError, match="is not a picture"):
        Region.parse(str(tmp_path / "text.png"))


@pytest.mark.parametrize(
    "text",
    ["bits:4x4:AAAA", "bits:4x4:", "bits:999999999x999999999:AAAA", "bits:0x4:AAAA", "bits:4x4:A"],
)
def test_forged_masks_are_one_line(text: str) -> None:
    with pytest.raises(UsageError):
        Region.parse(text).to_pixels(4, 4, CELL)


def test_a_mask_that_unpacks_to_more_than_it_says() -> None:
    large = str(Region.from_mask(np.zeros((4000, 4000), dtype=bool)))
    bomb = Region(large.replace("4000x4000", "4x4"))
    tracemalloc.start()
    selected = bomb.to_pixels(4, 4, CELL)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not selected.any()
    assert peak < 500_000  # of the two million bytes in it, only what a 4x4 mask needs was unpacked


def test_pieces() -> None:
    assert parse_piece("b.png@10:13,5:11") == Piece(Path("b.png"), Region["10:13,5:11"], None)
    assert parse_piece("b.png@10:13,5:11@9,5") == Piece(Path("b.png"), Region["10:13,5:11"], (9, 5))
    many = parse_piece("me@home/b@2x.png@center:2x2@0,0")
    assert many == Piece(Path("me@home/b@2x.png"), Region["center:2x2"], (0, 0))


@pytest.mark.parametrize("text", ["", "b.png", "b.png@", "@5:8,3:13", "b.png@9,5", "b.png@5:8,3:13@9"])
def test_pieces_of_another_form(text: str) -> None:
    with pytest.raises(UsageError):
        parse_piece(text)

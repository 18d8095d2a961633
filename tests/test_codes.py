"""`CodeGrid` is a value: nothing it does changes it, and what it holds is valid."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.codes import CodeGrid
from smalti.errors import UsageError
from smalti.types import EMPTY

K = 100
MODEL = "ab" * 32


def grid_of(height: int, width: int, seed: int = 0, codebook_size: int = K) -> CodeGrid:
    """Random codes, some of them empty."""
    generator = torch.Generator().manual_seed(seed)
    return CodeGrid(torch.randint(-1, codebook_size, (height, width), generator=generator), codebook_size, MODEL)


sides = st.integers(1, 9)
seeds = st.integers(0, 1000)


@given(sides, sides, seeds, st.sampled_from([2, K, 1024, 65535]))
def test_bytes_round_trip(height: int, width: int, seed: int, codebook_size: int) -> None:
    grid = grid_of(height, width, seed, codebook_size)
    assert CodeGrid.from_bytes(grid.to_bytes(), height, width, codebook_size, MODEL) == grid


def test_bytes_are_little_endian_rows_with_ffff_for_empty() -> None:
    grid = CodeGrid(torch.tensor([[1, 256], [EMPTY, 3]]), 300)
    assert grid.to_bytes() == bytes([1, 0, 0, 1, 0xFF, 0xFF, 3, 0])


@given(sides, sides, seeds, st.data())
def test_a_slice_pasted_back_changes_nothing(height: int, width: int, seed: int, data: st.DataObject) -> None:
    grid = grid_of(height, width, seed)
    row, col = data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1))
    part = grid[row : data.draw(st.integers(row + 1, height)), col : data.draw(st.integers(col + 1, width))]
    assert grid.paste(part, row, col) == grid
    padded = grid.pad(top=row, left=col, bottom=1, right=2)
    assert padded[row : row + height, col : col + width] == grid
    assert int((~padded.empty).sum()) == int((~grid.empty).sum())


def test_operations_leave_the_grid_and_the_callers_tensor_alone() -> None:
    codes = torch.arange(12).view(3, 4)
    grid = CodeGrid(codes, K)
    codes[0, 0] = 99
    before = grid.codes.clone()
    grid.paste(CodeGrid(torch.full((2, 2), 7), K), 0, 0)
    grid.masked(torch.ones(3, 4, dtype=torch.bool))
    grid.pad(1, 1, 1, 1)
    assert torch.equal(grid.codes, before)
    assert grid.codes[0, 0] == 0


def test_masked_cells_are_empty() -> None:
    cells = torch.tensor([[True, False], [False, True]])
    grid = CodeGrid(torch.tensor([[1, 2], [3, 4]]), K).masked(cells)
    assert grid.codes.tolist() == [[EMPTY, 2], [3, EMPTY]]
    assert torch.equal(grid.empty, cells)


def test_equality_covers_codes_codebook_and_model() -> None:
    codes = torch.tensor([[1, 2]])
    grid = CodeGrid(codes, K, MODEL)
    assert grid == CodeGrid(codes.int(), K, MODEL)
    assert hash(grid) == hash(CodeGrid(codes, K, MODEL))
    assert grid != CodeGrid(codes + 1, K, MODEL)
    assert grid != CodeGrid(codes, K + 1, MODEL)
    assert grid != CodeGrid(codes, K, None)
    assert grid != "a grid"


def test_count_different() -> None:
    one, other = CodeGrid(torch.tensor([[1, 2, EMPTY]]), K), CodeGrid(torch.tensor([[1, 3, 4]]), K)
    assert one.count_different(one) == 0
    assert one.count_different(other) == 2
    with pytest.raises(UsageError, match="cannot be compared"):
        one.count_different(grid_of(2, 2))


@pytest.mark.parametrize("code", [K, 40_000, -2])
def test_a_code_out_of_range_is_named_with_its_cell(code: int) -> None:
    codes = torch.zeros(3, 4, dtype=torch.long)
    codes[1, 2] = code
    with pytest.raises(UsageError, match=rf"code {code} at row 1, column 2 is outside 0\.\.99") as caught:
        CodeGrid(codes, K)
    assert caught.value.field == "codes"


@pytest.mark.parametrize(
    "codes",
    [
        torch.zeros(3, dtype=torch.long),
        torch.zeros(1, 3, 4, dtype=torch.long),
        torch.zeros(0, 4, dtype=torch.long),
        torch.zeros(2, 2),
        torch.full((2, 2), float("nan")),
        torch.zeros(2, 2, dtype=torch.bool),
    ],
)
def test_what_is_no_grid_of_codes(codes: torch.Tensor) -> None:
    with pytest.raises(UsageError):
        CodeGrid(codes, K)


@pytest.mark.parametrize("codebook_size", [0, -1, 65536])
def test_a_codebook_fits_16_bits(codebook_size: int) -> None:
    with pytest.raises(UsageError, match="a codebook has 1 to 65535 codes"):
        CodeGrid(torch.full((1, 1), EMPTY), codebook_size)


def test_what_does_not_fit_is_refused() -> None:
    grid = grid_of(3, 4)
    for row, col in [(-1, 0), (0, -1), (2, 0), (0, 3)]:
        with pytest.raises(UsageError, match="leave the"):
            grid.paste(grid_of(2, 2), row, col)
    with pytest.raises(UsageError, match="does not fit"):
        grid.masked(torch.ones(1, 4, dtype=torch.bool))
    with pytest.raises(UsageError, match="0 or more"):
        grid.pad(top=-1)
    with pytest.raises(UsageError, match="23 bytes are not 3x4 codes"):
        CodeGrid.from_bytes(bytes(23), 3, 4, K)
    with pytest.raises(UsageError):
        grid[2:2, :]

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.errors import ModelError
from smalti.sampling import windows
from smalti.sampling.windows import (
    AMPLE,
    Cover,
    embed,
    even_starts,
    overlapping,
    padding,
    predict,
    roomy,
    strided_starts,
    tile_starts,
    tiles,
)
from smalti.testing import ToyPrior

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))


def check_cover(cover: Cover, canvas: tuple[int, int], window: tuple[int, int]) -> None:
    """Windows stay on the padded canvas, and each pair's place in its window is its cell on the canvas."""
    (top, left), (height, width) = padding(canvas, window)
    assert (cover.rows >= 0).all()
    assert (cover.cols >= 0).all()
    assert (cover.rows + window[0] <= height).all()
    assert (cover.cols + window[1] <= width).all()
    assert (np.diff(cover.window) >= 0).all()
    assert set(cover.window.tolist()) == set(range(len(cover)))  # no window without a cell
    rows, cols = np.divmod(cover.position, window[1])
    assert np.array_equal(cover.rows[cover.window] + rows - top, cover.cell // canvas[1])
    assert np.array_equal(cover.cols[cover.window] + cols - left, cover.cell % canvas[1])


@given(sizes, st.integers(0, 5), st.integers(0, 7), st.integers(0, 5), st.randoms(use_true_random=False))
def test_tiles_predict_each_cell_once(canvas: Any, margin: int, row: int, col: int, random: Any) -> None:
    window = (8, 6)
    layout = tiles(canvas, window, margin, (row, col))
    n = canvas[0] * canvas[1]
    cells = np.array(random.sample(range(n), random.randint(1, n)))
    cover = layout.nearest(cells)
    check_cover(cover, canvas, window)
    assert sorted(cover.cell.tolist()) == sorted(cells.tolist())
    assert (layout.room(cells) >= 0).all()


@given(sizes, st.integers(0, 9), st.booleans())
def test_overlapping_windows_predict_each_cell_by_all_that_see_it(canvas: Any, overlap: int, central: bool) -> None:
    window = (8, 6)
    layout = overlapping(canvas, window, overlap)
    cells = np.arange(canvas[0] * canvas[1])
    cover = layout.every(cells, central)
    check_cover(cover, canvas, window)
    assert (cover.weight > 0).all()
    (top, left), _ = padding(canvas, window)
    seen = np.zeros(len(cells), np.int64)
    for row in layout.row_starts:
        for col in layout.col_starts:
            r, c = np.divmod(cells, canvas[1])
            seen += (r + top >= row) & (r + top < row + 8) & (c + left >= col) & (c + left < col + 6)
    assert np.array_equal(np.bincount(cover.cell, minlength=len(cells)), seen)


@given(sizes, st.integers(0, 2))
def test_roomy_layouts_have_room(canvas: Any, margin: int) -> None:
    layout = roomy(canvas, (8, 6), margin)
    assert layout.room(np.arange(canvas[0] * canvas[1])).min() >= margin


def test_starts() -> None:
    assert even_starts(16, 16, 8).tolist() == [0]
    assert even_starts(5, 16, 8).tolist() == [0]
    assert even_starts(32, 16, 8).tolist() == [0, 8, 16]
    assert strided_starts(30, 16, 8).tolist() == [0, 8, 14]
    assert strided_starts(18, 16, 15).tolist() == [0, 1, 2]  # the paper's stride of 1
    assert tile_starts(32, 16, 2, 0).tolist() == [0, 16]
    assert tile_starts(32, 16, 2, 5).tolist() == [0, 5, 16]
    # two tiles leave room enough everywhere: no third one, no jitter
    assert tile_starts(24, 16, 2, 5).tolist() == [0, 8]
    assert tile_starts(24, 16, 5, 5).tolist() == [0, 5, 8]


def test_room_counts_cells_to_inner_edges_only() -> None:
    layout = tiles((4, 32), (4, 16), 2, (0, 0))
    assert layout.room(np.arange(32)).tolist() == [15 - c for c in range(16)] + list(range(16))
    assert tiles((4, 16), (4, 16), 2, (0, 0)).room(np.arange(64)).min() == AMPLE


def test_a_small_canvas_sits_in_the_middle_of_unknown_cells() -> None:
    codes = torch.arange(6).view(1, 2, 3)
    padded = embed(codes, (4, 4))
    assert padded.shape == (1, 4, 4)
    assert torch.equal(padded[:, 1:3, 0:3], codes)
    assert (padded == -1).sum() == 10
    assert embed(codes, (4, 2)).shape == (1, 4, 3)


def collect(prior: Any, codes: torch.Tensor, covers: Any, **more: Any) -> torch.Tensor:
    """Predictions as a table `(n, h*w, K)`, NaN where nothing was asked; nothing may be said twice."""
    table = torch.full((len(codes), codes[0].numel(), prior.codebook_size), float("nan"), dtype=torch.float64)
    for image, cell, p in predict(prior, codes, covers, **more):
        assert table[image, cell].isnan().all()
        table[image, cell] = p
    return table


def test_mixture_is_the_arithmetic_mean_of_the_windows() -> None:
    prior = ToyPrior.random(2, 2, 3, seed=4)
    codes = torch.tensor([[[-1, -1, 2], [1, -1, -1]]])
    table = collect(prior, codes, [(0, overlapping((2, 3), (2, 2), 1).every(np.array([1, 4])))])
    left = prior.conditionals(codes[:, :, :2])[0]
    right = prior.conditionals(codes[:, :, 1:])[0]
    torch.testing.assert_close(table[0, 1], (left[1] + right[0]) / 2, atol=1e-6, rtol=0)
    torch.testing.assert_close(table[0, 4], (left[3] + right[2]) / 2, atol=1e-6, rtol=0)


def test_central_weights_prefer_the_window_that_has_the_cell_inside() -> None:
    prior = ToyPrior.random(1, 3, 3, seed=4)
    codes = torch.full((1, 1, 4), -1)
    table = collect(prior, codes, [(0, overlapping((1, 4), (1, 3), 2).every(np.array([1]), central=True))])
    left, right = prior.conditionals(codes[:, :, :3])[0, 1], prior.conditionals(codes[:, :, 1:])[0, 0]
    # sin^2 of pi/2 and of pi/6: weights 1 and 1/4
    torch.testing.assert_close(table[0, 1], (left + right / 4) / 1.25, atol=1e-6, rtol=0)


@pytest.mark.parametrize("max_batch", [1, 3, 1000])
@pytest.mark.parametrize("chunk", [11, 1 << 22])
def test_batching_changes_nothing(context_prior: Any, max_batch: int, chunk: int, monkeypatch: Any) -> None:
    monkeypatch.setattr(windows, "_CHUNK", chunk)
    codes = torch.randint(-1, 11, (3, 13, 9), generator=torch.Generator().manual_seed(0))
    covers = [(i, overlapping((13, 9), (6, 6), 3).every(np.arange(i, 117, 2))) for i in range(3)]
    table = collect(context_prior, codes, covers, max_batch=max_batch)
    assert context_prior.windows_seen == sum(len(cover) for _, cover in covers)
    assert context_prior.largest_batch <= max_batch
    whole = collect(context_prior, codes, covers, max_batch=1000)
    torch.testing.assert_close(table, whole, equal_nan=True, atol=1e-6, rtol=0)
    torch.testing.assert_close(table.nansum(-1)[0, ::2], torch.ones(59, dtype=torch.float64))


def test_memory_does_not_grow_with_the_canvas(context_prior: Any) -> None:
    held = []
    for height in (30, 120):
        cover = overlapping((height, 24), (6, 6), 3).every(np.arange(height * 24))
        mixture = windows._Mixture(np.zeros(len(cover.cell), np.int64), cover.cell, cover.weight, cover.window)
        most = 0
        for start in range(0, len(cover), 8):
            pairs = np.flatnonzero((cover.window >= start) & (cover.window < start + 8))
            list(mixture.add(pairs, torch.ones(len(pairs), 2, dtype=torch.float64)))
            most = max(most, len(mixture.open))
            list(mixture.finish(start + 8))
        assert len(mixture.open) == 0
        held.append(most)
    assert held[1] <= held[0]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_no_numbers_are_a_clear_error(context_prior: Any, value: float) -> None:
    context_prior.bias[3, 2] = value
    cover = tiles((6, 6), (6, 6), 0, (0, 0)).nearest(np.arange(36))
    with pytest.raises(ModelError, match="not numbers"):
        list(predict(context_prior, torch.full((1, 6, 6), -1), [(0, cover)]))


def test_logits_of_cells_that_nobody_asked_for_may_be_anything(context_prior: Any) -> None:
    context_prior.bias[0] = float("nan")  # position 0 is what shorter rows are padded with
    layout = tiles((6, 6), (6, 6), 0, (0, 0))
    covers = [(0, layout.nearest(np.arange(1, 36))), (1, layout.nearest(np.array([7])))]
    assert len(list(predict(context_prior, torch.full((2, 6, 6), -1), covers))) == 1


def test_logits_of_the_wrong_shape_are_a_clear_error(context_prior: Any) -> None:
    class AllCells:  # logits of the whole window, whatever is asked
        codebook_size, window, device = context_prior.codebook_size, context_prior.window, context_prior.device

        def __call__(self, codes: Any, positions: Any = None, label: Any = None) -> Any:
            return context_prior(codes)

    cover = tiles((6, 6), (6, 6), 0, (0, 0)).nearest(np.array([3]))
    with pytest.raises(ModelError, match="shape"):
        list(predict(AllCells(), torch.full((1, 6, 6), -1), [(0, cover)]))

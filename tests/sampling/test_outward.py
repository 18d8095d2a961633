"""Rings around what is known, and windows that hold as much of it as they can."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.sampling import SamplerOptions, fill, make_plan
from smalti.sampling.outward import rings
from smalti.sampling.windows import padding

WINDOW = (6, 4)


@st.composite
def masks(draw: Any) -> np.ndarray[Any, np.dtype[np.bool_]]:
    shape = draw(st.integers(1, 25)), draw(st.integers(1, 25))
    rng = np.random.default_rng(draw(st.integers(0, 2**31)))
    return rng.random(shape) < draw(st.sampled_from([0.3, 0.95, 1.0]))


@given(masks())
def test_every_cell_has_a_window_on_the_canvas_that_sees_it(empty: np.ndarray[Any, Any]) -> None:
    grown, cells = rings(empty, WINDOW), np.arange(empty.size)
    (top, left), size = padding((empty.shape[0], empty.shape[1]), WINDOW)
    rows, cols = np.divmod(cells, empty.shape[1])
    for place, first, window, side in (
        (rows + top, grown.first_row.reshape(-1), WINDOW[0], size[0]),
        (cols + left, grown.first_col.reshape(-1), WINDOW[1], size[1]),
    ):
        assert ((first <= place) & (place < first + window)).all()
        assert ((first >= 0) & (first + window <= side)).all()
    cover = grown.cover(cells)
    assert np.array_equal(np.sort(cover.cell), cells)


@given(masks())
def test_a_ring_touches_the_ring_before_it(empty: np.ndarray[Any, Any]) -> None:
    number = rings(empty, WINDOW).number
    assert sorted(np.unique(number)) == list(range(number.max() + 1))
    assert (number[~empty] == 0).all()
    near = np.pad(number, 4, mode="edge")
    for row, col in np.argwhere(number > 0):  # blocks are 3x2: a neighbouring block is at most so far away
        around = near[row + 1 : row + 8, col + 2 : col + 7]
        assert around.min() < number[row, col]


def test_a_panorama_grows_from_its_middle_to_both_sides() -> None:
    grown = rings(np.ones((16, 64), np.bool_), (16, 16))
    assert np.array_equal(grown.number, np.tile(grown.number[0], (16, 1)))
    assert grown.number[0, ::8].tolist() == [3, 2, 1, 0, 0, 1, 2, 3]
    assert grown.first_col[0, ::8].tolist() == [0, 8, 16, 24, 24, 32, 40, 48]  # half of each window is known


def test_growth_starts_at_what_is_known() -> None:
    empty = np.ones((16, 40), np.bool_)
    empty[:, :16] = False
    grown = rings(empty, (16, 16))
    assert grown.number[0, ::8].tolist() == [0, 0, 1, 2, 3]
    assert grown.first_col[0, ::8].tolist()[2:] == [8, 16, 24]


def test_a_hole_is_seen_from_its_middle() -> None:
    empty = np.zeros((32, 32), np.bool_)
    empty[8:16, 8:16] = True
    grown = rings(empty, (16, 16))
    assert {(int(grown.first_row[r, c]), int(grown.first_col[r, c])) for r, c in np.argwhere(empty)} == {(4, 4)}


@pytest.mark.parametrize("order", ["bluenoise", "random", "halton"])
def test_a_plan_goes_ring_by_ring_at_the_pace_of_one_window(order: str) -> None:
    options = SamplerOptions(order=order, num_inference_steps=24)
    plan = make_plan(torch.ones(16, 48, dtype=torch.bool), (16, 16), options, seed=3)
    assert plan.rings is not None
    reached = [set(plan.rings.number.flat[cells].tolist()) for cells in plan.steps]
    assert reached == [{0}] * 24 + [{1}] * 12 + [{2}] * 12
    assert 24 + 12 + 12 < plan.cost() <= 24 + 2 * 12 + 2 * 12
    large = make_plan(torch.ones(128, 128, dtype=torch.bool), (16, 16), options)
    assert large.cost() < 1.3 * 24 * (128 / 16) ** 2  # linear in the area


def test_canvases_of_one_window_and_orders_with_a_sequence_of_their_own_do_not_grow() -> None:
    for side, order in ((16, "bluenoise"), (32, "raster"), (32, "ancestral"), (32, "confidence")):
        mask = torch.ones(side, side, dtype=torch.bool)
        outward, tiles = (
            make_plan(mask, (16, 16), SamplerOptions(order=order, windows=windows))  # type: ignore[arg-type]
            for windows in ("outward", "tiles")
        )
        assert outward.rings is None
        assert outward.counts == tiles.counts
        assert all(np.array_equal(a, b) for a, b in zip(outward.steps, tiles.steps, strict=True))


class Follower:
    """A prior that repeats the code that occurs most in its window, and has no idea where nothing is known."""

    def __init__(self) -> None:
        self.codebook_size, self.window, self.device = 5, (4, 4), torch.device("cpu")

    def __call__(self, codes: torch.Tensor, positions: torch.Tensor, label: torch.Tensor | None = None) -> torch.Tensor:
        counts = torch.stack([(codes == k).sum((1, 2)) for k in range(5)], 1).float()
        return (50 * counts)[:, None].expand(-1, positions.shape[1], -1)


def test_what_one_window_decides_holds_for_the_whole_canvas() -> None:
    empty = torch.full((20, 4, 40), -1)
    options = SamplerOptions(num_inference_steps=8)
    grown = fill(Follower(), empty, seeds=range(20), options=options)
    assert all((grid == grid[0, 20]).float().mean() > 0.9 for grid in grown)
    apart = fill(Follower(), empty, seeds=range(20), options=options.replace(windows="tiles"))
    assert sum(len(grid.unique()) > 1 for grid in apart) > 10

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from smalti.sampling.orders import ORDERS
from smalti.sampling.orders.bluenoise import void_and_cluster
from smalti.sampling.orders.halton import halton_ranks
from smalti.sampling.schedules import Schedule, linear

FULL = np.ones((16, 16), np.bool_)


def torus_distance(cells: np.ndarray, size: int) -> float:
    """Smallest distance between two of the cells on a torus."""
    at = np.stack(np.divmod(cells, size), 1)
    apart = np.abs(at[:, None] - at[None])
    apart = np.minimum(apart, size - apart)
    distance = np.sqrt((apart**2).sum(-1))
    return float(distance[~np.eye(len(cells), dtype=bool)].min())


def test_raster_is_reading_order() -> None:
    empty = FULL.copy()
    empty[3, 2:9] = False
    cells = ORDERS["raster"].arrange(empty, Schedule(5, linear), 9).cells
    assert np.array_equal(cells, np.flatnonzero(empty))


@pytest.mark.parametrize("seed", range(5))
def test_bluenoise_keeps_its_distance(seed: int) -> None:
    cells = ORDERS["bluenoise"].arrange(FULL, Schedule(8, linear), seed).cells
    for n, distance in ((4, 8), (16, 4), (64, 2)):
        assert torus_distance(cells[:n], 16) == distance  # the best there is: a lattice
    assert torus_distance(cells[:128], 16) == pytest.approx(2**0.5)  # a chequerboard
    assert torus_distance(cells[:11], 16) >= 4


def test_base_patterns_are_permutations() -> None:
    for height, width in ((1, 1), (1, 9), (7, 5), (16, 16), (13, 64)):
        for ranks in (void_and_cluster(height, width), halton_ranks(height, width)):
            assert sorted(ranks.ravel().tolist()) == list(range(height * width))
            assert not ranks.flags.writeable


def test_halton_starts_with_the_halton_points() -> None:
    # radical inverses of 1, 2, 3 in base 2: 1/2, 1/4, 3/4; in base 3: 1/3, 2/3, 1/9
    ranks = halton_ranks(16, 16)
    assert [int(ranks[8, 5]), int(ranks[4, 10]), int(ranks[12, 1])] == [0, 1, 2]


@pytest.mark.parametrize("name", ["bluenoise", "halton", "random", "ancestral"])
def test_the_first_cell_is_uniform_over_the_canvas(name: str) -> None:
    empty = np.ones((3, 4), np.bool_)
    schedule = Schedule(200, linear)
    first = [int(ORDERS[name].arrange(empty, schedule, seed).cells[0]) for seed in range(2400)]
    counts = np.bincount(first, minlength=12)
    if name == "ancestral":  # ties within a step come in reading order, which favours the first cells a little
        assert counts.min() > 100
    else:
        assert stats.chisquare(counts).pvalue > 1e-3


def test_ancestral_steps_are_uniform_and_independent() -> None:
    empty = np.ones((1, 2), np.bool_)
    pairs = np.zeros((3, 3))
    for seed in range(3600):
        cells, counts = ORDERS["ancestral"].arrange(empty, Schedule(3, linear), seed)
        # which of the three steps it was is not kept: only same step, first before second, second before first
        pairs[0, 0 if counts == (2,) else 1 + int(cells[0])] += 1
    assert stats.chisquare(pairs[0], np.array([1, 1, 1]) * 1200).pvalue > 1e-3


def test_each_ancestral_step_has_its_share() -> None:
    counts = np.array([ORDERS["ancestral"].arrange(FULL, Schedule(4, linear), seed).counts for seed in range(100)])
    assert stats.chisquare(counts.sum(0)).pvalue > 1e-3


def test_ancestral_has_as_many_steps_as_the_paper_changes_something() -> None:
    # T (1 - (1 - 1/T)^N) of T steps reveal something
    lengths = [len(ORDERS["ancestral"].arrange(FULL, Schedule(256, linear), seed).counts) for seed in range(100)]
    assert np.mean(lengths) == pytest.approx(256 * (1 - (1 - 1 / 256) ** 256), abs=2)


@pytest.mark.parametrize("name", ["bluenoise", "halton"])
def test_large_canvases_repeat_the_pattern_without_gaps(name: str) -> None:
    cells = ORDERS[name].arrange(np.ones((130, 200), np.bool_), Schedule(8, linear), 3).cells
    assert np.array_equal(np.sort(cells), np.arange(130 * 200))
    rows, cols = np.divmod(cells[:1300], 200)
    per_block = np.histogram2d(rows, cols, bins=(5, 8))[0]  # a twentieth of all cells, evenly spread
    assert per_block.min() > 0.5 * 1300 / 40
    assert per_block.max() < 1.6 * 1300 / 40

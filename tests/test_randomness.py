from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smalti.randomness import Purpose, cell_counters, permutation, uniforms

N = 20_000
PINNED = [0.4594340877741171, 0.4242894910123576, 0.882109820200724]


def test_range_shape_and_type() -> None:
    u = uniforms(0, Purpose.DRAW, np.arange(12).reshape(3, 4))
    assert u.shape == (3, 4)
    assert u.dtype == np.float64
    assert (u >= 0).all()
    assert (u < 1).all()
    assert uniforms(0, Purpose.DRAW, 5).shape == ()


def test_pure_function_of_each_counter() -> None:
    whole = uniforms(9, Purpose.DRAW, np.arange(100))
    assert whole[37] == uniforms(9, Purpose.DRAW, 37)
    assert np.array_equal(whole[40:60], uniforms(9, Purpose.DRAW, range(40, 60)))


def test_known_values_never_change() -> None:
    # a changed number here would change every picture ever made from a seed
    assert uniforms(0, Purpose.DRAW, range(3)).tolist() == PINNED


@pytest.mark.parametrize("purpose", list(Purpose))
def test_uniform_over_counters(purpose: Purpose) -> None:
    assert stats.kstest(uniforms(1, purpose, np.arange(N)), "uniform").pvalue > 1e-3


def test_uniform_over_adjacent_seeds_steps_and_grid_counters() -> None:
    seeds = np.array([float(uniforms(s, Purpose.DRAW, 3)) for s in range(4000)])
    steps = np.array([float(uniforms(5, Purpose.DRAW, 3, step=s)) for s in range(4000)])
    rows, cols = np.mgrid[:128, :128]
    grid = uniforms(5, Purpose.DRAW, cell_counters(rows.ravel(), cols.ravel()))
    for sample in (seeds, steps, grid):
        assert stats.kstest(sample, "uniform").pvalue > 1e-3


def test_neighbours_are_uncorrelated() -> None:
    c = np.arange(N)
    base = uniforms(7, Purpose.DRAW, c)
    others = [
        uniforms(8, Purpose.DRAW, c),
        uniforms(7, Purpose.ORDER, c),
        uniforms(7, Purpose.DRAW, c, step=1),
        uniforms(7, Purpose.DRAW, c + 1),
        uniforms(7, Purpose.DRAW, c + (1 << 20)),
    ]
    for other in others:
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / np.sqrt(N)


def test_one_changed_bit_changes_half_of_the_bits() -> None:
    def bits(value: np.ndarray) -> np.ndarray:
        return (value * 2.0**53).astype(np.uint64)

    c = np.arange(2000, dtype=np.uint64)
    for shift in range(0, 40, 3):
        flipped = bits(uniforms(3, Purpose.DRAW, c)) ^ bits(uniforms(3, Purpose.DRAW, c ^ np.uint64(1 << shift)))
        share = np.unpackbits(flipped.view(np.uint8)).sum() / (53 * 2000)
        assert 0.48 < share < 0.52


@given(st.integers(), st.integers(0, 300))
def test_permutation_is_one(seed: int, n: int) -> None:
    assert sorted(permutation(seed, Purpose.ORDER, n).tolist()) == list(range(n))


def test_permutations_of_three_are_equally_likely() -> None:
    seen = [tuple(permutation(s, Purpose.ORDER, 3).tolist()) for s in range(6000)]
    counts = np.unique(np.array(seen), axis=0, return_counts=True)[1]
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3

"""Masks: exact counts at uniform places, shares with the law they claim, stratified over a batch."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smalti.prior.masking import (
    RatioLaw,
    beta22_quantile,
    complementary_pairs,
    exact_masks,
    fixed_counts,
    hide,
    mask_counts,
    q_sample,
    q_sample_fixed,
    quantile,
    stratified,
)
from smalti.types import EMPTY


@given(st.integers(1, 40), st.integers(1, 6), st.integers(0, 2**31), st.data())
def test_masks_have_exactly_the_asked_count(cells: int, n: int, seed: int, data: st.DataObject) -> None:
    counts = torch.tensor(data.draw(st.lists(st.integers(0, cells), min_size=n, max_size=n)))
    masks = exact_masks(counts, torch.rand(n, cells, generator=torch.Generator().manual_seed(seed)))
    assert masks.shape == (n, cells)
    assert torch.equal(masks.sum(1), counts)


def test_masks_are_uniform_over_subsets() -> None:
    draws = 12_000
    uniforms = torch.rand(draws, 5, generator=torch.Generator().manual_seed(3))
    masks = exact_masks(torch.full((draws,), 2), uniforms)
    seen = Counter(tuple(row.nonzero().flatten().tolist()) for row in masks)
    observed = [seen[pair] for pair in itertools.combinations(range(5), 2)]
    assert sum(observed) == draws
    assert stats.chisquare(observed).pvalue > 1e-3


def test_beta_quantile_inverts_its_distribution_function() -> None:
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    r = beta22_quantile(u)
    torch.testing.assert_close(3 * r**2 - 2 * r**3, u, atol=1e-12, rtol=0)
    assert r[0] == pytest.approx(0, abs=1e-7)
    assert r[-1] == pytest.approx(1)
    torch.testing.assert_close(r, torch.from_numpy(stats.beta(2, 2).ppf(u.numpy())), atol=1e-7, rtol=0)


@pytest.mark.parametrize("law", ["beta", "uniform", "cosine", "arccos"])
def test_shares_stay_in_range(law: RatioLaw) -> None:
    shares = quantile(law, torch.linspace(0, 1, 257, dtype=torch.float64))
    assert shares.min() >= -1e-12
    assert shares.max() <= 1


def test_cosine_and_arccos_are_maskgits() -> None:
    assert float(quantile("cosine", torch.tensor(0.5))) == pytest.approx(math.cos(math.pi / 4))
    assert float(quantile("arccos", torch.tensor(0.5))) == pytest.approx(2 / 3)


def test_batches_are_stratified() -> None:
    for shared in (0.0, 0.37, 0.999):
        u = stratified(16, shared)
        assert torch.equal((u * 16).floor(), torch.arange(16, dtype=torch.float64))


def test_uniform_shares_give_uniform_counts() -> None:
    counts = mask_counts(stratified(64 * 10, 0.5), 64)
    assert torch.equal(counts.bincount(minlength=65), torch.tensor([0] + [10] * 64))
    assert mask_counts(torch.tensor([0.0, 1.0]), 64).tolist() == [1, 64]


def test_complements_ask_every_cell_once() -> None:
    masks = exact_masks(torch.tensor([3, 7]), torch.rand(2, 10))
    pairs = complementary_pairs(masks)
    assert torch.equal(pairs[:2].int() + pairs[2:].int(), torch.ones(2, 10, dtype=torch.int32))


def test_hiding_leaves_the_codes_alone() -> None:
    codes = torch.arange(6).view(1, 2, 3)
    noised = hide(codes, torch.tensor([[[True, False, True], [False, False, False]]]))
    assert noised.codes.tolist() == [[[EMPTY, 1, EMPTY], [3, 4, 5]]]
    assert torch.equal(codes, torch.arange(6).view(1, 2, 3))


def test_q_sample_is_strict_and_complete_at_the_end() -> None:
    codes = torch.zeros(2, 3, dtype=torch.int64)
    uniforms = torch.tensor([[0.0, 0.25, 0.2499], [0.0, 0.5, 0.9999]])
    masks = q_sample(codes, torch.tensor([1, 4]), 4, uniforms).mask
    assert masks.tolist() == [[True, False, True], [True, True, True]]


def test_fixed_schedule_rounds_half_to_even_and_never_to_nothing() -> None:
    # T = 4, 2 cells: shares .5, 1, 1.5, 2 of a cell
    assert fixed_counts(torch.tensor([1, 2, 3, 4]), 4, 2).tolist() == [1, 1, 2, 2]
    assert fixed_counts(torch.tensor([1, 3, 5]), 20, 10).tolist() == [1, 2, 2]  # .5 -> 0 -> 1, 1.5 -> 2, 2.5 -> 2
    codes = torch.zeros(3, 2, 5, dtype=torch.int64)
    masks = q_sample_fixed(codes, torch.tensor([1, 3, 20]), 20, torch.rand(3, 2, 5)).mask
    assert masks.flatten(1).sum(1).tolist() == [1, 2, 10]

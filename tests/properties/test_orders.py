"""Laws that every order keeps. A new order is tested by its line in `ORDERS`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.sampling import ORDERS, SamplerOptions, fill, fill_steps, make_plan
from smalti.sampling.orders import Order
from smalti.testing import ToyPrior, UniformPrior

WINDOW = (4, 5)

orders = st.sampled_from(list(ORDERS))
options = st.builds(
    SamplerOptions,
    order=orders,
    num_inference_steps=st.integers(1, 40),
    schedule=st.sampled_from(["linear", "cosine"]),
    windows=st.sampled_from(["outward", "tiles", "overlap"]),
    overlap=st.integers(0, 6),
    margin=st.integers(0, 4),
    central_weight=st.booleans(),
    max_batch=st.integers(1, 9),
    temperature=st.floats(0.2, 3),
    top_k=st.integers(0, 9),
    top_p=st.floats(0.1, 1),
)


@st.composite
def grids(draw: Any, largest: int = 12) -> torch.Tensor:
    """Codes `(n, h, w)` of 7 kinds, partly empty."""
    n, height, width = draw(st.integers(1, 3)), draw(st.integers(1, largest)), draw(st.integers(1, largest))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    codes = torch.randint(0, 7, (n, height, width), generator=generator)
    share = draw(st.sampled_from([0.0, 0.2, 0.8, 1.0]))
    return torch.where(torch.rand(codes.shape, generator=generator) < share, -1, codes)


@given(grids(), options, st.integers(0, 2**32 - 1))
def test_given_cells_stay_all_others_are_filled_and_nothing_is_written_to(
    codes: torch.Tensor, options: SamplerOptions, seed: int
) -> None:
    before, version = codes.clone(), codes._version
    seeds = [seed + i for i in range(len(codes))]
    out = fill(UniformPrior(7, WINDOW), codes, seeds=seeds, options=options)
    assert torch.equal(codes, before)
    assert codes._version == version
    assert out.data_ptr() != codes.data_ptr()
    kept = before >= 0
    assert torch.equal(out[kept], before[kept])
    assert (out >= 0).all()
    assert (out < 7).all()


@given(grids(), options, st.integers(0, 2**32 - 1))
def test_plans_cover_the_empty_cells_once_in_no_more_steps_than_asked(
    codes: torch.Tensor, options: SamplerOptions, seed: int
) -> None:
    for grid in codes:
        plan = make_plan(grid == -1, WINDOW, options, seed)
        empty = np.flatnonzero((grid == -1).numpy())
        assert sum(plan.counts) == len(empty)
        assert all(count > 0 for count in plan.counts)
        assert plan.evaluations <= len(empty)
        assert plan.cost() >= plan.evaluations
        if plan.rings is None:
            assert plan.evaluations <= options.num_inference_steps
        if plan.rings is None and options.order != "ancestral":
            assert plan.evaluations == min(options.num_inference_steps, len(empty))
        if not plan.adaptive:
            assert [len(cells) for cells in plan.steps] == list(plan.counts)
            assert np.array_equal(np.sort(np.concatenate([empty[:0], *plan.steps])), empty)


@given(grids(), options, st.integers(0, 2**32 - 1))
def test_the_network_sees_no_more_windows_than_planned(codes: torch.Tensor, options: SamplerOptions, seed: int) -> None:
    prior = UniformPrior(7, WINDOW)
    seeds = [seed] * len(codes)
    plans = [make_plan(grid == -1, WINDOW, options, seed) for grid in codes]
    steps = list(fill_steps(prior, codes, seeds=seeds, options=options))
    cost = sum(plan.cost() for plan in plans)
    assert prior.windows_seen == (steps[-1].evaluations if steps else 0)
    assert prior.windows_seen <= cost
    if not any(plan.adaptive for plan in plans):
        assert prior.windows_seen == cost
    assert sum(int(step.revealed.sum()) for step in steps) == int((codes == -1).sum())


@given(grids(6), options, st.integers(0, 2**32 - 1))
def test_the_batch_and_its_size_do_not_matter(codes: torch.Tensor, options: SamplerOptions, seed: int) -> None:
    prior = ToyPrior.random(2, 2, 7, seed=3)
    seeds = [seed + i for i in range(len(codes))]
    together = fill(prior, codes, seeds=seeds, options=options)
    for i in range(len(codes)):
        alone = fill(prior, codes[i : i + 1], seeds=seeds[i : i + 1], options=options.replace(max_batch=64))
        assert torch.equal(alone[0], together[i])


@given(grids(), options, st.integers(0, 2**32 - 1), st.integers(0, 39))
def test_an_interrupted_run_continues_to_the_same_codes(
    codes: torch.Tensor, options: SamplerOptions, seed: int, after: int
) -> None:
    prior = ToyPrior.random(2, 2, 7, seed=3)
    seeds = [seed + i for i in range(len(codes))]
    plans = [make_plan(g == -1, prior.window, options, s) for g, s in zip(codes, seeds, strict=True)]
    partial = codes
    for step in fill_steps(prior, codes, seeds=seeds, options=options):
        partial = step.codes
        if step.index >= after:
            break
    continued = fill(prior, partial, seeds=seeds, options=options, plans=plans)
    assert torch.equal(continued, fill(prior, codes, seeds=seeds, options=options))


@pytest.mark.parametrize("name", list(ORDERS))
def test_an_order_depends_on_nothing_but_its_arguments(name: str) -> None:
    order: Order = ORDERS[name]
    schedule = SamplerOptions(num_inference_steps=9).steps_schedule()
    empty = np.ones((9, 70), np.bool_)
    empty[2:4, 5:30] = False
    before = empty.copy()
    first = order.arrange(empty, schedule, 11)
    order.arrange(empty, schedule, 12)
    again = order.arrange(empty, schedule, 11)
    assert np.array_equal(first.cells, again.cells)
    assert first.counts == again.counts
    assert np.array_equal(empty, before)
    assert isinstance(order.adaptive, bool)
    assert isinstance(order.movable, bool)

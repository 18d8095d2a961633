from __future__ import annotations

import numpy as np
import pytest
import torch

from smalti.errors import UsageError
from smalti.sampling import SamplerOptions, make_plan


def test_steps_and_cost_on_one_window() -> None:
    plan = make_plan(torch.ones(16, 16, dtype=torch.bool), (16, 16), SamplerOptions(num_inference_steps=24), seed=3)
    assert plan.evaluations == len(plan.steps) == plan.cost() == 24
    assert [len(cells) for cells in plan.steps] == list(plan.counts)


def test_few_empty_cells_cost_at_most_that_many_evaluations() -> None:
    mask = torch.zeros(16, 16, dtype=torch.bool)
    mask[4, 4:9] = True
    assert make_plan(mask, (16, 16), SamplerOptions(num_inference_steps=64)).cost() == 5
    assert make_plan(~mask & mask, (16, 16)).cost() == 0


def test_cost_grows_with_what_is_empty_not_with_the_canvas() -> None:
    mask = torch.zeros(160, 160, dtype=torch.bool)
    mask[70:74, 70:74] = True
    assert make_plan(mask, (16, 16), SamplerOptions(num_inference_steps=4)).cost() <= 4 * 4


def test_tiles_cost_linear_in_the_area() -> None:
    options = SamplerOptions(num_inference_steps=16, windows="tiles")
    costs = [make_plan(torch.ones(s, s, dtype=torch.bool), (16, 16), options).cost() / (s / 16) ** 2 for s in (64, 256)]
    assert costs[1] < costs[0] < 16 * 1.6


@pytest.mark.parametrize("order", ["bluenoise", "random", "halton"])
def test_cells_at_an_inner_edge_wait_until_a_tile_has_them_inside(order: str) -> None:
    options = SamplerOptions(order=order, num_inference_steps=32, windows="tiles", margin=2)
    plan = make_plan(torch.ones(48, 48, dtype=torch.bool), (16, 16), options, seed=5)
    room = [int(plan.layout(k).room(cells).min()) for k, cells in enumerate(plan.steps)]
    assert all(r >= 2 for r in room[:24])
    left = np.arange(48 * 48)
    for k, cells in enumerate(plan.steps):  # the margin is relaxed only when nothing else is left
        if room[k] < 2:
            assert (plan.layout(k).room(left) >= room[k] + 1).sum() < len(cells)
        left = np.setdiff1d(left, cells)


def test_raster_and_ancestral_keep_their_places_on_large_canvases() -> None:
    mask = torch.ones(20, 40, dtype=torch.bool)
    plan = make_plan(mask, (16, 16), SamplerOptions(order="raster"))
    assert np.array_equal(np.concatenate(plan.steps), np.arange(800))
    wide, alone = (make_plan(mask, w, SamplerOptions(order="ancestral"), seed=1) for w in ((16, 16), (20, 40)))
    assert all(np.array_equal(a, b) for a, b in zip(wide.steps, alone.steps, strict=True))


def test_tiles_move_at_each_step() -> None:
    plan = make_plan(torch.ones(64, 64, dtype=torch.bool), (16, 16), SamplerOptions(num_inference_steps=8), seed=5)
    seams = {(int(plan.layout(k).row_starts[1]), int(plan.layout(k).col_starts[1])) for k in range(8)}
    assert len(seams) == 8


def test_a_plan_is_a_pure_function() -> None:
    mask = torch.rand(20, 20, generator=torch.Generator().manual_seed(0)) < 0.5
    before = mask.clone()
    a, b = (make_plan(mask, (16, 16), seed=7) for _ in range(2))
    assert torch.equal(mask, before)
    assert all(np.array_equal(x, y) for x, y in zip(a.steps, b.steps, strict=True))
    other = make_plan(mask, (16, 16), seed=8)
    assert not all(np.array_equal(x, y) for x, y in zip(a.steps, other.steps, strict=True))


def test_confidence_plans_counts_only() -> None:
    plan = make_plan(torch.ones(32, 32, dtype=torch.bool), (16, 16), SamplerOptions(order="confidence"))
    assert plan.adaptive
    assert plan.steps == ()
    assert sum(plan.counts) == 1024


def test_wrong_masks() -> None:
    for mask in (torch.ones(2, 4, 4, dtype=torch.bool), torch.ones(4, 4)):
        with pytest.raises(UsageError, match="mask"):
            make_plan(mask, (4, 4))

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from smalti.errors import UsageError
from smalti.sampling import ORDERS, SamplerOptions, elbo_bits, fill, make_plan, score_plan, surprise
from smalti.testing import ToyPrior, UniformPrior

PRIOR = ToyPrior.random(2, 2, 3, seed=1)
EXACT = [name for name, order in ORDERS.items() if not order.adaptive]


def brute_force_bits(prior: ToyPrior, grid: torch.Tensor, steps: Any, given: torch.Tensor) -> float:
    """-log2 of the chain rule along `steps`, from sums over the joint table alone."""
    flat, grids = grid.flatten(), prior.grids.flatten(1)
    known = given.flatten().clone()
    log_q = 0.0
    for cells in steps:
        fits = (grids[:, known] == flat[known]).all(1)
        for cell in cells:
            both = fits & (grids[:, cell] == flat[cell])
            log_q += float(torch.log2(prior.joint[both].sum() / prior.joint[fits].sum()))
        known[list(cells)] = True
    return -log_q


@pytest.mark.parametrize("order", EXACT)
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_equals_the_chain_rule_and_sums_to_one(order: str, steps: int) -> None:
    options = SamplerOptions(order=order, num_inference_steps=steps)
    grids = PRIOR.grids
    bits = score_plan(PRIOR, grids, seeds=[3] * 81, options=options)
    assert float((2.0 ** (-bits * 4)).sum()) == pytest.approx(1, abs=1e-5)
    plan = make_plan(torch.ones(2, 2, dtype=torch.bool), (2, 2), options, 3)
    for i in range(0, 81, 10):
        wanted = brute_force_bits(PRIOR, grids[i], plan.steps, torch.zeros(2, 2, dtype=torch.bool))
        assert float(bits[i]) * 4 == pytest.approx(wanted, abs=1e-4)


def test_one_cell_at_a_time_is_the_joint_in_any_order() -> None:
    for order in ("raster", "bluenoise", "random"):
        options = SamplerOptions(order=order, num_inference_steps=4)
        bits = score_plan(PRIOR, PRIOR.grids, seeds=range(81), options=options)
        torch.testing.assert_close(bits * 4, -PRIOR.joint.log2(), atol=1e-4, rtol=0)


def test_given_cells_are_not_counted() -> None:
    empty = torch.tensor([[True, False], [True, True]])
    options = SamplerOptions(num_inference_steps=2)
    grids = PRIOR.grids[PRIOR.grids[:, 0, 1] == 1]
    bits = score_plan(PRIOR, grids, seeds=[4] * 27, options=options, empty=empty)
    assert float((2.0 ** (-bits * 3)).sum()) == pytest.approx(1, abs=1e-5)
    plan = make_plan(empty, (2, 2), options, 4)
    assert float(bits[5]) * 3 == pytest.approx(brute_force_bits(PRIOR, grids[5], plan.steps, ~empty), abs=1e-4)


@pytest.mark.parametrize("windows", ["tiles", "overlap"])
@pytest.mark.parametrize("fields", [{}, {"temperature": 0.7, "top_p": 0.8}], ids=["plain", "adjusted"])
def test_the_score_is_the_law_of_fill_on_a_canvas_of_many_windows(windows: str, fields: dict[str, Any]) -> None:
    prior = ToyPrior.random(2, 2, 2, seed=6)
    options = SamplerOptions(num_inference_steps=3, windows=windows, overlap=1, margin=0, order="random", **fields)
    every = torch.cartesian_prod(*[torch.arange(2)] * 6).view(64, 2, 3)
    law = (2.0 ** (-6 * score_plan(prior, every, seeds=[9] * 64, options=options))).numpy()
    assert law.sum() == pytest.approx(1, abs=1e-5)
    n = 1500
    plan = make_plan(torch.ones(2, 3, dtype=torch.bool), (2, 2), options, 9)
    codes = fill(prior, torch.full((n, 2, 3), -1), seeds=range(n), options=options, plans=[plan] * n)
    place = 2 ** torch.arange(5, -1, -1)
    observed = np.bincount((codes.flatten(1) * place).sum(1).numpy(), minlength=64)
    often = law * n >= 5
    a, b = (np.append(x[often], x[~often].sum()) for x in (observed, law * n))
    assert stats.chisquare(a[b > 0], b[b > 0] * a.sum() / b.sum()).pvalue > 1e-3
    assert not observed[law == 0].any()


def test_codes_that_the_options_exclude_are_infinitely_surprising() -> None:
    bits = score_plan(PRIOR, PRIOR.grids, seeds=[0] * 81, options=SamplerOptions(top_k=1))
    assert torch.isinf(bits).any()
    assert not torch.isnan(bits).any()


def test_adaptive_orders_and_grids_with_holes_have_no_score() -> None:
    with pytest.raises(UsageError, match="confidence"):
        score_plan(PRIOR, PRIOR.grids[:1], seeds=[0], options=SamplerOptions(order="confidence"))
    for function in (score_plan, elbo_bits):
        with pytest.raises(UsageError, match=r"cell \(0, 0\) of grid 0 is empty"):
            function(PRIOR, torch.full((1, 2, 2), -1), seeds=[0])
    with pytest.raises(UsageError, match="empty"):
        surprise(PRIOR, torch.full((1, 2, 2), -1))


def test_elbo_of_an_exact_model_is_its_likelihood() -> None:
    # every order gives the same joint, so the bound is tight for each grid; the estimate is unbiased
    for i in (0, 17, 60):
        runs = elbo_bits(PRIOR, PRIOR.grids[i : i + 1].expand(600, 2, 2), seeds=range(600), strata=4)
        error = float(runs.std()) / 600**0.5
        assert float(runs.mean()) == pytest.approx(-float(PRIOR.joint[i].log2()) / 4, abs=4 * error)


def test_elbo_strata_all_estimate_the_same() -> None:
    grid = PRIOR.grids[40:41].expand(900, 2, 2)
    means, errors = [], []
    for strata in (1, 3, 4):
        runs = elbo_bits(PRIOR, grid, seeds=range(900), strata=strata)
        means.append(float(runs.mean()))
        errors.append(float(runs.std()) / 30)
    assert means[0] == pytest.approx(means[2], abs=4 * (errors[0] + errors[2]))
    assert means[1] == pytest.approx(means[2], abs=4 * (errors[1] + errors[2]))
    assert errors[2] < errors[0]


def test_elbo_strata_hide_every_number_of_cells() -> None:
    hidden = []

    class Spy:
        codebook_size, window, device = 3, (2, 2), torch.device("cpu")

        def __call__(self, codes: Any, positions: Any = None, label: Any = None) -> Any:
            hidden.extend((codes == -1).flatten(1).sum(1).tolist())
            return PRIOR(codes, positions)

    elbo_bits(Spy(), PRIOR.grids[:1], seeds=[5], strata=4)
    assert sorted(hidden) == [1, 2, 3, 4]
    hidden.clear()
    elbo_bits(Spy(), PRIOR.grids[:1].expand(400, 2, 2), seeds=range(400), strata=2)
    assert stats.chisquare(np.bincount(hidden)[1:]).pvalue > 1e-3
    assert sum(n <= 2 for n in hidden) == 400


def test_surprise_in_cosets_of_one_cell_is_the_exact_conditional() -> None:
    grids = PRIOR.grids[::7]
    bits = surprise(PRIOR, grids, cosets=4)
    for i, grid in enumerate(grids):
        for cell in range(4):
            hidden = grid.flatten().clone()
            hidden[cell] = -1
            p = PRIOR.conditionals(hidden.view(1, 2, 2))[0, cell, grid.flatten()[cell]]
            assert float(bits[i].flatten()[cell]) == pytest.approx(-float(p.log2()), abs=1e-4)


@pytest.mark.parametrize("canvas", [(16, 16), (5, 9), (40, 16), (33, 47)])
def test_surprise_and_scores_on_any_canvas(canvas: tuple[int, int]) -> None:
    prior = UniformPrior(256)
    codes = torch.randint(0, 256, (2, *canvas), generator=torch.Generator().manual_seed(0))
    before = codes.clone()
    assert torch.equal(surprise(prior, codes), torch.full((2, *canvas), 8.0))
    seen = prior.windows_seen
    torch.testing.assert_close(elbo_bits(prior, codes, seeds=[1, 2], strata=3), torch.full((2,), 8.0).double())
    torch.testing.assert_close(score_plan(prior, codes, seeds=[1, 2]), torch.full((2,), 8.0).double())
    assert torch.equal(codes, before)
    if canvas == (16, 16):
        assert seen == 2 * 4


def test_surprise_knows_the_odd_one_out(context_prior: Any) -> None:
    # a cell's surprise depends on the others, and a batch changes nothing
    codes = torch.randint(0, 11, (5, 9, 7), generator=torch.Generator().manual_seed(0))
    together = surprise(context_prior, codes)
    torch.testing.assert_close(surprise(context_prior, codes[3:4], max_batch=1)[0], together[3])
    changed = codes.clone()
    changed[0, 4, 4] = (changed[0, 4, 4] + 1) % 11
    assert not torch.allclose(surprise(context_prior, changed)[0], together[0])

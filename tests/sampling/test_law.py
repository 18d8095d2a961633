"""The distribution of what comes out, against closed form: chi-square tests on an exact model.

The expected laws are computed here from the joint table, by multiplying conditionals along each image's plan; the
engine's own scoring is not used.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from smalti.sampling import ORDERS, SamplerOptions, fill, make_plan
from smalti.testing import ToyPrior

N = 1600
PRIOR = ToyPrior.random(2, 2, 3, seed=0, sharpness=1.0)
EMPTY_GRID = torch.full((2, 2), -1)


def drawn(options: SamplerOptions, n: int = N, given: torch.Tensor = EMPTY_GRID, prior: ToyPrior = PRIOR) -> np.ndarray:
    """How often each full grid comes out of `n` images, int `(K^N,)`."""
    codes = fill(prior, given.expand(n, *given.shape), seeds=range(n), options=options)
    return np.bincount(prior.number(codes).numpy(), minlength=len(prior.joint))


def law_of(steps: tuple[tuple[int, ...], ...], given: torch.Tensor, prior: ToyPrior, sharpen: Any = None) -> np.ndarray:
    """Probability of each full grid when the cells of each step are drawn independently given the steps before."""
    grids = prior.grids.flatten(1)
    known = given.flatten() >= 0
    law = (grids[:, known] == given.flatten()[known]).all(1).double()
    now = torch.where(known, grids, -1)
    for cells in steps:
        p = prior.conditionals(now.view(-1, *prior.window))
        p = p if sharpen is None else sharpen(p)
        for cell in cells:
            law = law * p[:, cell].gather(1, grids[:, cell : cell + 1])[:, 0]
        now[:, list(cells)] = grids[:, list(cells)]
    return torch.where(law > 0, law, 0.0).numpy()


def expected(options: SamplerOptions, n: int = N, given: torch.Tensor = EMPTY_GRID, sharpen: Any = None) -> np.ndarray:
    """The laws of all images' plans, added up: the expected counts."""
    plans = Counter(
        tuple(tuple(cells.tolist()) for cells in make_plan(given < 0, PRIOR.window, options, seed).steps)
        for seed in range(n)
    )
    return sum(times * law_of(steps, given, PRIOR, sharpen) for steps, times in plans.items())


def assert_same_law(observed: np.ndarray, expected: np.ndarray) -> None:
    assert not observed[expected == 0].any()
    often = expected >= 5
    observed = np.append(observed[often], observed[~often].sum())
    expected = np.append(expected[often], expected[~often].sum())
    some = expected > 0
    if some.sum() == 1:  # one possible outcome: nothing to test beyond the line above
        return
    assert stats.chisquare(observed[some], expected[some] * observed.sum() / expected.sum()).pvalue > 1e-3


EXACT = [name for name, order in ORDERS.items() if not order.adaptive]


@pytest.mark.parametrize("order", EXACT)
def test_one_cell_at_a_time_is_the_joint_itself(order: str) -> None:
    # for ancestral that needs T so large that no two cells share a step
    options = SamplerOptions(order=order, num_inference_steps=1_000_000 if order == "ancestral" else 4)
    assert_same_law(drawn(options), PRIOR.joint.numpy() * N)


@pytest.mark.parametrize("order", EXACT)
def test_few_steps_have_the_law_of_their_plan(order: str) -> None:
    options = SamplerOptions(order=order, num_inference_steps=2)
    wanted = expected(options)
    assert_same_law(drawn(options), wanted)
    assert abs(wanted / N - PRIOR.joint.numpy()).sum() > 0.05  # another law than the joint: the test can tell


def test_given_cells_condition_the_law() -> None:
    given = torch.tensor([[-1, 2], [-1, -1]])
    assert_same_law(
        drawn(SamplerOptions(order="random", num_inference_steps=3), given=given),
        np.where((PRIOR.grids[:, 0, 1] == 2).numpy(), PRIOR.joint.numpy(), 0) * N,
    )


@pytest.mark.parametrize(
    ("fields", "sharpen"),
    [
        ({"temperature": 0.6}, lambda p: p ** (1 / 0.6) / (p ** (1 / 0.6)).sum(-1, keepdim=True)),
        ({"temperature": 1.7}, lambda p: p ** (1 / 1.7) / (p ** (1 / 1.7)).sum(-1, keepdim=True)),
        ({"top_k": 1}, lambda p: (p == p.amax(-1, keepdim=True)).double()),
        ({"top_k": 2}, lambda p: _without_least(p)),
    ],
    ids=["colder", "hotter", "top-1", "top-2"],
)
def test_adjusted_distributions(fields: dict[str, Any], sharpen: Any) -> None:
    options = SamplerOptions(order="random", num_inference_steps=3, schedule="linear", **fields)
    assert_same_law(drawn(options), expected(options, sharpen=sharpen))


def _without_least(p: torch.Tensor) -> torch.Tensor:
    p = torch.where((p == p.amin(-1, keepdim=True)) & (p.amax(-1, keepdim=True) < 1), 0.0, p)
    return p / p.sum(-1, keepdim=True)


def the_papers_loop(prior: ToyPrior, n: int, steps: int, seed: int) -> torch.Tensor:
    """Algorithm of Bond-Taylor et al. 2022 as its authors wrote it: for t = T..1, draw every cell, and let each masked
    cell take its draw with probability 1/t."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.full((n, 4), -1)
    for t in range(steps, 0, -1):
        changes = (torch.rand(n, 4, generator=generator) < 1 / t) & (codes == -1)
        p = prior.conditionals(codes.view(n, 2, 2)).float()
        new = torch.multinomial(p.flatten(0, 1), 1, generator=generator).view(n, 4)
        codes = torch.where(changes, new, codes)
    return codes.view(n, 2, 2)


@pytest.mark.parametrize("steps", [1, 3, 6])
def test_ancestral_has_the_law_of_the_papers_loop(steps: int) -> None:
    ours = drawn(SamplerOptions(order="ancestral", num_inference_steps=steps))
    many = 40_000
    paper = np.bincount(PRIOR.number(the_papers_loop(PRIOR, many, steps, seed=1)).numpy(), minlength=81)
    often = (ours + paper) > 50
    table = np.stack([np.append(x[often], x[~often].sum()) for x in (ours, paper)])
    table = table[:, table.any(0)]
    assert stats.chi2_contingency(table).pvalue > 1e-3


@pytest.mark.parametrize("temperature", [0.0, 0.6, 4.5])
def test_confidence_has_the_law_of_maskgit(temperature: float) -> None:
    # two cells, two steps: draw (a, b) from the marginals; keep a with the probability that its noisy confidence wins
    # (the difference of two Gumbels is logistic), then draw the other cell given it
    prior = ToyPrior.random(1, 2, 3, seed=2, sharpness=1.2)
    joint = prior.joint.view(3, 3).numpy()
    left, right = joint.sum(1), joint.sum(0)
    noise = temperature * (1 - 1 / 2)
    gap = np.log(left[:, None]) - np.log(right[None, :])
    keep_left = 1 / (1 + np.exp(-gap / noise)) if noise else (gap > 0).astype(float)
    first = left[:, None] * right[None, :]
    law = (first * keep_left).sum(1)[:, None] * joint / left[:, None]
    law = law + (first * (1 - keep_left)).sum(0)[None, :] * joint / right[None, :]
    options = SamplerOptions(order="confidence", num_inference_steps=2, choice_temperature=temperature)
    assert_same_law(drawn(options, given=torch.full((1, 2), -1), prior=prior), law.reshape(-1) * N)
    assert abs(law - joint).sum() > 0.02  # MaskGIT is not a sampler of the joint


def test_a_canvas_smaller_than_the_window_has_the_marginal_law() -> None:
    codes = fill(PRIOR, torch.full((N, 2, 1), -1), seeds=range(N), options=SamplerOptions(num_inference_steps=2))
    observed = np.bincount((codes[:, 0, 0] * 3 + codes[:, 1, 0]).numpy(), minlength=9)
    marginal = PRIOR.joint.view(3, 3, 3, 3).sum((1, 3)).flatten()  # centred means the left column here
    assert_same_law(observed, marginal.numpy() * N)


def test_a_canvas_larger_than_the_window_is_markov_between_windows() -> None:
    # raster on 1 x 3 with a window of 1 x 2: the first two cells are drawn in the left window, the third in the right
    prior = ToyPrior.random(1, 2, 3, seed=5)
    joint = prior.joint.view(3, 3)
    law = joint[:, :, None] * (joint / joint.sum(1, keepdim=True))[None]
    options = SamplerOptions(order="raster", num_inference_steps=3, margin=0)
    codes = fill(prior, torch.full((N, 1, 3), -1), seeds=range(N), options=options)
    observed = np.bincount((codes[:, 0] * torch.tensor([9, 3, 1])).sum(1).numpy(), minlength=27)
    covers = [make_plan(torch.ones(1, 3, dtype=torch.bool), (1, 2), options, seed) for seed in range(50)]
    starts = [int(plan.cover(1, np.array([1])).cols[0]) for plan in covers]
    assert set(starts) == {0}  # what the law above assumes
    assert_same_law(observed, law.flatten().numpy() * N)

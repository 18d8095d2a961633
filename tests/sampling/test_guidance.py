"""Guidance against closed form on exact priors, and what it must not change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from test_law import assert_same_law, law_of

from smalti.errors import UsageError
from smalti.sampling import (
    GUIDANCE_SCHEDULES,
    Denoiser,
    GuidedDenoiser,
    SamplerOptions,
    fill,
    fill_steps,
    make_plan,
    score_plan,
)
from smalti.testing import ToyClasses, ToyPrior

CLASSES = ToyClasses([ToyPrior.random(2, 2, 3, seed=s, sharpness=1.0) for s in (3, 4)], shares=[0.3, 0.7])
EMPTY_GRID = torch.full((2, 2), -1)
EVERY = CLASSES.mixture.grids
W = 1.5


class Exact:
    """The guided conditionals, written down: what `law_of` needs of a prior."""

    grids, window = EVERY, CLASSES.window

    def __init__(self, strong: ToyPrior, weak: ToyPrior, w: float) -> None:
        self.strong, self.weak, self.w = strong, weak, w

    def conditionals(self, codes: torch.Tensor) -> torch.Tensor:
        p, q = self.strong.conditionals(codes), self.weak.conditionals(codes)
        guided = torch.where(p > 0, q * (p / q) ** (1 + self.w), 0.0)
        return guided / guided.sum(-1, keepdim=True)


def options(**fields: Any) -> SamplerOptions:
    return SamplerOptions(**{"order": "random", "num_inference_steps": 3, "guidance": W, **fields})


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_the_guided_law_is_exact(label: int, steps: int) -> None:
    chosen = options(num_inference_steps=steps, guidance_schedule="constant")
    plan = make_plan(EMPTY_GRID < 0, (2, 2), chosen, 5)
    bits = score_plan(CLASSES, EVERY, seeds=[5] * len(EVERY), options=chosen, plans=[plan] * len(EVERY), label=label)
    law = torch.exp2(-4 * bits)
    order = tuple(tuple(cells.tolist()) for cells in plan.steps)
    wanted = law_of(order, EMPTY_GRID, Exact(CLASSES.priors[label], CLASSES.mixture, W))  # type: ignore[arg-type]
    assert float(law.sum()) == pytest.approx(1)
    np.testing.assert_allclose(law.numpy(), wanted, rtol=2e-5, atol=1e-9)
    plain = law_of(order, EMPTY_GRID, CLASSES.priors[label])
    assert abs(plain - wanted).sum() > 0.1  # another law than the class's own: the test can tell


def test_pictures_are_drawn_from_the_guided_law() -> None:
    n = 1600
    chosen = options(order="raster", num_inference_steps=4, guidance_schedule="constant")
    codes = fill(CLASSES, EMPTY_GRID.expand(n, 2, 2), seeds=range(n), options=chosen, label=1)
    observed = np.bincount(CLASSES.mixture.number(codes).numpy(), minlength=81)
    law = law_of(((0,), (1,), (2,), (3,)), EMPTY_GRID, Exact(CLASSES.priors[1], CLASSES.mixture, W))  # type: ignore[arg-type]
    assert_same_law(observed, law * n)


@pytest.mark.parametrize("order", ["bluenoise", "confidence"])
def test_without_guidance_a_label_is_its_own_prior_and_no_label_the_mixture(order: str) -> None:
    seeds, empty = range(50), EMPTY_GRID.expand(50, 2, 2)
    plain = options(order=order, guidance=0.0)
    labels = torch.arange(50) % 2
    both = fill(CLASSES, empty, seeds=seeds, options=plain, label=labels)
    for label, prior in enumerate(CLASSES.priors):
        assert torch.equal(both[labels == label], fill(prior, empty, seeds=seeds, options=plain)[labels == label])
    nothing = fill(CLASSES.mixture, empty, seeds=seeds, options=plain)
    for chosen in (plain, options(order=order)):  # guidance without a label does nothing
        for none in (None, -1):
            assert torch.equal(fill(CLASSES, empty, seeds=seeds, options=chosen, label=none), nothing)


@pytest.mark.parametrize("order", ["bluenoise", "ancestral", "confidence"])
@pytest.mark.parametrize("canvas", [(6, 6), (13, 4)])
def test_an_image_does_not_depend_on_the_labels_beside_it(context_prior: Any, order: str, canvas: Any) -> None:
    codes = torch.full((6, *canvas), -1)
    codes[2:, : canvas[0] // 2] = 3  # at another share of known cells than the first two
    chosen, labels = options(order=order, num_inference_steps=6), torch.tensor([0, 1, 2, 2, -1, 1])
    batch = fill(context_prior, codes, seeds=range(6), options=chosen, label=labels)
    for i in range(6):
        alone = fill(context_prior, codes[i : i + 1], seeds=[i], options=chosen.replace(max_batch=1), label=labels[i])
        assert torch.equal(batch[i], alone[0])
    assert not torch.equal(batch, fill(context_prior, codes, seeds=range(6), options=chosen.replace(guidance=0.0)))


@pytest.mark.parametrize("canvas", [(6, 6), (3, 4), (13, 4), (14, 11)])
@pytest.mark.parametrize("windows", ["outward", "tiles", "overlap"])
@pytest.mark.parametrize("schedule", list(GUIDANCE_SCHEDULES))
def test_evaluations_are_counted_as_the_network_sees_them(
    context_prior: Any, canvas: Any, windows: str, schedule: str
) -> None:
    chosen = options(order="bluenoise", windows=windows, guidance_schedule=schedule, num_inference_steps=8, overlap=3)
    labels = torch.tensor([1, -1, 2])
    codes = torch.full((3, *canvas), -1)
    codes[2, 1:, 1:] = 4
    steps = list(fill_steps(context_prior, codes, seeds=range(3), options=chosen, label=labels))
    plans = [make_plan(grid < 0, (6, 6), chosen, seed) for seed, grid in enumerate(codes)]
    cost = sum(plan.cost(guided=label >= 0) for plan, label in zip(plans, labels.tolist(), strict=True))
    plain = sum(plan.cost() for plan in plans)
    assert steps[-1].evaluations == context_prior.windows_seen == cost
    assert plain < cost < 2 * plain
    if schedule == "late" and canvas == (6, 6):  # of 8 cosine steps, 4 begin with more than a quarter known
        assert [plans[0].cost(), plans[0].cost(guided=True)] == [8, 12]


def test_guidance_of_a_small_canvas_counts_its_own_cells(context_prior: Any) -> None:
    empty = torch.full((1, 2, 3), -1)
    drawn = [fill(context_prior, empty, seeds=[s], options=options(guidance=w), label=2) for w in (0.0, 9.0)
             for s in range(20)]  # fmt: skip
    assert any(not torch.equal(a, b) for a, b in zip(drawn[:20], drawn[20:], strict=True))


def test_autoguidance_asks_the_weaker_model_the_same_question() -> None:
    weak = ToyClasses([ToyPrior.random(2, 2, 3, seed=s, sharpness=0.4) for s in (3, 4)])
    both = GuidedDenoiser(CLASSES, weak, scale=W, schedule="constant")
    assert isinstance(both, Denoiser)
    grid, label = torch.tensor([[[2, -1], [-1, -1]]] * 3), torch.tensor([0, 1, -1])
    found = torch.softmax(both(grid, torch.tensor([[1, 3]] * 3), label).double(), -1)
    pairs = [(CLASSES.priors[0], weak.priors[0]), (CLASSES.priors[1], weak.priors[1]), (CLASSES.mixture, weak.mixture)]
    for i, (strong, worse) in enumerate(pairs):
        wanted = Exact(strong, worse, W).conditionals(grid[:1])[0, [1, 3]]
        torch.testing.assert_close(found[i], wanted, rtol=1e-5, atol=1e-7)
    assert both.second_evaluations == 3
    steps = list(fill_steps(both, grid, seeds=range(3)))  # without labels: two models of everything
    assert steps[-1].evaluations == 2 * 3 * 3


def test_what_is_impossible_stays_impossible() -> None:
    strong = ToyPrior(torch.tensor([0.5, 0.5, 0.0]), (1, 1), 3)
    weak = ToyPrior(torch.tensor([0.0, 0.5, 0.5]), (1, 1), 3)
    for a, b, wanted in ((strong, weak, [1, 0, 0]), (strong, strong, [0.5, 0.5, 0])):
        logits = GuidedDenoiser(a, b, scale=2.0, schedule="constant")(torch.full((1, 1, 1), -1))
        assert torch.softmax(logits, -1)[0, 0].tolist() == pytest.approx(wanted)


def test_schedules_begin_and_end_where_they_say() -> None:
    share = np.linspace(0, 1, 101)
    late = GUIDANCE_SCHEDULES["late"](share)
    assert not late[share <= 0.25].any()
    assert (np.diff(late[share >= 0.25]) > 0).all()
    assert late[-1] == 1
    assert (GUIDANCE_SCHEDULES["constant"](share) == 1).all()


@pytest.mark.parametrize(("field", "value"), [("guidance", -1), ("guidance", float("nan")), ("guidance_schedule", "x")])
def test_refusals(field: str, value: Any) -> None:
    with pytest.raises(UsageError, match=field):
        options(**{field: value})


def test_two_models_must_speak_of_the_same_codes() -> None:
    for other in (ToyPrior.random(2, 2, 2), ToyPrior.random(1, 2, 3)):
        with pytest.raises(UsageError, match="the same codes"):
            GuidedDenoiser(CLASSES, other, scale=1.0)

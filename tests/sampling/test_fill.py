from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from smalti.errors import UsageError
from smalti.sampling import ORDERS, FillStep, SamplerOptions, fill, fill_steps, make_plan
from smalti.testing import UniformPrior

CANVASES = [(6, 6), (3, 4), (6, 13), (2, 9), (14, 11)]
ALL = [(order, canvas) for order in ORDERS for canvas in ((6, 6), (13, 4))]


def some_grids(n: int, canvas: tuple[int, int], share: float = 0.3, seed: int = 0) -> torch.Tensor:
    """Grids of which about `share` of the cells are given."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 11, (n, *canvas), generator=generator)
    return torch.where(torch.rand(n, *canvas, generator=generator) < share, codes, -1)


def quick(**fields: Any) -> SamplerOptions:
    return SamplerOptions(**{"num_inference_steps": 5, "margin": 1, "overlap": 3, **fields})


@pytest.mark.parametrize(("order", "canvas"), ALL)
@pytest.mark.parametrize("windows", ["outward", "tiles", "overlap"])
def test_an_image_in_a_batch_is_the_image_alone(context_prior: Any, order: str, canvas: Any, windows: str) -> None:
    codes, options = some_grids(16, canvas), quick(order=order, windows=windows)
    batch = fill(context_prior, codes, seeds=range(16), options=options)
    alone = fill(context_prior, codes[7:8], seeds=[7], options=options.replace(max_batch=1))
    assert torch.equal(batch[7], alone[0])
    assert len({tuple(grid.flatten().tolist()) for grid in batch}) == 16


@pytest.mark.parametrize(("order", "canvas"), ALL)
def test_a_run_interrupted_after_any_step_continues_to_the_same_codes(
    context_prior: Any, order: str, canvas: Any
) -> None:
    codes, options = some_grids(3, canvas), quick(order=order, schedule="linear")
    whole = list(fill_steps(context_prior, codes, seeds=[5, 6, 7], options=options))
    plans = [make_plan(grid == -1, context_prior.window, options, s) for grid, s in zip(codes, [5, 6, 7], strict=True)]
    for step in whole:
        rest = list(fill_steps(context_prior, step.codes, seeds=[5, 6, 7], options=options, plans=plans))
        assert [r.index for r in rest] == [w.index for w in whole if w.index > step.index]
        continued = rest[-1].codes if rest else step.codes
        assert torch.equal(continued, whole[-1].codes)
    # and images that were interrupted at different steps
    mixed = torch.stack([whole[1].codes[0], whole[3].codes[1], codes[2]])
    assert torch.equal(fill(context_prior, mixed, seeds=[5, 6, 7], plans=plans), whole[-1].codes)


@pytest.mark.parametrize("canvas", CANVASES)
@pytest.mark.parametrize("order", list(ORDERS))
def test_the_network_sees_what_the_plan_says(context_prior: Any, order: str, canvas: tuple[int, int]) -> None:
    codes, options = some_grids(4, canvas), quick(order=order)
    plans = [make_plan(grid == -1, context_prior.window, options, seed) for seed, grid in enumerate(codes)]
    steps = list(fill_steps(context_prior, codes, seeds=range(4), options=options))
    cost = sum(plan.cost() for plan in plans)
    one_window = canvas[0] <= 6 and canvas[1] <= 6
    if order == "confidence" and not one_window:
        assert context_prior.windows_seen <= cost
    else:
        assert context_prior.windows_seen == cost
    if one_window:
        assert cost == sum(plan.evaluations for plan in plans)
    assert steps[-1].evaluations == context_prior.windows_seen
    assert len(steps) == max(plan.evaluations for plan in plans) == context_prior.calls


def test_ancestral_steps_that_reveal_nothing_cost_nothing(context_prior: Any) -> None:
    options = SamplerOptions(order="ancestral", num_inference_steps=1000)
    steps = list(fill_steps(context_prior, torch.full((1, 6, 6), -1), seeds=[0], options=options))
    assert context_prior.calls == len(steps) <= 36


def test_only_cells_revealed_now_are_asked_for(context_prior: Any) -> None:
    asked = []

    class Spy:
        codebook_size, window, device = context_prior.codebook_size, context_prior.window, context_prior.device

        def __call__(self, codes: Any, positions: Any, label: Any = None) -> Any:
            asked.append(tuple(positions.shape))
            return context_prior(codes, positions, label)

    codes = torch.full((2, 6, 6), -1)
    codes[1, :3] = 4
    options = quick(schedule="linear", num_inference_steps=3)
    fill(Spy(), codes, seeds=[0, 1], options=options)
    assert asked == [(2, 12)] * 3


@pytest.mark.parametrize("order", ["bluenoise", "confidence"])
def test_what_a_step_tells(context_prior: Any, order: str) -> None:
    codes, before = some_grids(2, (6, 8)), some_grids(2, (6, 8))
    seen = torch.zeros_like(codes, dtype=torch.bool)
    options = quick(order=order, windows="tiles")
    steps = list(fill_steps(context_prior, codes, seeds=[0, 1], options=options))
    for step in steps:
        assert torch.equal(step.revealed, (step.codes != before))
        assert torch.equal(step.confidence > 0, step.revealed)
        assert step.confidence.dtype == torch.float32
        assert (step.confidence <= 1).all()
        assert not (seen & step.revealed).any()
        seen |= step.revealed
        before = step.codes
    assert torch.equal(seen, codes == -1)
    assert (steps[-1].index + 1, steps[-1].of) == (5, 5)


def test_confidence_is_the_probability_of_the_draw() -> None:
    options = SamplerOptions(num_inference_steps=1, top_k=4)
    (step,) = fill_steps(UniformPrior(9, (3, 3)), torch.full((1, 3, 3), -1), seeds=[0], options=options)
    assert torch.equal(step.confidence, torch.full((1, 3, 3), 0.25))
    assert (step.codes < 4).all()


def test_a_consumer_may_scribble_on_what_it_gets(context_prior: Any) -> None:
    codes, options = some_grids(2, (6, 8)), quick()
    clean = fill(context_prior, codes, seeds=[0, 1], options=options)
    for step in fill_steps(context_prior, codes, seeds=[0, 1], options=options):
        last = step.codes.clone()
        step.codes.fill_(3)
    assert torch.equal(last, clean)


def test_a_consumer_may_fill_cells_itself(context_prior: Any) -> None:
    def edit(step: FillStep) -> torch.Tensor | None:
        if step.index > 0:
            return None
        edited = step.codes.clone()
        edited[:, :2] = 7
        return edited

    codes = torch.full((2, 6, 6), -1)
    out = fill(context_prior, codes, seeds=[0, 1], options=quick(), on_step=edit)
    assert (out[:, :2] == 7).all()
    assert (out >= 0).all()


@pytest.mark.parametrize("order", list(ORDERS))
@pytest.mark.parametrize("when", [0, 2, 4])
def test_cells_that_a_consumer_empties_are_drawn_again(context_prior: Any, order: str, when: int) -> None:
    options = quick(order=order, schedule="linear", num_inference_steps=5)
    first: list[torch.Tensor] = []

    def edit(step: FillStep) -> torch.Tensor | None:
        if step.index != when:
            return None
        first.append(step.codes)
        return torch.where(step.revealed, -1, step.codes)

    codes = torch.full((3, 6, 9), -1)
    out = fill(context_prior, codes, seeds=range(3), options=options, on_step=edit)
    assert (out >= 0).all()
    drawn_again = (out != first[0]) & (first[0] >= 0)
    assert drawn_again.any()  # with fresh numbers, not the same ones again


def test_an_edit_after_the_last_step_is_the_result(context_prior: Any) -> None:
    codes = torch.full((1, 6, 6), -1)
    out = fill(context_prior, codes, seeds=[0], options=quick(), on_step=lambda step: step.codes.clamp(min=2))
    assert (out >= 2).all()


def test_wrong_edits_are_usage_errors(context_prior: Any) -> None:
    for edited in (torch.zeros(1, 5, 6, dtype=torch.long), torch.full((1, 6, 6), 99)):
        steps = fill_steps(context_prior, torch.full((1, 6, 6), -1), seeds=[0], options=quick())
        next(steps)
        with pytest.raises(UsageError):
            steps.send(edited)


def test_nothing_to_fill_is_no_step_and_a_copy(context_prior: Any) -> None:
    codes = torch.zeros(2, 6, 6, dtype=torch.long)
    assert list(fill_steps(context_prior, codes, seeds=[0, 1])) == []
    out = fill(context_prior, codes, seeds=[0, 1])
    assert torch.equal(out, codes)
    assert out is not codes
    assert fill(context_prior, codes[:0], seeds=[]).shape == (0, 6, 6)
    assert context_prior.calls == 0


def test_one_window_gives_the_same_codes_by_tiles_and_by_overlap(context_prior: Any) -> None:
    for canvas in ((6, 6), (4, 5)):
        codes = some_grids(4, canvas)
        tiled = fill(context_prior, codes, seeds=range(4), options=quick(windows="tiles"))
        for central in (False, True):
            options = quick(windows="overlap", central_weight=central)
            assert torch.equal(fill(context_prior, codes, seeds=range(4), options=options), tiled)


def test_the_same_windows_give_the_same_codes_whether_mixed_or_not(context_prior: Any) -> None:
    # without overlap the fixed windows are the tiles without jitter, which a margin of 0 allows on 12 x 12
    codes = some_grids(2, (12, 12))
    tiled = fill(context_prior, codes, seeds=[0, 1], options=quick(windows="tiles", margin=0))
    fixed = fill(context_prior, codes, seeds=[0, 1], options=quick(windows="overlap", overlap=0))
    assert torch.equal(tiled, fixed)


def test_codes_do_not_depend_on_the_numbering_of_steps_that_share_a_law() -> None:
    # a network that ignores its input: any cut into steps draws the same codes, cell by cell
    prior, codes = UniformPrior(9, (4, 4)), torch.full((2, 7, 9), -1)
    outs = [
        fill(prior, codes, seeds=[3, 4], options=SamplerOptions(order=order, num_inference_steps=steps))
        for order in ORDERS
        if order != "confidence"
        for steps in (1, 7)
    ]
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_labels_go_to_the_windows_of_their_image(context_prior: Any) -> None:
    codes, options = torch.full((3, 6, 13), -1), quick(windows="overlap", max_batch=2)
    labels = torch.tensor([0, 2, 5])
    together = fill(context_prior, codes, seeds=[1, 1, 1], options=options, label=labels)
    for i, label in enumerate(labels.tolist()):
        assert torch.equal(fill(context_prior, codes[:1], seeds=[1], options=options, label=label)[0], together[i])
    assert not torch.equal(together[0], together[1])


def test_a_huge_canvas_with_few_empty_cells_is_quick_and_bounded() -> None:
    prior = UniformPrior(1024)
    codes = torch.zeros(1, 512, 512, dtype=torch.long)
    codes[:, 250:262, 250:262] = -1
    out = fill(prior, codes, seeds=[0], options=SamplerOptions(num_inference_steps=4))
    assert (out >= 0).all()
    assert prior.windows_seen <= 4 * 4


@pytest.mark.parametrize(
    ("codes", "field"),
    [
        (torch.full((2, 6, 6), 11), "codes"),
        (torch.full((2, 6, 6), -2), "codes"),
        (torch.zeros(6, 6, dtype=torch.long), "codes"),
        (torch.zeros(2, 0, 6, dtype=torch.long), "codes"),
        (torch.zeros(2, 6, 6), "codes"),
        (torch.zeros(3, 6, 6, dtype=torch.long), "seeds"),
    ],
)
def test_wrong_grids_are_usage_errors_before_any_work(context_prior: Any, codes: torch.Tensor, field: str) -> None:
    with pytest.raises(UsageError) as caught:
        fill_steps(context_prior, codes, seeds=[0, 1])
    assert caught.value.field == field
    assert context_prior.calls == 0


def test_a_wrong_code_is_named(context_prior: Any) -> None:
    codes = torch.zeros(2, 6, 6, dtype=torch.long)
    codes[1, 2, 3] = 4096
    with pytest.raises(UsageError, match=r"code 4096 at cell \(2, 3\) of grid 1 is outside 0\.\.10"):
        fill(context_prior, codes, seeds=[0, 1])


def test_wrong_plans_and_labels(context_prior: Any) -> None:
    codes = torch.full((2, 6, 6), -1)
    plan = make_plan(torch.ones(6, 7, dtype=torch.bool), (6, 6))
    with pytest.raises(UsageError, match="plan"):
        fill_steps(context_prior, codes, seeds=[0, 1], plans=[plan, plan])
    with pytest.raises(UsageError, match="plans"):
        fill_steps(context_prior, codes, seeds=[0, 1], plans=[])
    with pytest.raises(UsageError, match="label"):
        fill_steps(context_prior, codes, seeds=[0, 1], label=torch.tensor([1, 2, 3]))


def test_small_integer_types_are_codes_too(context_prior: Any) -> None:
    codes = some_grids(1, (6, 6))
    for dtype in (torch.int16, torch.int32):
        out = fill(context_prior, codes.to(dtype), seeds=[0])
        assert out.dtype == torch.int64
        assert torch.equal(out, fill(context_prior, codes, seeds=[0]))


def test_inference_mode_may_come_and_go(context_prior: Any) -> None:
    codes = some_grids(2, (6, 6))
    plain = fill(context_prior, codes, seeds=[0, 1], options=quick())
    with torch.inference_mode():
        inside = codes.clone()
        steps = fill_steps(context_prior, inside, seeds=[0, 1], options=quick())
        next(steps)
    assert torch.equal([step.codes for step in steps][-1], plain)
    assert torch.equal(fill(context_prior, inside, seeds=[0, 1], options=quick()), plain)


def test_gradients_are_not_kept(context_prior: Any) -> None:
    context_prior.bias.requires_grad_()
    out = fill(context_prior, torch.full((1, 6, 6), -1), seeds=[0], options=quick())
    assert not out.requires_grad
    assert np.array_equal(out.numpy() >= 0, np.ones((1, 6, 6), np.bool_))

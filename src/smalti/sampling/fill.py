"""The loop: draw the cells of each step, yield, go on. The heart of the house.

`fill_steps` is a generator; previews, progress bars, cancelling, animation and resuming are its consumers.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.randomness import Purpose, cell_counters, uniforms
from smalti.sampling.denoiser import Denoiser
from smalti.sampling.draws import adjust, draw
from smalti.sampling.guidance import GuidedDenoiser, guided_by
from smalti.sampling.options import SamplerOptions
from smalti.sampling.orders import Cells
from smalti.sampling.plan import RevealPlan, make_plan, roomiest
from smalti.sampling.windows import Cover, Floats, Ints, predict
from smalti.types import EMPTY, CellMask, Codes


@dataclass(frozen=True, eq=False)
class FillStep:
    """What one step did. All tensors are the consumer's own, on the CPU."""

    index: int
    """Number of the step, from 0. Steps that reveal nothing are skipped, so numbers may have gaps."""
    of: int
    """Steps of the longest plan: `index + 1 == of` at the end."""
    codes: Codes
    """int64 `(n, h, w)`, `EMPTY` where still to be filled: a valid partial grid, which `fill` can continue."""
    revealed: CellMask
    """bool `(n, h, w)`: drawn at this step."""
    confidence: Tensor
    """float32 `(n, h, w)`: probability with which the code was drawn, 0 where nothing was drawn at this step."""
    evaluations: int
    """Windows that the network has seen so far, in all images; with guidance, a window asked twice counts twice."""


def fill_steps(
    denoiser: Denoiser,
    codes: Codes,
    *,
    seeds: Sequence[int],
    options: SamplerOptions | None = None,
    label: Tensor | int | None = None,
    plans: Sequence[RevealPlan] | None = None,
) -> Generator[FillStep, Codes | None, None]:
    """Fill the `EMPTY` cells of `codes` `(n, h, w)`, step by step; image i is drawn with `seeds[i]`.

    Given cells never change and the caller's tensors are never written to. The codes of an image depend on its
    seed, its grid, `options` and `label`, not on what else is in the batch, on `max_batch` or on the device.

    - A consumer may send an edited grid (`steps.send(codes)`), which is used from then on: cells it filled are
      kept, cells it emptied are drawn once more, at the end.
    - To continue an interrupted run to the same result, pass the partial grid with the `plans` of the original grid.

    `label`: int64 `(n,)` or one int, for class-conditional networks; -1 = none. `options.guidance` counts where there
    is a label (see `guidance.py`). Raises UsageError if the arguments do not fit, before any work.
    """
    grid = checked_codes(codes, denoiser.codebook_size)
    options = options or (plans[0].options if plans else SamplerOptions())
    if len(seeds) != len(grid):
        raise UsageError(f"{len(grid)} grids need {len(grid)} seeds, not {len(seeds)}", field="seeds")
    given = checked_label(label, len(grid))
    if plans is None:
        plans = _plans(denoiser, grid, options, seeds)
    for plan in plans:
        if plan.canvas != tuple(grid.shape[1:]) or plan.window != tuple(denoiser.window):
            raise UsageError(
                f"a plan for {plan.canvas} cells in windows of {plan.window} does not fit a grid of "
                f"{tuple(grid.shape[1:])} cells and a model of {tuple(denoiser.window)}",
                field="plans",
            )
    if len(plans) != len(grid):
        raise UsageError(f"{len(grid)} grids need {len(grid)} plans, not {len(plans)}", field="plans")
    denoiser = guided_by(denoiser, options, given, (grid.shape[1], grid.shape[2]))
    return _steps(denoiser, grid, list(seeds), options, given, list(plans))


def fill(
    denoiser: Denoiser,
    codes: Codes,
    *,
    seeds: Sequence[int],
    options: SamplerOptions | None = None,
    label: Tensor | int | None = None,
    plans: Sequence[RevealPlan] | None = None,
    on_step: Callable[[FillStep], Codes | None] | None = None,
) -> Codes:
    """`fill_steps` to the end: int64 codes `(n, h, w)` without an empty cell. `on_step` may return an edited grid."""
    steps = fill_steps(denoiser, codes, seeds=seeds, options=options, label=label, plans=plans)
    filled, edited = checked_codes(codes, denoiser.codebook_size), None
    while True:
        try:
            step = steps.send(edited)
        except StopIteration:
            return filled if edited is None else checked_codes(edited, denoiser.codebook_size)
        filled, edited = step.codes, on_step(step) if on_step else None


def checked_codes(codes: Codes, codebook_size: int) -> Codes:
    """A private int64 copy of `codes` on the CPU. Raises UsageError naming the first wrong cell."""
    if codes.ndim != 3 or codes.shape[1] < 1 or codes.shape[2] < 1:
        raise UsageError(f"codes must have shape (n, h, w), not {tuple(codes.shape)}", field="codes")
    if codes.dtype.is_floating_point or codes.dtype.is_complex or codes.dtype == torch.bool:
        raise UsageError(f"codes must be whole numbers, not {codes.dtype}", field="codes")
    with torch.inference_mode(False):  # a grid made under inference mode could not be filled outside it
        grid = codes.detach().to("cpu", torch.int64, copy=True)
    wrong = ((grid < EMPTY) | (grid >= codebook_size)).nonzero()
    if len(wrong):
        i, row, col = wrong[0].tolist()
        raise UsageError(
            f"code {int(grid[i, row, col])} at cell ({row}, {col}) of grid {i} is outside 0..{codebook_size - 1} "
            f"({EMPTY} = empty)",
            field="codes",
        )
    return grid


def checked_label(label: Tensor | int | None, n: int) -> Tensor | None:
    """One class number per image, int64 `(n,)` on the CPU."""
    if label is None:
        return None
    given = torch.as_tensor(label, device="cpu").to(torch.int64)
    if given.ndim > 1 or (given.ndim == 1 and len(given) != n):
        raise UsageError(f"label must be one number or {n} of them, not shape {tuple(given.shape)}", field="label")
    return given.expand(n).clone()


class _Turn(NamedTuple):
    """What one image does at one step."""

    image: int
    cells: Cells
    """The cells to ask the network about."""
    quota: int
    """How many of them to keep: all, unless the order is adaptive."""
    visit: int
    """Tells apart several draws of the same cell."""
    cover: Cover


class _Drawn(NamedTuple):
    """Codes drawn for some cells of the batch."""

    image: Ints
    cell: Cells
    code: Ints
    p: Floats

    def only(self, which: Ints) -> _Drawn:
        return _Drawn(self.image[which], self.cell[which], self.code[which], self.p[which])


def _steps(
    denoiser: Denoiser,
    codes: Codes,
    seeds: list[int],
    options: SamplerOptions,
    label: Tensor | None,
    plans: list[RevealPlan],
) -> Generator[FillStep, Codes | None, None]:
    width = codes.shape[2]
    evaluations = start = visit = 0
    before = _second_evaluations(denoiser)
    while True:
        length = max((plan.evaluations for plan in plans), default=0)
        for k in range(length):
            turns = [turn for i, plan in enumerate(plans) if (turn := _turn(plan, k, i, codes[i], visit))]
            if not turns:
                continue
            drawn = _draw(denoiser, codes, turns, seeds, options, label)
            if any(plan.adaptive for plan in plans):
                drawn = _surest(drawn, turns, plans, k, seeds, options)
            evaluations += sum(len(turn.cover) for turn in turns)
            revealed = torch.zeros_like(codes, dtype=torch.bool)
            confidence = torch.zeros(codes.shape, dtype=torch.float32)
            at = tuple(torch.from_numpy(a) for a in (drawn.image, drawn.cell // width, drawn.cell % width))
            codes[at], revealed[at] = torch.from_numpy(drawn.code), True
            confidence[at] = torch.from_numpy(drawn.p).float()
            seen = evaluations + _second_evaluations(denoiser) - before
            edited = yield FillStep(start + k, start + length, codes.clone(), revealed, confidence, seen)
            if edited is not None:
                if edited.shape != codes.shape:
                    raise UsageError(f"an edited grid must keep its shape {tuple(codes.shape)}", field="codes")
                codes = checked_codes(edited, denoiser.codebook_size)
        if not bool((codes == EMPTY).any()):
            return
        # the consumer emptied cells whose turn had passed, or the plans were for fewer cells
        start, visit = start + length, visit + 1
        plans = _plans(denoiser, codes, options, seeds)


def _second_evaluations(denoiser: Denoiser) -> int:
    return denoiser.second_evaluations if isinstance(denoiser, GuidedDenoiser) else 0


def _plans(denoiser: Denoiser, codes: Codes, options: SamplerOptions, seeds: Sequence[int]) -> list[RevealPlan]:
    window = (int(denoiser.window[0]), int(denoiser.window[1]))
    return [make_plan(grid == EMPTY, window, options, seed) for grid, seed in zip(codes, seeds, strict=True)]


def _turn(plan: RevealPlan, k: int, image: int, grid: Codes, visit: int) -> _Turn | None:
    """The work of one image at step `k`, or None if it has none: a filled cell is never drawn again."""
    if k >= plan.evaluations:
        return None
    empty = (grid == EMPTY).reshape(-1).numpy()
    if plan.adaptive:
        cells = np.flatnonzero(empty).astype(np.int64)
        quota = len(cells) - sum(plan.counts[k + 1 :])  # so that a continued run falls into step
    else:
        cells = plan.steps[k][empty[plan.steps[k]]]
        quota = len(cells)
    if quota <= 0:
        return None
    # a static plan draws each cell once, whatever the step: the same number decides for any cut into steps
    return _Turn(image, cells, quota, (visit << 32) + (k if plan.adaptive else 0), plan.cover(k, cells))


def _draw(
    denoiser: Denoiser,
    codes: Codes,
    turns: list[_Turn],
    seeds: list[int],
    options: SamplerOptions,
    label: Tensor | None,
) -> _Drawn:
    """A code for every cell of every turn, all given the same `codes`."""
    width = codes.shape[2]
    visits = {turn.image: turn.visit for turn in turns}
    parts: list[_Drawn] = []
    for seen in predict(denoiser, codes, [(t.image, t.cover) for t in turns], label, options.max_batch):
        u = np.empty(len(seen.cell))
        for image in np.unique(seen.image).tolist():
            own = seen.image == image
            u[own] = _cell_uniforms(seeds[image], Purpose.DRAW, seen.cell[own], width, visits[image])
        p = adjust(seen.p, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
        code = draw(p, torch.from_numpy(u))
        chosen = p.gather(1, code.unsqueeze(1)).squeeze(1)
        parts.append(_Drawn(seen.image, seen.cell, code.cpu().numpy(), chosen.cpu().numpy()))
    image, cell, code_of, p_of = (np.concatenate(values) for values in zip(*parts, strict=True))
    return _Drawn(image, cell, code_of, p_of)


def _surest(
    drawn: _Drawn,
    turns: list[_Turn],
    plans: list[RevealPlan],
    k: int,
    seeds: list[int],
    options: SamplerOptions,
) -> _Drawn:
    """Of each image's drawn cells, those of highest log-probability + noise, as many as its quota.

    The noise is Gumbel, `choice_temperature * (1 - (k + 1) / S)`: none at the last step (MaskGIT, Chang et al. 2022).
    On canvases of several tiles, cells in the core of their tile first.
    """
    kept = []
    for turn in turns:
        plan = plans[turn.image]
        own = np.flatnonzero(drawn.image == turn.image)
        if plan.adaptive:
            cells = drawn.cell[own]
            u = _cell_uniforms(seeds[turn.image], Purpose.GUMBEL, cells, plan.canvas[1], turn.visit)
            gumbel = -np.log(-np.log(u + 2.0**-54))  # u may be 0
            noise = options.choice_temperature * (1 - (k + 1) / plan.evaluations)
            sure = np.log(drawn.p[own]) + noise * gumbel
            own = own[np.lexsort((cells, -sure))]
            own = own[roomiest(drawn.cell[own], turn.quota, plan.layout(k), plan.options)]
        kept.append(own)
    return drawn.only(np.concatenate(kept))


def _cell_uniforms(seed: int, purpose: Purpose, cells: Cells, width: int, visit: int) -> Floats:
    """One uniform per cell: a function of the seed and the cell's row and column only."""
    return uniforms(seed, purpose, cell_counters(*np.divmod(cells, width)), visit)

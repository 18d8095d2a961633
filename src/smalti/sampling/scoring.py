"""How likely given codes are: exactly for a plan, in expectation over all sequences, and cell by cell."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.randomness import Purpose, uniforms
from smalti.sampling.denoiser import Denoiser
from smalti.sampling.draws import adjust
from smalti.sampling.fill import checked_codes, checked_label
from smalti.sampling.guidance import guided_by
from smalti.sampling.options import SamplerOptions
from smalti.sampling.orders import Cells
from smalti.sampling.orders.bluenoise import BlueNoise
from smalti.sampling.orders.random import canvas_counters
from smalti.sampling.plan import RevealPlan, make_plan
from smalti.sampling.schedules import Schedule, linear
from smalti.sampling.windows import Cover, Floats, predict, roomy
from smalti.types import EMPTY, CellMask, Codes


def score_plan(
    denoiser: Denoiser,
    codes: Codes,
    *,
    seeds: Sequence[int],
    options: SamplerOptions | None = None,
    empty: CellMask | None = None,
    label: Tensor | int | None = None,
    plans: Sequence[RevealPlan] | None = None,
) -> Tensor:
    """Bits per drawn cell, float64 `(n,)`, with which `fill` would have drawn exactly `codes`: no estimate.

    `-log2 q(x) = -sum_k sum_(i in step k) log2 p(x_i | cells known before step k)`, guidance, temperature, top-k and
    top-p included (infinite if they exclude a code). `empty`, bool `(h, w)` or `(n, h, w)`, marks the cells regarded as
    drawn, default all; the others are given. Costs what filling costs. Image i uses the plan of `seeds[i]`, or
    `plans[i]`. Raises UsageError for adaptive orders, which have no closed form, and for codes with empty cells.
    """
    grid, given = _complete(denoiser, codes), checked_label(label, len(codes))
    options = options or (plans[0].options if plans else SamplerOptions())
    if plans is None:
        if len(seeds) != len(grid):
            raise UsageError(f"{len(grid)} grids need {len(grid)} seeds, not {len(seeds)}", field="seeds")
        drawn = torch.ones_like(grid, dtype=torch.bool) if empty is None else empty.cpu().expand(grid.shape)
        window = (int(denoiser.window[0]), int(denoiser.window[1]))
        plans = [make_plan(mask, window, options, seed) for mask, seed in zip(drawn, seeds, strict=True)]
    if any(plan.adaptive for plan in plans):
        raise UsageError(f"order {plans[0].options.order!r} has no exact likelihood; use another", field="order")
    denoiser = guided_by(denoiser, options, given, (grid.shape[1], grid.shape[2]))
    now = grid.clone()
    for i, plan in enumerate(plans):
        now[i].view(-1)[torch.from_numpy(plan.empty)] = EMPTY
    bits = np.zeros(grid.shape)
    for k in range(max((plan.evaluations for plan in plans), default=0)):
        turns = [(i, plan.steps[k]) for i, plan in enumerate(plans) if k < plan.evaluations]
        covers = [(i, plans[i].cover(k, cells)) for i, cells in turns]
        _add_bits(bits, denoiser, now, grid, covers, given, options)
        for i, cells in turns:
            at = torch.from_numpy(cells)
            now[i].view(-1)[at] = grid[i].view(-1)[at]
    cells_drawn = np.array([max(1, len(plan.empty)) for plan in plans])
    return torch.from_numpy(bits.sum((1, 2)) / cells_drawn)


def elbo_bits(
    denoiser: Denoiser,
    codes: Codes,
    *,
    seeds: Sequence[int],
    strata: int = 16,
    label: Tensor | int | None = None,
    max_batch: int = 64,
    report: Callable[[float], None] = lambda done: None,
) -> Tensor:
    """An unbiased estimate of the bound on bits per cell, float64 `(n,)`, over all sequences of cells.

    `-log2 p(x) / N <= E_(n ~ U{1..N}) E_(|M| = n) mean_(i in M) -log2 p(x_i | x outside M)`, the ELBO of absorbing
    diffusion for T -> infinity (Bond-Taylor et al. 2022; Hoogeboom et al. 2021, "Autoregressive diffusion models").
    n is drawn once in each of `strata` equal parts of 1..N, which costs `strata` evaluations per window and has
    less variance than n at random.
    """
    grid, given = _complete(denoiser, codes), checked_label(label, len(codes))
    if len(seeds) != len(grid):
        raise UsageError(f"{len(grid)} grids need {len(grid)} seeds, not {len(seeds)}", field="seeds")
    n, (height, width) = len(grid), grid.shape[1:]
    counters = canvas_counters(height, width).reshape(-1)
    parts = min(strata, height * width)
    total = np.zeros(n)
    for stratum in range(parts):
        now, covers = grid.clone(), []
        for i, seed in enumerate(seeds):
            # n uniform on 1..N restricted to the stratum, so that the strata together are uniform
            u = float(uniforms(seed, Purpose.MASK, 1 << 50, stratum))
            masked = min(int((stratum + u) / parts * height * width), height * width - 1) + 1
            cells = np.argsort(uniforms(seed, Purpose.MASK, counters, stratum), kind="stable")[:masked]
            now[i].view(-1)[torch.from_numpy(cells)] = EMPTY
            covers.append((i, _roomy_cover(denoiser, (height, width), cells)))
        bits = np.zeros(grid.shape)
        _add_bits(bits, denoiser, now, grid, covers, given, SamplerOptions(max_batch=max_batch))
        total += bits.sum((1, 2)) / (now == EMPTY).sum((1, 2)).numpy()
        report((stratum + 1) / parts)
    return torch.from_numpy(total / parts)


def surprise(
    denoiser: Denoiser,
    codes: Codes,
    *,
    cosets: int = 4,
    label: Tensor | int | None = None,
    max_batch: int = 64,
    report: Callable[[float], None] = lambda done: None,
) -> Tensor:
    """How unexpected each code is where it stands: `-log2 p(x_i | rest)` in bits, float32 `(n, h, w)`.

    The cells are split into `cosets` blue-noise sets, each hidden and predicted in one evaluation per window, so
    "rest" lacks the (distant) other members of the set; with one coset per cell the conditional is exact.
    """
    grid, given = _complete(denoiser, codes), checked_label(label, len(codes))
    if cosets < 1:
        raise UsageError(f"cosets must be at least 1, not {cosets}", field="cosets")
    height, width = grid.shape[1:]
    every = np.ones((height, width), np.bool_)
    order = BlueNoise().arrange(every, Schedule(cosets, linear), seed=0)
    bits = np.zeros(grid.shape)
    for turn, cells in enumerate(np.split(order.cells, np.cumsum(order.counts)[:-1])):
        now = grid.clone()
        now.view(len(grid), -1)[:, torch.from_numpy(cells)] = EMPTY
        cover = _roomy_cover(denoiser, (height, width), cells)
        covers = [(i, cover) for i in range(len(grid))]
        _add_bits(bits, denoiser, now, grid, covers, given, SamplerOptions(max_batch=max_batch))
        report((turn + 1) / len(order.counts))
    return torch.from_numpy(bits).float()


def _complete(denoiser: Denoiser, codes: Codes) -> Codes:
    grid = checked_codes(codes, denoiser.codebook_size)
    hole = (grid == EMPTY).nonzero()
    if len(hole):
        i, row, col = hole[0].tolist()
        raise UsageError(f"cell ({row}, {col}) of grid {i} is empty; only full grids have a likelihood", field="codes")
    return grid


def _roomy_cover(denoiser: Denoiser, canvas: tuple[int, int], cells: Cells) -> Cover:
    """Each cell in one window, at least a quarter of the window away from its inner edges."""
    window = (int(denoiser.window[0]), int(denoiser.window[1]))
    return roomy(canvas, window, min(window) // 4).nearest(np.asarray(cells, np.int64))


def _add_bits(
    bits: Floats,
    denoiser: Denoiser,
    now: Codes,
    codes: Codes,
    covers: Sequence[tuple[int, Cover]],
    label: Tensor | None,
    options: SamplerOptions,
) -> None:
    """Write into `bits` `(n, h, w)` the -log2 probability of `codes` at the covered cells, given `now`."""
    n, height, width = codes.shape
    flat = codes.reshape(n, -1)
    for seen in predict(denoiser, now, covers, label, options.max_batch):
        p = adjust(seen.p, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p)
        code = flat[torch.from_numpy(seen.image), torch.from_numpy(seen.cell)].to(p.device)
        minus = -p.gather(1, code.unsqueeze(1)).squeeze(1).log2().cpu().numpy()
        bits.reshape(n, height * width)[seen.image, seen.cell] = minus

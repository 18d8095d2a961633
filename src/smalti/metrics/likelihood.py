"""How well a prior predicts codes it has not seen: the score that needs no pictures and has no noise of a sampler.

The exact K-step bits are those of `sampling.score_plan`: what a fill of K steps would have needed to draw these very
codes. They judge the prior, the order and the schedule together, as they are used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.sampling import Denoiser, SamplerOptions, elbo_bits, score_plan
from smalti.types import Codes

STEPS = (4, 8, 16, 32, 256)
STRATA = 16
BATCH = 16
Report = Callable[[float], None]
"""Called with the share of the work that is done, 0..1."""


@dataclass(frozen=True)
class Bits:
    """Bits per token, averaged over grids."""

    mean: float
    standard_error: float
    """Over grids (and, for the bound, its masks); NaN for a single grid."""

    @classmethod
    def of(cls, values: Tensor) -> Bits:
        """Of one number per grid, `(n,)`."""
        v = values.double()
        return cls(float(v.mean()), float(v.std(correction=1) / len(v) ** 0.5) if len(v) > 1 else float("nan"))


@dataclass(frozen=True)
class Likelihood:
    """Of some grids of codes."""

    elbo: Bits
    """Upper bound on -log2 p, estimated without bias."""
    bits_per_dim: float
    """The bound per colour value of the picture. It counts the codes only, not what the tokenizer loses."""
    exact: dict[int, Bits] = field(default_factory=dict)
    """By number of steps asked for."""
    options: SamplerOptions = field(default_factory=SamplerOptions)
    """Order and schedule of the exact numbers, always at temperature 1."""


def likelihood(
    denoiser: Denoiser,
    codes: Codes,
    *,
    values_per_grid: int,
    steps: Sequence[int] = STEPS,
    strata: int = STRATA,
    options: SamplerOptions | None = None,
    seed: int = 0,
    report: Report = lambda done: None,
) -> Likelihood:
    """Of full grids `(n, h, w)`. `values_per_grid`: colour values of a picture, 3 H W.

    Grid i uses the masks and plans of seed + i, so two models see the same ones and their difference has less noise
    than either. Temperature, top-k and top-p are set back to 1, 0 and 1: of the model's distribution. An adaptive
    order has no exact likelihood and is replaced by `random`, an explicit schedule by cosine. Costs
    `strata + sum(steps)` evaluations per window.
    """
    if not len(codes):
        raise UsageError("there are no codes to score", field="codes")
    base = options or SamplerOptions()
    chosen = base.replace(
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        counts=None,
        schedule="cosine" if base.schedule == "explicit" else base.schedule,
        order="random" if base.order == "confidence" else base.order,
    )
    cells = codes.shape[1] * codes.shape[2]
    starts = range(0, len(codes), BATCH)
    chunks = [(codes[i : i + BATCH], range(seed + i, seed + min(i + BATCH, len(codes)))) for i in starts]
    total = (strata + sum(min(s, cells) for s in steps)) * len(chunks)
    done = 0

    def over(score: Callable[..., Tensor], cost: int) -> Bits:
        nonlocal done
        parts = []
        for grids, seeds in chunks:
            parts.append(score(grids, seeds=seeds))
            done += cost
            report(done / total)
        return Bits.of(torch.cat(parts))

    elbo = over(partial(elbo_bits, denoiser, strata=strata), strata)
    exact = {
        s: over(partial(score_plan, denoiser, options=chosen.replace(num_inference_steps=s)), min(s, cells))
        for s in steps
    }
    return Likelihood(elbo, elbo.mean * cells / values_per_grid, exact, chosen)


"""What a prior is trained on and measured by.

All objectives are weighted sums of one quantity, the cross entropy at the masked cells in nats:

    elbo             CE / t * T / (N ln 2)       the variational bound, bits per token (paper, eq. 9)
    mlm              CE / masked cells           BERT's
    reweighted_elbo  (1 - t/T) * CE / (N ln 2)   the paper's default (eq. 10)
    beta             CE / masked cells           with exactly n masked cells, n/N ~ Beta(2,2), stratified over the batch

`beta`, ours, has the expected gradient of `reweighted_elbo`: its weight r (1 - r) for the mean cross entropy at masked
share r is the density of Beta(2,2). Sampling by the weight instead of multiplying by it wastes no samples.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal, NamedTuple, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional as F

from smalti.prior.masking import (
    Noised,
    RatioLaw,
    complementary_pairs,
    exact_masks,
    hide,
    mask_counts,
    q_sample,
    q_sample_fixed,
    quantile,
    stratified,
)
from smalti.types import Codes, Logits

PaperObjective = Literal["elbo", "mlm", "reweighted_elbo"]
LN2 = math.log(2.0)


class RowDenoiser(Protocol):
    """What an objective needs of a network: an `AbsorbingTransformer`, also wrapped for distributed training."""

    def __call__(
        self,
        codes: Codes,
        positions: Tensor | None = None,
        label: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        placed: Tensor | None = None,
    ) -> Logits: ...


class ObjectiveOptions(BaseModel):
    """Which loss a prior is trained with."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    name: Literal["beta", "elbo", "mlm", "reweighted_elbo"] = "beta"
    """The loss: "beta" is smalti's default, the others are the paper's."""
    ratio: RatioLaw = "beta"
    """Law of the masked share for the objective "beta"; "uniform" trains the likelihood itself."""
    complementary: bool = False
    """For "beta": ask each picture twice, at a mask and at its complement (twice the work, less noise)."""
    z_loss: Annotated[float, Field(ge=0)] = 1e-4
    """For "beta": weight of the squared log normaliser of the logits, which keeps them from drifting."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """For "beta": share of the target spread over all codes; more than 0 biases the likelihood."""
    roll: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of samples that are rolled sideways by a random number of columns and shown without the learned position
    table: what a window on a wide canvas looks like. Needs a prior with `position_optional`."""
    total_steps: Annotated[int, Field(ge=1)] = 256
    """For the paper's objectives: diffusion steps T."""
    schedule: Literal["random", "fixed"] = "random"
    """For the paper's objectives: mask each cell with probability t/T, or exactly that share."""


class LossTerms(NamedTuple):
    """One evaluation of an objective."""

    loss: Tensor
    """Scalar to minimise: the mean over the batch (with the z-loss, if any)."""
    per_sample: Tensor
    """`(n,)` the objective of each sample, detached; without z-loss."""
    nats: Tensor
    """`(n,)` mean cross entropy per masked cell in nats, detached; 0 where nothing was masked."""
    ratio: Tensor
    """`(n,)` masked share of each sample, 0..1: for curves of the loss by share."""


# --- the quantity -----------------------------------------------------------------------------------------------------


class Answers(NamedTuple):
    """Cross entropies and log normalisers at the masked cells of a batch."""

    cross_entropy: Tensor
    """`(n, N)` nats, 0 where not masked."""
    log_normaliser: Tensor
    """`(n, N)`, 0 where not masked."""
    counts: Tensor
    """`(n,)` masked cells, int64."""


def ask(
    denoiser: RowDenoiser,
    codes: Codes,
    noised: Noised,
    label: Tensor | None = None,
    *,
    label_smoothing: float = 0.0,
    placed: Tensor | None = None,
) -> Answers:
    """Cross entropy of the clean `codes` `(n, ...)` at the masked cells of `noised`, in float32.

    The mask may live on the CPU while the codes do not: its indices are then found without waiting for the device.
    """
    mask = noised.mask.flatten(1)  # (n, N)
    rows = mask.flatten().nonzero().squeeze(1).to(codes.device)  # (total,)
    logits = denoiser(noised.codes, label=label, rows=rows, placed=placed)  # (total, K)
    targets = codes.flatten().index_select(0, rows)[:, None]
    logp = F.log_softmax(logits, dim=-1, dtype=torch.float32)
    fit = logp.gather(1, targets).squeeze(1)  # (total,)
    lse = logits.gather(1, targets).squeeze(1).float() - fit  # cheaper than a second pass over all logits
    if label_smoothing > 0:
        fit = (1 - label_smoothing) * fit + label_smoothing * logp.mean(dim=-1)
    empty = torch.zeros(mask.numel(), device=codes.device)
    return Answers(
        empty.index_copy(0, rows, -fit).view(mask.shape),
        empty.index_copy(0, rows, lse).view(mask.shape),
        mask.sum(dim=1).to(codes.device),
    )


def masked_cross_entropy(denoiser: RowDenoiser, codes: Codes, noised: Noised, label: Tensor | None = None) -> Tensor:
    """Sum over the masked cells of -log p(code), nats, `(n,)`."""
    return ask(denoiser, codes, noised, label).cross_entropy.sum(dim=1)


# --- the paper's objectives, per sample -------------------------------------------------------------------------------


def elbo(ce_sum: Tensor, t: Tensor, total_steps: int, cells: int) -> Tensor:
    """CE / t * T / (N ln 2), bits per token `(n,)`: one term of the bound, divided by its probability 1/T (eq. 9)."""
    probability = torch.full_like(ce_sum, 1.0) / total_steps
    return ce_sum / t / probability / (LN2 * cells)


def mlm(ce_sum: Tensor, masked: Tensor) -> Tensor:
    """CE per masked cell, nats `(n,)`; 0 where nothing is masked."""
    return ce_sum / masked.clamp(min=1)


def reweighted_elbo(ce_sum: Tensor, t: Tensor, total_steps: int, cells: int) -> Tensor:
    """(1 - t/T) * CE / (N ln 2), `(n,)` (eq. 10). As in the paper's code, t = T weighs nothing."""
    return (1 - t / total_steps) * ce_sum / (LN2 * cells)


def paper_loss(
    denoiser: RowDenoiser,
    codes: Codes,
    noised: Noised,
    t: Tensor,
    total_steps: int,
    objective: PaperObjective = "reweighted_elbo",
    label: Tensor | None = None,
) -> LossTerms:
    """One of the paper's objectives for codes `(n, ...)` already noised at steps t `(n,)`."""
    answers = ask(denoiser, codes, noised, label)
    ce_sum, cells = answers.cross_entropy.sum(dim=1), codes[0].numel()
    match objective:
        case "elbo":
            values = elbo(ce_sum, t, total_steps, cells)
        case "mlm":
            values = mlm(ce_sum, answers.counts)
        case "reweighted_elbo":
            values = reweighted_elbo(ce_sum, t, total_steps, cells)
    return _terms(values.mean(), values, ce_sum, answers.counts, cells)


# --- ours -------------------------------------------------------------------------------------------------------------


def beta_loss(
    denoiser: RowDenoiser,
    codes: Codes,
    noised: Noised,
    label: Tensor | None = None,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
    placed: Tensor | None = None,
) -> LossTerms:
    """Mean cross entropy per masked cell of each sample, nats, averaged over the batch, plus the z-loss."""
    answers = ask(denoiser, codes, noised, label, label_smoothing=label_smoothing, placed=placed)
    ce_sum, counts = answers.cross_entropy.sum(dim=1), answers.counts
    values = mlm(ce_sum, counts)
    loss = values.mean()
    if z_loss > 0:
        loss = loss + z_loss * mlm(answers.log_normaliser.square().sum(dim=1), counts).mean()
    return _terms(loss, values, ce_sum, counts, codes[0].numel())


def _terms(loss: Tensor, values: Tensor, ce_sum: Tensor, counts: Tensor, cells: int) -> LossTerms:
    return LossTerms(loss, values.detach(), mlm(ce_sum, counts).detach(), counts / cells)


class Masked(NamedTuple):
    """A batch and which of its cells are hidden. Any of its rows can be evaluated alone: `rows`."""

    codes: Codes
    """int64 `(n, h, w)`, clean; rolled sideways where `placed` is False."""
    mask: Tensor
    """bool like `codes`, on the CPU; True = hidden."""
    steps: Tensor | None = None
    """int64 `(n,)` in 1..T, for the paper's objectives."""
    placed: Tensor | None = None
    """bool `(n,)`; None = all are whole pictures."""
    label: Tensor | None = None
    """int64 `(n,)`, the class of each picture, if there are classes."""

    def rows(self, rows: slice) -> Masked:
        """The pictures `rows` of the batch, hidden as they are in it."""
        return Masked(*(None if value is None else value[rows] for value in self))  # type: ignore[arg-type]


def draw_masks(
    codes: Codes,
    options: ObjectiveOptions,
    *,
    generator: torch.Generator | None = None,
    label: Tensor | None = None,
) -> Masked:
    """Hide some cells of clean codes `(n, h, w)` at random, as the objective wants it; see `training_loss`."""
    n, cells = len(codes), codes[0].numel()
    uniforms = torch.rand(n, cells, generator=generator)
    if options.name != "beta":
        t = torch.randint(1, options.total_steps + 1, (n,), generator=generator)
        noise = q_sample if options.schedule == "random" else q_sample_fixed
        mask = noise(torch.zeros(n, cells, dtype=torch.int64), t, options.total_steps, uniforms).mask
        return Masked(codes, mask.view(codes.shape), steps=t, label=label)
    placed = None
    if options.roll:
        codes, placed = rolled(codes, options.roll, generator)
    ratios = quantile(options.ratio, stratified(n, float(torch.rand((), generator=generator))))
    counts = mask_counts(ratios, cells)
    if options.complementary:
        counts = counts.clamp(max=max(1, cells - 1))  # the complement must ask something too
    return Masked(codes, exact_masks(counts, uniforms).view(codes.shape), placed=placed, label=label)


def masked_loss(denoiser: RowDenoiser, masked: Masked, options: ObjectiveOptions) -> LossTerms:
    """The chosen objective of a batch whose cells are hidden already, or of some rows of one."""
    codes, mask, steps, placed, label = masked
    if options.name != "beta":
        assert steps is not None, "masks of another objective"
        noised = Noised(hide(codes, mask.to(codes.device)).codes, mask)
        steps = steps.to(codes.device)
        return paper_loss(denoiser, codes, noised, steps, options.total_steps, options.name, label)
    if options.complementary:
        mask, codes = complementary_pairs(mask), torch.cat([codes, codes])
        label = None if label is None else torch.cat([label, label])
        placed = None if placed is None else torch.cat([placed, placed])
    noised = Noised(hide(codes, mask.to(codes.device)).codes, mask)
    return beta_loss(
        denoiser,
        codes,
        noised,
        label,
        z_loss=options.z_loss,
        label_smoothing=options.label_smoothing,
        placed=placed,
    )


def training_loss(
    denoiser: RowDenoiser,
    codes: Codes,
    options: ObjectiveOptions | None = None,
    *,
    generator: torch.Generator | None = None,
    label: Tensor | None = None,
) -> LossTerms:
    """Hide some cells of clean codes `(n, h, w)` at random and evaluate the chosen objective.

    generator: a CPU generator, so that masks do not depend on the device; None = torch's global one.
    With `options.complementary` the terms have 2n samples.
    """
    options = options or ObjectiveOptions()
    return masked_loss(denoiser, draw_masks(codes, options, generator=generator, label=label), options)


def rolled(codes: Codes, share: float, generator: torch.Generator | None = None) -> tuple[Codes, Tensor]:
    """Roll a random `share` of codes `(n, h, w)` by random numbers of columns; returns them and `placed` bool `(n,)`.

    A rolled picture's right edge meets its left edge, as pictures meet on a panorama; False marks it as unplaced.
    """
    n, _, w = codes.shape
    placed = torch.rand(n, generator=generator) >= share
    shift = torch.randint(w, (n,), generator=generator).masked_fill(placed, 0)
    columns = (torch.arange(w)[None, :] - shift[:, None]) % w  # (n, w)
    index = columns[:, None, :].expand(codes.shape).to(codes.device)
    return codes.gather(2, index), placed.to(codes.device)


# --- likelihood -------------------------------------------------------------------------------------------------------


@torch.no_grad()
def stratified_elbo(
    denoiser: RowDenoiser,
    codes: Codes,
    *,
    strata: int = 8,
    generator: torch.Generator | None = None,
    label: Tensor | None = None,
) -> Tensor:
    """Unbiased estimate of the bound on -log2 p(codes), bits per token, float64 `(n,)`.

    -log p(x) <= N E_n E_mask [mean CE at the n masked cells], n uniform on 1..N. Each of `strata` forwards takes n from
    its own part of 1..N, which removes most of the variance of independent draws at equal cost; `strata=N` visits
    every n once.
    """
    n, cells = len(codes), codes[0].numel()
    total = torch.zeros(n, dtype=torch.float64)
    for stratum in range(strata):
        u = (stratum + torch.rand(n, generator=generator, dtype=torch.float64)) / strata
        mask = exact_masks(mask_counts(u, cells), torch.rand(n, cells, generator=generator)).view(codes.shape)
        noised = Noised(hide(codes, mask.to(codes.device)).codes, mask)
        answers = ask(denoiser, codes, noised, label)
        total += mlm(answers.cross_entropy.sum(dim=1), answers.counts).double().cpu()
    return total / strata / LN2


@torch.no_grad()
def paper_elbo_terms(denoiser: RowDenoiser, codes: Codes, t: int, total_steps: int, uniforms: Tensor) -> Tensor:
    """CE_t / t in nats, `(n,)`: the bound of the paper's code is the sum of these over t = 1..T, one mask each."""
    steps = torch.full((len(codes),), t, device=codes.device)
    return masked_cross_entropy(denoiser, codes, q_sample(codes, steps, total_steps, uniforms)) / t


def paper_elbo(
    denoiser: RowDenoiser, codes: Codes, total_steps: int, *, generator: torch.Generator | None = None
) -> Tensor:
    """The bound of the paper's code, nats per picture, float64 `(n,)`: T forwards with independent masks.

    Kept for comparison; `stratified_elbo` is a better use of as many forwards.
    """
    total = torch.zeros(len(codes), dtype=torch.float64)
    for t in range(total_steps, 0, -1):
        uniforms = torch.rand(codes.shape, generator=generator).to(codes.device)
        total += paper_elbo_terms(denoiser, codes, t, total_steps, uniforms).double().cpu()
    return total


def bits_per_dimension(codes_nats: Tensor, decoder_nats: Tensor | float, dimensions: int, levels: int = 32) -> Tensor:
    """Bits per colour value of pictures coded as codes, then as pixels given the codes (paper, section 4.3).

    (decoder + codes + D ln(levels)) / (D ln 2), where the last term turns a density over 0..1 into a probability.
    codes_nats: the bound on -log p(codes), nats per picture. decoder_nats: -log of the density of the pixels in 0..1
    given the codes. dimensions: D = 3 H W. levels: values per colour; the paper's numbers are for 5-bit data (32).
    """
    return (decoder_nats + codes_nats + math.log(levels) * dimensions) / (dimensions * LN2)


def token_bits_per_dimension(bits_per_token: Tensor, cells: int, dimensions: int) -> Tensor:
    """The codes' share of `bits_per_dimension`: bits per token * N / D."""
    return bits_per_token * cells / dimensions

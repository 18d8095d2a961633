"""Objectives: the identities between them, and likelihoods against closed form on a model that is exactly known."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from scipy import stats
from torch import Tensor

from smalti.prior import (
    AbsorbingTransformer,
    ObjectiveOptions,
    bits_per_dimension,
    paper_elbo,
    stratified_elbo,
    token_bits_per_dimension,
    training_loss,
)
from smalti.prior.masking import exact_masks, hide
from smalti.prior.objectives import (
    LN2,
    ask,
    beta_loss,
    elbo,
    masked_cross_entropy,
    mlm,
    paper_loss,
    reweighted_elbo,
    rolled,
)
from smalti.types import EMPTY

CELLS, K = 4, 3


class ExactJoint:
    """The true conditionals of a random joint table over 2 x 2 cells and 3 codes."""

    def __init__(self) -> None:
        table = torch.rand([K] * CELLS, generator=torch.Generator().manual_seed(5), dtype=torch.float64) ** 3
        self.joint = table / table.sum()

    def __call__(
        self,
        codes: Tensor,
        positions: Tensor | None = None,
        label: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        placed: Tensor | None = None,
    ) -> Tensor:
        logits = torch.stack([self.conditionals(row) for row in codes.flatten(1)])  # (n, N, K)
        assert rows is not None
        return logits.flatten(0, 1)[rows].float()

    def conditionals(self, row: Tensor) -> Tensor:
        known = self.joint[tuple(slice(None) if c == EMPTY else slice(int(c), int(c) + 1) for c in row)]
        out = torch.zeros(CELLS, K, dtype=torch.float64)
        for cell in range(CELLS):
            marginal = known.sum(dim=[d for d in range(CELLS) if d != cell])
            out[cell, : len(marginal)] = (marginal / marginal.sum()).log()
        return out

    def bound(self, row: Tensor) -> float:
        """-log2 of the order-agnostic bound per token: mean over counts and subsets of the mean cross entropy."""
        total = 0.0
        for count in range(1, CELLS + 1):
            subsets = list(itertools.combinations(range(CELLS), count))
            for subset in subsets:
                hidden = row.clone()
                hidden[list(subset)] = EMPTY
                logits = self.conditionals(hidden)
                nats = -sum(float(logits[cell, row[cell]]) for cell in subset) / count
                total += nats / len(subsets) / CELLS
        return total / LN2


def test_stratified_elbo_is_unbiased() -> None:
    exact = ExactJoint()
    row = torch.tensor([2, 0, 1, 1])
    codes = row.view(1, 2, 2).expand(4000, 2, 2)
    bits = stratified_elbo(exact, codes, strata=4, generator=torch.Generator().manual_seed(0))
    error = float(bits.std()) / math.sqrt(len(bits))
    assert abs(float(bits.mean()) - exact.bound(row)) < 4 * error


def test_paper_elbo_bounds_the_same_thing() -> None:
    exact = ExactJoint()
    row = torch.tensor([2, 0, 1, 1])
    codes = row.view(1, 2, 2).expand(1500, 2, 2)
    # T steps of independent masks: sum_t E[CE_t] / t; each cell of a subset of size n is masked with (t/T)^n (1-t/T)^..
    T, expected = 6, 0.0
    for t in range(1, T + 1):
        for pattern in itertools.product([False, True], repeat=CELLS):
            n = sum(pattern)
            probability = (t / T) ** n * (1 - t / T) ** (CELLS - n)
            hidden = row.masked_fill(torch.tensor(pattern), EMPTY)
            logits = exact.conditionals(hidden)
            nats = -sum(float(logits[i, row[i]]) for i in range(CELLS) if pattern[i])
            expected += probability * nats / t
    nats = paper_elbo(exact, codes, T, generator=torch.Generator().manual_seed(0))
    assert abs(float(nats.mean()) - expected) < 4 * float(nats.std()) / math.sqrt(len(nats))


def test_stratification_lowers_the_variance() -> None:
    exact = ExactJoint()
    codes = torch.tensor([2, 0, 1, 1]).view(1, 2, 2).expand(600, 2, 2)
    generator = torch.Generator().manual_seed(1)
    together = stratified_elbo(exact, codes, strata=4, generator=generator)
    apart = torch.stack([stratified_elbo(exact, codes, strata=1, generator=generator) for _ in range(4)]).mean(0)
    assert together.var() < apart.var()


def test_beta_and_reweighted_elbo_have_the_same_expectation() -> None:
    # E over r uniform of r (1 - r) f(r), times 6, is E over Beta(2,2) of f.
    r = torch.linspace(0, 1, 20001, dtype=torch.float64)
    f = torch.exp(-3 * r) + r**2
    weighted = 6 * torch.trapezoid(reweighted_elbo(r * f, r, 1, 1) * LN2, r)  # t/T = r, CE = r * mean CE
    beta = torch.trapezoid(torch.from_numpy(stats.beta(2, 2).pdf(r.numpy())) * f, r)
    assert float(weighted) == pytest.approx(float(beta), rel=1e-6)


def test_values_by_hand() -> None:
    ce = torch.tensor([8.0, 0.0])
    t = torch.tensor([4, 1])
    assert elbo(ce, t, 10, 5).tolist() == pytest.approx([8 / 4 * 10 / (5 * LN2), 0])
    assert reweighted_elbo(ce, t, 10, 5).tolist() == pytest.approx([0.6 * 8 / (5 * LN2), 0])
    assert mlm(ce, torch.tensor([4, 0])).tolist() == [2.0, 0.0]
    assert reweighted_elbo(torch.tensor([9.0]), torch.tensor([10]), 10, 5).tolist() == [0.0]


def test_cross_entropy_is_torchs(build: Callable[..., AbsorbingTransformer]) -> None:
    model = build()
    codes = torch.randint(0, 11, (3, 4, 5))
    mask = exact_masks(torch.tensor([0, 7, 20]), torch.rand(3, 20)).view(3, 4, 5)
    noised = hide(codes, mask)
    logits = model(noised.codes)
    full = torch.nn.functional.cross_entropy(logits.transpose(1, 2), codes.flatten(1), reduction="none")
    expected = (full * mask.flatten(1)).sum(1)
    torch.testing.assert_close(masked_cross_entropy(model, codes, noised), expected)
    smooth = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), codes.flatten(1), reduction="none", label_smoothing=0.1
    )
    answers = ask(model, codes, noised, label_smoothing=0.1)
    torch.testing.assert_close(answers.cross_entropy, smooth * mask.flatten(1))
    assert answers.counts.tolist() == [0, 7, 20]


def test_z_loss_is_the_squared_normaliser(build: Callable[..., AbsorbingTransformer]) -> None:
    model = build()
    codes = torch.randint(0, 11, (1, 4, 5))
    noised = hide(codes, torch.ones_like(codes, dtype=torch.bool))
    plain, penalised = beta_loss(model, codes, noised), beta_loss(model, codes, noised, z_loss=0.5)
    expected = model(noised.codes).logsumexp(-1).square().mean()
    torch.testing.assert_close(penalised.loss - plain.loss, 0.5 * expected)
    assert torch.equal(plain.per_sample, penalised.per_sample)


@pytest.mark.parametrize("name", ["beta", "elbo", "mlm", "reweighted_elbo"])
@pytest.mark.parametrize("schedule", ["random", "fixed"])
def test_training_losses_are_repeatable_and_learn(
    build: Callable[..., AbsorbingTransformer], name: str, schedule: str
) -> None:
    model = build().train()
    codes = torch.randint(0, 11, (6, 4, 5), generator=torch.Generator().manual_seed(0))
    before = codes.clone()
    options = ObjectiveOptions(name=name, schedule=schedule, total_steps=10)
    first = training_loss(model, codes, options, generator=torch.Generator().manual_seed(7))
    again = training_loss(model, codes, options, generator=torch.Generator().manual_seed(7))
    assert torch.equal(first.loss, again.loss)
    assert torch.equal(codes, before)
    assert first.per_sample.shape == first.nats.shape == first.ratio.shape == (6,)
    first.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_counts_follow_beta_over_the_batch(build: Callable[..., AbsorbingTransformer]) -> None:
    codes = torch.zeros(64, 4, 5, dtype=torch.int64)
    with torch.no_grad():
        ratio = training_loss(build(), codes, generator=torch.Generator().manual_seed(0)).ratio
    assert ratio.min() >= 1 / 20
    assert float(ratio.mean()) == pytest.approx(0.525, abs=0.01)  # 1/2, and half a cell as counts start at 1
    assert float(ratio.var()) == pytest.approx(0.05, abs=0.005)  # of Beta(2,2): 1/20


def test_complementary_pairs_ask_every_cell_once(build: Callable[..., AbsorbingTransformer]) -> None:
    codes = torch.zeros(5, 4, 5, dtype=torch.int64)
    options = ObjectiveOptions(complementary=True)
    with torch.no_grad():
        terms = training_loss(build(), codes, options, generator=torch.Generator().manual_seed(0))
    assert terms.ratio.shape == (10,)
    torch.testing.assert_close(terms.ratio[:5] + terms.ratio[5:], torch.ones(5))
    assert terms.ratio.min() > 0


def test_a_short_training_learns_a_pattern() -> None:
    """Every picture is one code everywhere: once a cell is known, all are."""
    from smalti.prior import PriorConfig

    torch.manual_seed(0)
    model = AbsorbingTransformer(PriorConfig(codebook_size=8, height=4, width=4, d_model=32, n_layers=2, n_heads=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(120):
        codes = torch.randint(0, 8, (32, 1, 1), generator=generator).expand(-1, 4, 4)
        loss = training_loss(model, codes, generator=generator).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()
    bits = stratified_elbo(model, torch.arange(8).view(8, 1, 1).expand(8, 4, 4), strata=16, generator=generator)
    assert float(bits.mean()) + 0.05 >= 3 / 16  # 3 bits per picture is all there is to say
    assert float(bits.mean()) < 0.35


def test_bits_per_dimension() -> None:
    # A uniform density over 0..1 and certain codes: the 5 bits of 32 levels, or 8 of 256.
    zero = torch.zeros(2)
    assert bits_per_dimension(zero, 0.0, 3 * 8 * 8).tolist() == pytest.approx([5.0, 5.0])
    assert bits_per_dimension(zero, zero, 3 * 8 * 8, levels=256).tolist() == pytest.approx([8.0, 8.0])
    tokens = torch.tensor([10.0])
    expected = bits_per_dimension(tokens * LN2 * 256, 0.0, 3 * 128 * 128) - 5
    torch.testing.assert_close(token_bits_per_dimension(tokens, 256, 3 * 128 * 128), expected, rtol=1e-3, atol=1e-6)


def test_paper_losses_of_an_empty_mask_are_zero(build: Callable[..., AbsorbingTransformer]) -> None:
    codes = torch.zeros(2, 4, 5, dtype=torch.int64)
    noised = hide(codes, torch.zeros_like(codes, dtype=torch.bool))
    for objective in ("elbo", "mlm", "reweighted_elbo"):
        terms = paper_loss(build(), codes, noised, torch.tensor([1, 2]), 10, objective)  # type: ignore[arg-type]
        assert terms.per_sample.tolist() == [0, 0]
        assert float(terms.loss.detach()) == 0


def test_rolled_pictures_keep_their_rows_and_are_unplaced() -> None:
    codes = torch.arange(8 * 3 * 5).view(8, 3, 5)
    moved, placed = rolled(codes, 0.5, torch.Generator().manual_seed(0))
    assert placed.any()
    assert not placed.all()
    assert torch.equal(moved[placed], codes[placed])
    for before, after in zip(codes, moved, strict=True):
        assert any(torch.equal(after, before.roll(k, dims=1)) for k in range(5))

"""Bits per token on priors whose probabilities are known exactly."""

from __future__ import annotations

import math

import pytest
import torch

from smalti.errors import UsageError
from smalti.metrics import Bits, likelihood
from smalti.sampling import SamplerOptions, score_plan
from smalti.testing import ToyPrior, UniformPrior


def test_a_prior_that_knows_nothing_needs_log2_k_bits() -> None:
    codes = torch.randint(0, 16, (20, 4, 4), generator=torch.Generator().manual_seed(0))
    found = likelihood(UniformPrior(16, (4, 4)), codes, values_per_grid=3 * 32 * 32, steps=(1, 4, 16))
    for bits in (found.elbo, *found.exact.values()):
        assert bits.mean == pytest.approx(4)
        assert bits.standard_error == pytest.approx(0, abs=1e-12)
    assert found.bits_per_dim == pytest.approx(4 * 16 / 3072)
    assert list(found.exact) == [1, 4, 16]


def test_one_cell_per_step_is_the_exact_likelihood() -> None:
    """By the chain rule, whatever the order; with fewer steps q differs from p; the bound lies above both."""
    prior = ToyPrior.random(2, 2, 3, seed=4)
    codes = prior.grids[torch.multinomial(prior.joint, 40, True, generator=torch.Generator().manual_seed(1))]
    found = likelihood(prior, codes, values_per_grid=12, steps=(1, 4), strata=4)
    exact = -(prior.joint[prior.number(codes)].log2() / 4).mean().item()
    assert found.exact[4].mean == pytest.approx(exact, abs=1e-6)
    assert found.exact[1].mean > exact
    # all orders share the exact likelihood of a consistent prior, so the bound is tight in expectation
    assert abs(found.elbo.mean - exact) < 4 * found.elbo.standard_error


def test_settings_of_the_sampler_do_not_bend_the_score() -> None:
    prior = ToyPrior.random(2, 2, 3, seed=5)
    odd = SamplerOptions(temperature=0.5, top_k=1, top_p=0.3, order="confidence", schedule="explicit", counts=(2, 2))
    found = likelihood(prior, prior.grids[:6], values_per_grid=12, steps=(2,), options=odd, seed=3)
    assert found.options == SamplerOptions(order="random", schedule="cosine")
    expected = score_plan(
        prior, prior.grids[:6], seeds=range(3, 9), options=found.options.replace(num_inference_steps=2)
    )
    assert found.exact[2].mean == pytest.approx(expected.mean().item(), rel=1e-12)


def test_progress_ends_at_one_and_more_grids_than_a_batch_are_the_same_numbers() -> None:
    prior = ToyPrior.random(2, 2, 2, seed=0)
    codes = prior.grids.repeat(3, 1, 1)  # 48 grids: three batches
    seen: list[float] = []
    found = likelihood(prior, codes, values_per_grid=12, steps=(2, 9), seed=7, report=seen.append)
    assert seen == sorted(seen)
    assert seen[-1] == pytest.approx(1)
    alone = score_plan(prior, codes, seeds=range(7, 55), options=SamplerOptions(num_inference_steps=2))
    assert found.exact[2].mean == pytest.approx(alone.mean().item(), rel=1e-12)
    assert found.exact[2].standard_error == pytest.approx((alone.std() / 48**0.5).item(), rel=1e-9)


class IndependentCells:
    """Each cell has its own distribution and no cell knows of another: q = p for every order and number of steps."""

    codebook_size, window, device = 8, (16, 16), torch.device("cpu")

    def __init__(self) -> None:
        rows = torch.randn(256, 8, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
        self.log_p = rows.log_softmax(-1)

    def __call__(
        self, codes: torch.Tensor, positions: torch.Tensor | None = None, label: torch.Tensor | None = None
    ) -> torch.Tensor:
        logits = self.log_p.expand(len(codes), -1, -1)
        if positions is None:
            return logits
        return logits.gather(1, positions[:, :, None].expand(-1, -1, 8))


def test_the_default_numbers_of_steps_in_closed_form() -> None:
    """Bits, standard errors and bits per dimension at 16x16 cells and S = 4, 8, 16, 32, 256."""
    prior = IndependentCells()
    draws = torch.multinomial(prior.log_p.exp(), 6, True, generator=torch.Generator().manual_seed(4)).T  # (6, 256)
    each = -prior.log_p[torch.arange(256), draws].mean(1) / math.log(2)
    found = likelihood(prior, draws.reshape(6, 16, 16), values_per_grid=3 * 128 * 128, strata=64)
    assert list(found.exact) == [4, 8, 16, 32, 256]
    for bits in found.exact.values():
        assert bits.mean == pytest.approx(each.mean().item(), abs=1e-6)
        assert bits.standard_error == pytest.approx((each.std() / 6**0.5).item(), abs=1e-6)
    assert abs(found.elbo.mean - each.mean().item()) < 4 * found.elbo.standard_error
    assert found.bits_per_dim == pytest.approx(found.elbo.mean * 256 / (3 * 128 * 128))


def test_one_grid_has_no_standard_error_and_none_is_refused() -> None:
    assert math.isnan(Bits.of(torch.tensor([2.0])).standard_error)
    with pytest.raises(UsageError, match="no codes"):
        likelihood(UniformPrior(4, (2, 2)), torch.zeros(0, 2, 2, dtype=torch.int64), values_per_grid=12)

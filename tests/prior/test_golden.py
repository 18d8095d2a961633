"""Parity with the original implementation of "Unleashing Transformers", number by number.

Tolerances are the recorded ones: ten times the spread between settings of one machine.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from smalti.prior import AbsorbingTransformer, PriorConfig
from smalti.prior.masking import Noised, fixed_counts, hide, q_sample, q_sample_fixed
from smalti.prior.objectives import elbo, mlm, paper_elbo_terms, paper_loss, reweighted_elbo
from smalti.types import EMPTY
from tokenizer.golden import Golden

T, CELLS, K = 100, 64, 64
OBJECTIVES = ("elbo", "mlm", "reweighted_elbo")


@pytest.fixture
def golden(originals: Path) -> Golden:
    return Golden(originals / "unleashing", "absorbing.")


def load(originals: Path, name: str) -> AbsorbingTransformer:
    """The recorded sampler: every tensor goes to one of ours by its name alone."""
    state = torch.load(
        originals / "unleashing" / "logs" / "absorbing_tiny" / "saved_models" / name, weights_only=True
    )
    renames = {
        "_denoise_fn.": "",
        "tok_emb": "token_embedding",
        "pos_emb": "position_embedding",
        "ln_f": "norm",
        "ln1": "attention_norm",
        "ln2": "mlp_norm",
        "attn": "attention",
        "proj": "output",
        "mlp.0": "mlp.up",
        "mlp.2": "mlp.down",
    }
    ours = {}
    for key, value in state.items():
        if key.startswith("_denoise_fn.") and not key.endswith("start_tok"):
            for old, new in renames.items():
                key = key.replace(old, new)
            ours[key] = value
    config = PriorConfig(
        codebook_size=K,
        height=8,
        width=8,
        d_model=64,
        n_layers=3,
        n_heads=4,
        position="learned",
        bias=True,
        initialisation="torch",
    )
    model = AbsorbingTransformer(config)
    model.load_state_dict(ours, strict=True)
    return model.eval()


@pytest.fixture
def model(originals: Path) -> AbsorbingTransformer:
    return load(originals, "absorbing_ema_2000.th")


def ours(tokens: Tensor) -> Tensor:
    """The original's tokens, K = mask, as our codes `(n, 8, 8)` where they fill the window, else flat."""
    codes = tokens.masked_fill(tokens == K, EMPTY)
    return codes.view(-1, 8, 8) if codes.shape[1] == CELLS else codes


# --- without a network ------------------------------------------------------------------------------------------------


def test_noising(golden: Golden) -> None:
    codes, noised = golden["loss.x_0"], q_sample(golden["loss.x_0"], golden["loss.t"], T, golden["q.u"])
    assert torch.equal(noised.mask, golden["q.mask"])
    assert torch.equal(noised.codes, golden["q.x_t"].masked_fill(golden["q.x_t"] == K, EMPTY))
    assert torch.equal(codes.masked_fill(~noised.mask, -1), golden["q.x_0_ignore"])


def test_fixed_schedule(golden: Golden) -> None:
    t = torch.arange(1, T + 1)
    golden.check("fixed.n_masked", fixed_counts(t, T, CELLS))
    masks = q_sample_fixed(torch.zeros(T, CELLS, dtype=torch.int64), t, T, torch.rand(T, CELLS)).mask
    golden.check("fixed.n_masked", masks.sum(1))


def test_losses_from_cross_entropies(golden: Golden) -> None:
    ce, t = golden["loss.ce_sum"], golden["loss.t"]
    values = {
        "elbo": elbo(ce, t, T, CELLS),
        "vb": elbo(ce, t, T, CELLS),
        "mlm": mlm(ce, golden["loss.mask"].sum(1)),
        "reweighted_elbo": reweighted_elbo(ce, t, T, CELLS),
    }
    for name, value in values.items():
        golden.check(f"loss.{name}", value)
        if name != "vb":
            golden.check(f"loss.{name}.mean", value.mean())


def test_bound_from_its_terms(golden: Golden) -> None:
    t = torch.arange(T, 0, -1)[:, None]
    golden.check("elbo.terms", golden["elbo.ce_sum"] / t)
    golden.check("elbo.value", (golden["elbo.ce_sum"] / t).sum(0))


# --- with the original's weights --------------------------------------------------------------------------------------


@torch.no_grad()
def test_logits(golden: Golden, model: AbsorbingTransformer) -> None:
    golden.check("logits", model(ours(golden["tokens"])))


@torch.no_grad()
def test_logits_of_a_prefix(golden: Golden, model: AbsorbingTransformer) -> None:
    golden.check("logits_prefix", model(ours(golden["tokens"][:, : CELLS // 3])))


@torch.no_grad()
def test_logits_at_positions(golden: Golden, model: AbsorbingTransformer) -> None:
    positions = torch.tensor([[63, 0, 17]]).expand(6, -1)
    expected = golden["logits"].gather(1, positions[..., None].expand(-1, -1, K))
    logits = model(ours(golden["tokens"]), positions)
    torch.testing.assert_close(logits, expected, atol=golden.tolerance("logits"), rtol=0)


@torch.no_grad()
def test_logits_of_the_weights_without_averaging(golden: Golden, originals: Path) -> None:
    logits = load(originals, "absorbing_2000.th")(ours(golden["tokens"][2:4]))
    Golden(originals / "unleashing").check("absorbing_raw.logits", logits)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_and_gradients(golden: Golden, model: AbsorbingTransformer, objective: str) -> None:
    codes, mask = golden["loss.x_0"].view(-1, 8, 8), golden["loss.mask"].view(-1, 8, 8)
    noised = hide(codes, mask)
    assert torch.equal(noised.codes, ours(golden["loss.x_t"]))
    terms = paper_loss(model, codes, noised, golden["loss.t"], T, objective)  # type: ignore[arg-type]
    golden.check(f"loss.{objective}", terms.per_sample)
    golden.check(f"loss.{objective}.mean", terms.loss.detach())
    terms.loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
    golden.check(f"loss.{objective}.grad_norm", norm)
    if objective == "reweighted_elbo":
        assert model.position_embedding is not None
        golden.check("loss.grad.pos_emb", model.position_embedding.grad)  # type: ignore[arg-type]
        golden.check("loss.grad.ln_f_weight", model.norm.weight.grad)  # type: ignore[arg-type]
        golden.check("loss.grad.tok_emb_mask_row", model.token_embedding.weight.grad[-1])  # type: ignore[index]


@torch.no_grad()
def test_bound(golden: Golden, model: AbsorbingTransformer) -> None:
    codes, uniforms = golden["elbo.x_0"].view(-1, 8, 8), golden["elbo.u"].view(T, -1, 8, 8)
    terms = torch.stack([paper_elbo_terms(model, codes, T - i, T, uniforms[i]) for i in range(T)])  # (T, n)
    golden.check("elbo.terms", terms)
    golden.check("elbo.value", terms.sum(0))


@torch.no_grad()
def test_the_recorded_sampling_run(golden: Golden, model: AbsorbingTransformer) -> None:
    """Log-probabilities of the recorded draws along the original's 12-step run at temperature 0.9."""
    steps, n, _ = golden["sample.x_0_hat"].shape
    for i in range(steps):
        logits = model(ours(golden["sample.x_t"][i])) / 0.9
        drawn = golden["sample.x_0_hat"][i][..., None]
        logp = logits.log_softmax(-1).gather(-1, drawn).squeeze(-1)
        torch.testing.assert_close(logp, golden["sample.logp"][i], atol=golden.tolerance("sample.logp"), rtol=0)
    assert n == 2


def test_cross_entropies(golden: Golden, model: AbsorbingTransformer) -> None:
    from smalti.prior.objectives import masked_cross_entropy

    codes = golden["loss.x_0"].view(-1, 8, 8)
    noised = Noised(ours(golden["loss.x_t"]), golden["loss.mask"].view(-1, 8, 8))
    golden.check("loss.ce_sum", masked_cross_entropy(model, codes, noised).detach())

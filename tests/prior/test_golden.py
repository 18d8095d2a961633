"""Parity with the original implementation of "Unleashing Transformers", number by number.

What needs no network is checked in every clone; the rest where the original's checkpoint lies beside the checkout.
Tolerances are the recorded ones: ten times the spread between settings of one machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from torch import Tensor

from smalti.prior import AbsorbingTransformer, PriorConfig
from smalti.prior.masking import Noised, fixed_counts, hide, q_sample, q_sample_fixed
from smalti.prior.objectives import elbo, mlm, paper_elbo_terms, paper_loss, reweighted_elbo
from smalti.types import EMPTY

T, CELLS, K = 100, 64, 64
OBJECTIVES = ("elbo", "mlm", "reweighted_elbo")
IN_REPOSITORY = Path(__file__).parents[1] / "golden" / "unleashing" / "prior.safetensors"


class Golden:
    """Recorded tensors by name, and their tolerances."""

    def __init__(self, tensors: Path, tolerances: dict[str, float]) -> None:
        with safe_open(tensors, "pt") as file:
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.tolerances = tolerances

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[f"absorbing.{name}"]

    def check(self, name: str, actual: Tensor) -> None:
        name = name if name.startswith("absorbing") else f"absorbing.{name}"
        torch.testing.assert_close(actual, self.tensors[name], atol=self.tolerances[name], rtol=0)


@pytest.fixture(scope="module")
def small() -> Golden:
    with safe_open(IN_REPOSITORY, "pt") as file:
        return Golden(IN_REPOSITORY, json.loads(file.metadata()["atol"]))


@pytest.fixture
def full(shared_golden: Path) -> Golden:
    folder = shared_golden / "unleashing"
    manifest = json.loads((folder / "manifest.json").read_text())["io"]
    return Golden(folder / "io.safetensors", {name: entry.get("atol", 0.0) for name, entry in manifest.items()})


def load(shared_golden: Path, name: str) -> AbsorbingTransformer:
    """The recorded sampler: every tensor goes to one of ours by its name alone."""
    state = torch.load(
        shared_golden / "unleashing" / "logs" / "absorbing_tiny" / "saved_models" / name, weights_only=True
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
def model(shared_golden: Path) -> AbsorbingTransformer:
    return load(shared_golden, "absorbing_ema_2000.th")


def ours(tokens: Tensor) -> Tensor:
    """The original's tokens, K = mask, as our codes `(n, 8, 8)` where they fill the window, else flat."""
    codes = tokens.masked_fill(tokens == K, EMPTY)
    return codes.view(-1, 8, 8) if codes.shape[1] == CELLS else codes


# --- without a network ------------------------------------------------------------------------------------------------


def test_noising(small: Golden) -> None:
    codes, noised = small["loss.x_0"], q_sample(small["loss.x_0"], small["loss.t"], T, small["q.u"])
    assert torch.equal(noised.mask, small["q.mask"])
    assert torch.equal(noised.codes, small["q.x_t"].masked_fill(small["q.x_t"] == K, EMPTY))
    assert torch.equal(codes.masked_fill(~noised.mask, -1), small["q.x_0_ignore"])


def test_fixed_schedule(small: Golden) -> None:
    t = torch.arange(1, T + 1)
    small.check("fixed.n_masked", fixed_counts(t, T, CELLS))
    masks = q_sample_fixed(torch.zeros(T, CELLS, dtype=torch.int64), t, T, torch.rand(T, CELLS)).mask
    small.check("fixed.n_masked", masks.sum(1))


def test_losses_from_cross_entropies(small: Golden) -> None:
    ce, t = small["loss.ce_sum"], small["loss.t"]
    values = {
        "elbo": elbo(ce, t, T, CELLS),
        "vb": elbo(ce, t, T, CELLS),
        "mlm": mlm(ce, small["loss.mask"].sum(1)),
        "reweighted_elbo": reweighted_elbo(ce, t, T, CELLS),
    }
    for name, value in values.items():
        small.check(f"loss.{name}", value)
        if name != "vb":
            small.check(f"loss.{name}.mean", value.mean())


def test_bound_from_its_terms(small: Golden) -> None:
    t = torch.arange(T, 0, -1)[:, None]
    small.check("elbo.terms", small["elbo.ce_sum"] / t)
    small.check("elbo.value", (small["elbo.ce_sum"] / t).sum(0))


# --- with the original's weights --------------------------------------------------------------------------------------


@torch.no_grad()
def test_logits(full: Golden, model: AbsorbingTransformer) -> None:
    full.check("logits", model(ours(full["tokens"])))


@torch.no_grad()
def test_logits_of_a_prefix(full: Golden, model: AbsorbingTransformer) -> None:
    full.check("logits_prefix", model(ours(full["tokens"][:, : CELLS // 3])))


@torch.no_grad()
def test_logits_at_positions(full: Golden, model: AbsorbingTransformer) -> None:
    positions = torch.tensor([[63, 0, 17]]).expand(6, -1)
    expected = full["logits"].gather(1, positions[..., None].expand(-1, -1, K))
    logits = model(ours(full["tokens"]), positions)
    torch.testing.assert_close(logits, expected, atol=full.tolerances["absorbing.logits"], rtol=0)


@torch.no_grad()
def test_logits_of_the_weights_without_averaging(full: Golden, shared_golden: Path) -> None:
    logits = load(shared_golden, "absorbing_2000.th")(ours(full["tokens"][2:4]))
    full.check("absorbing_raw.logits", logits)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_losses_and_gradients(full: Golden, model: AbsorbingTransformer, objective: str) -> None:
    codes, mask = full["loss.x_0"].view(-1, 8, 8), full["loss.mask"].view(-1, 8, 8)
    noised = hide(codes, mask)
    assert torch.equal(noised.codes, ours(full["loss.x_t"]))
    terms = paper_loss(model, codes, noised, full["loss.t"], T, objective)  # type: ignore[arg-type]
    full.check(f"loss.{objective}", terms.per_sample)
    full.check(f"loss.{objective}.mean", terms.loss.detach())
    terms.loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.cat([g.flatten() for g in gradients]))
    full.check(f"loss.{objective}.grad_norm", norm)
    if objective == "reweighted_elbo":
        assert model.position_embedding is not None
        full.check("loss.grad.pos_emb", model.position_embedding.grad)  # type: ignore[arg-type]
        full.check("loss.grad.ln_f_weight", model.norm.weight.grad)  # type: ignore[arg-type]
        full.check("loss.grad.tok_emb_mask_row", model.token_embedding.weight.grad[-1])  # type: ignore[index]


@torch.no_grad()
def test_bound(full: Golden, model: AbsorbingTransformer) -> None:
    codes, uniforms = full["elbo.x_0"].view(-1, 8, 8), full["elbo.u"].view(T, -1, 8, 8)
    terms = torch.stack([paper_elbo_terms(model, codes, T - i, T, uniforms[i]) for i in range(T)])  # (T, n)
    full.check("elbo.terms", terms)
    full.check("elbo.value", terms.sum(0))


@torch.no_grad()
def test_the_recorded_sampling_run(full: Golden, model: AbsorbingTransformer) -> None:
    """Log-probabilities of the recorded draws along the original's 12-step run at temperature 0.9."""
    steps, n, _ = full["sample.x_0_hat"].shape
    for i in range(steps):
        logits = model(ours(full["sample.x_t"][i])) / 0.9
        drawn = full["sample.x_0_hat"][i][..., None]
        logp = logits.log_softmax(-1).gather(-1, drawn).squeeze(-1)
        torch.testing.assert_close(logp, full["sample.logp"][i], atol=full.tolerances["absorbing.sample.logp"], rtol=0)
    assert n == 2


def test_cross_entropies(full: Golden, model: AbsorbingTransformer) -> None:
    from smalti.prior.objectives import masked_cross_entropy

    codes = full["loss.x_0"].view(-1, 8, 8)
    noised = Noised(ours(full["loss.x_t"]), full["loss.mask"].view(-1, 8, 8))
    full.check("loss.ce_sum", masked_cross_entropy(model, codes, noised).detach())

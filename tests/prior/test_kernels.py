"""Faster forms of the network say the same: within rounding in bfloat16, exactly in float32."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.prior import (
    AbsorbingTransformer,
    fastest_dtype,
    kernels,
    named_size,
    optimize_for_inference,
    stratified_elbo,
    training_loss,
)
from smalti.prior.attention import attend, explicit_attention, rotate
from smalti.types import EMPTY


def half_empty(model: AbsorbingTransformer, n: int = 2) -> torch.Tensor:
    codes = torch.randint(0, model.codebook_size, (n, *model.window), generator=torch.Generator().manual_seed(0))
    codes[:, ::2] = EMPTY
    return codes


@given(st.integers(1, 3), st.integers(1, 4), st.integers(1, 9), st.integers(1, 40), st.sampled_from([4, 16, 64]))
def test_explicit_attention_is_attention(n: int, heads: int, m: int, cells: int, channels: int) -> None:
    generator = torch.Generator().manual_seed(n * cells)
    q = torch.randn(n, heads, m, channels, generator=generator)
    k, v = torch.randn(2, n, heads, cells, channels, generator=generator)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(explicit_attention(q, k, v), expected, atol=2e-6, rtol=1e-5)
    rough = attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
    torch.testing.assert_close(rough.float(), expected, atol=0.06, rtol=0.05)


def test_rotation_keeps_lengths_and_undoes_itself() -> None:
    x, angle = torch.randn(2, 3, 5, 8), torch.randn(5, 4)
    turned = rotate(x, angle.cos(), angle.sin())
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(rotate(turned, angle.cos(), -angle.sin()), x)


def test_float32_is_the_model_itself(model: AbsorbingTransformer) -> None:
    denoiser = optimize_for_inference(model, "float32")
    codes = half_empty(model)
    with torch.no_grad():
        assert torch.equal(denoiser(codes), model(codes))
    assert (denoiser.codebook_size, denoiser.window, denoiser.device) == (11, (4, 5), torch.device("cpu"))


def test_bfloat16_is_close_and_answers_in_float32(model: AbsorbingTransformer) -> None:
    denoiser = optimize_for_inference(model, "bfloat16")
    codes = half_empty(model)
    label = torch.tensor([1, -1]) if model.config.n_classes else None
    positions = torch.tensor([[0, 7], [19, 3]])
    with torch.no_grad():
        exact = model(codes, positions, label)
    logits = denoiser(codes, positions, label)
    assert logits.dtype == torch.float32
    assert not logits.requires_grad
    assert denoiser.dtype == torch.bfloat16
    assert 0 < float((logits - exact).std()) < 0.05 * float(exact.std())


def test_the_likelihood_survives_rounding(build: Callable[..., AbsorbingTransformer]) -> None:
    model = build(d_model=64, n_heads=1)
    codes = half_empty(model, 16).clamp(min=0)
    exact, rough = (
        stratified_elbo(denoiser, codes, strata=4, generator=torch.Generator().manual_seed(0))
        for denoiser in (model, optimize_for_inference(model, "bfloat16"))
    )
    assert float(rough.mean()) == pytest.approx(float(exact.mean()), abs=0.02)


def test_the_given_model_is_left_alone(build: Callable[..., AbsorbingTransformer]) -> None:
    model = build().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    optimize_for_inference(model, "bfloat16")(half_empty(model))
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_processor_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in kernels._NATIVE_ON_CPU:
        monkeypatch.setattr(torch.cpu, name, lambda: False, raising=False)
    assert fastest_dtype(torch.device("cpu")) == torch.float32
    for name in kernels._NATIVE_ON_CPU:
        monkeypatch.delattr(torch.cpu, name)
    assert fastest_dtype(torch.device("cpu")) == torch.float32
    monkeypatch.setattr(torch.cpu, kernels._NATIVE_ON_CPU[0], lambda: True, raising=False)
    assert fastest_dtype(torch.device("cpu")) == torch.bfloat16
    assert fastest_dtype(torch.device("mps")) == torch.float32


def test_training_in_mixed_precision_agrees(build: Callable[..., AbsorbingTransformer]) -> None:
    """The loss and its gradient under autocast are those of float32, up to rounding."""
    model = build(d_model=64, n_heads=1).train()
    codes = half_empty(model, 8).clamp(min=0)
    exact = training_loss(model, codes, generator=torch.Generator().manual_seed(0))
    exact.loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16):
        rough = training_loss(model, codes, generator=torch.Generator().manual_seed(0))
    assert rough.loss.dtype == torch.float32
    rough.loss.backward()
    again = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    assert float(rough.loss.detach()) == pytest.approx(float(exact.loss.detach()), rel=0.02)
    assert float(torch.cosine_similarity(gradient, again, dim=0)) > 0.99


def test_named_sizes_have_heads_of_64_to_128_channels() -> None:
    for name in ("mini", "small", "medium", "large", "paper"):
        assert 64 <= named_size(name).head_dim <= 128

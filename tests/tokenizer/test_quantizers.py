"""Three ways from vectors to codes, and what they promise."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.tokenizer.quantizer import CosineQuantizer, GumbelQuantizer, NearestQuantizer, Quantizer, revive

K, D = 32, 6


def quantizers() -> list[Quantizer]:
    torch.manual_seed(0)
    cosine = CosineQuantizer(K, D)
    torch.nn.init.normal_(cosine.mix.weight)
    nearest = NearestQuantizer(K, D)
    torch.nn.init.normal_(nearest.embedding.weight)
    return [nearest, GumbelQuantizer(D, K, D), cosine]


@pytest.fixture(params=range(3), ids=["nearest", "gumbel", "cosine"])
def quantizer(request: pytest.FixtureRequest) -> Quantizer:
    return quantizers()[request.param].eval()


@pytest.fixture
def z() -> Tensor:
    return torch.randn(2, D, 5, 7, generator=torch.Generator().manual_seed(1))


def test_shapes(quantizer: Quantizer, z: Tensor) -> None:
    quantized = quantizer(z)
    assert quantizer.indices(z).shape == quantized.codes.shape == (2, 5, 7)
    assert quantizer.indices(z).dtype == torch.int64
    assert quantizer.lookup(quantized.codes).shape == quantized.vectors.shape == z.shape
    assert quantized.loss.shape == ()


def test_vectors_are_rows_of_the_codebook(quantizer: Quantizer, z: Tensor) -> None:
    quantized = quantizer(z)
    torch.testing.assert_close(quantized.vectors, quantizer.lookup(quantized.codes))


def test_codes_do_not_depend_on_the_batch(quantizer: Quantizer, z: Tensor) -> None:
    assert torch.equal(quantizer.indices(z)[1:], quantizer.indices(z[1:]))


@pytest.mark.parametrize("which", [0, 2])
def test_a_code_is_its_own_nearest(which: int) -> None:
    quantizer = quantizers()[which]
    codes = torch.arange(K).view(1, 4, 8)
    assert torch.equal(quantizer.indices(quantizer.lookup(codes)), codes)


def test_nearest_is_the_smallest_distance(z: Tensor) -> None:
    nearest = quantizers()[0]
    assert isinstance(nearest, NearestQuantizer)
    flat = z.permute(0, 2, 3, 1).reshape(-1, D).double()
    brute = (flat[:, None] - nearest.embedding.weight.double()).square().sum(-1)
    torch.testing.assert_close(nearest.distances(z).view(-1, K).double(), brute, atol=1e-5, rtol=0)
    assert torch.equal(nearest.indices(z).flatten(), brute.argmin(1))


def test_cosine_sees_directions_only(z: Tensor) -> None:
    cosine = quantizers()[2]
    assert isinstance(cosine, CosineQuantizer)
    assert torch.equal(cosine.indices(z), cosine.indices(z * 37.0))
    torch.testing.assert_close(cosine.codebook.norm(dim=1), torch.ones(K))
    torch.testing.assert_close(cosine(z).vectors.norm(dim=1), torch.ones(2, 5, 7))


@pytest.mark.parametrize("which", [0, 2])
def test_gradients_pass_straight_through(which: int, z: Tensor) -> None:
    """The encoder gets the gradient of the decoder's input, as if nothing had been rounded."""
    quantizer = quantizers()[which]
    inputs = z.clone().requires_grad_()
    seen = torch.randn_like(z)
    (quantizer(inputs).vectors * seen).sum().backward()
    expected = z.clone().requires_grad_()
    passed = expected if which == 0 else F.normalize(expected, dim=1)
    (passed * seen).sum().backward()
    torch.testing.assert_close(inputs.grad, expected.grad)


def test_the_weight_stands_where_each_form_puts_it(z: Tensor) -> None:
    """The originals weight the codebook's pull (legacy), the paper the encoder's."""
    torch.manual_seed(0)
    for legacy, (encoder, codebook) in {True: (1.0, 0.25), False: (0.25, 1.0)}.items():
        quantizer = NearestQuantizer(K, D, legacy_beta=legacy)
        inputs = z.clone().requires_grad_()
        quantizer(inputs).loss.backward()
        rows = quantizer.lookup(quantizer.indices(z)).detach()
        torch.testing.assert_close(inputs.grad, encoder * 2 * (z - rows) / z.numel())
        pull = torch.zeros(K, D)
        flat = (codebook * 2 * (rows - z) / z.numel()).permute(0, 2, 3, 1).reshape(-1, D)
        pull.index_add_(0, quantizer.indices(z).flatten(), flat)
        torch.testing.assert_close(quantizer.embedding.weight.grad, pull, atol=1e-7, rtol=1e-4)


def test_gumbel_draws_the_softmax() -> None:
    """Codes drawn with noise have the probabilities that the logits say (chi-square, 31 degrees of freedom)."""
    torch.manual_seed(0)
    gumbel = GumbelQuantizer(D, K, D).eval()
    z = torch.randn(1, D, 1, 1).expand(1, D, 200, 200)
    counts = torch.bincount(gumbel(z).codes.flatten(), minlength=K).double()
    expected = gumbel.proj(z[..., :1, :1]).softmax(1).flatten().double().detach() * 40_000
    assert float(((counts - expected).square() / expected).sum()) < 61.1  # p = 0.001


def test_gumbel_is_soft_in_training_and_hard_in_use(z: Tensor) -> None:
    gumbel = quantizers()[1]
    assert isinstance(gumbel, GumbelQuantizer)
    noise = torch.zeros(2, K, 5, 7)
    soft = gumbel.train()(z, noise)
    assert not torch.allclose(soft.vectors, gumbel.lookup(soft.codes))
    gumbel.temperature = 1e-7
    cold = gumbel(z, noise)
    torch.testing.assert_close(cold.vectors, gumbel.lookup(cold.codes))
    assert torch.equal(gumbel.eval()(z, noise).codes, gumbel.indices(z))


@pytest.mark.parametrize("which", [0, 2])
def test_revival_moves_dead_codes_onto_the_data(which: int, z: Tensor) -> None:
    quantizer = quantizers()[which]
    assert not isinstance(quantizer, GumbelQuantizer)
    every = torch.arange(K).view(1, 1, K)
    before = quantizer.lookup(every).detach().squeeze().t()  # (K, d)
    dead = torch.zeros(K, dtype=torch.bool)
    dead[[3, 17, 30]] = True
    assert revive(quantizer, dead, z, torch.Generator().manual_seed(0)) == 3
    after = quantizer.lookup(every).detach().squeeze().t()
    torch.testing.assert_close(after[~dead], before[~dead])
    data = (F.normalize(z, dim=1) if which == 2 else z).permute(0, 2, 3, 1).reshape(-1, D)
    assert torch.cdist(after[dead], data).min(1).values.max() < 1e-3
    used = quantizer.indices(z).unique()
    assert all(code in used for code in (3, 17, 30))


def test_revival_of_none_and_of_more_than_there_is_data() -> None:
    cosine = CosineQuantizer(K, D)
    assert revive(cosine, torch.zeros(K, dtype=torch.bool), torch.randn(1, D, 2, 2)) == 0
    assert revive(cosine, torch.ones(K, dtype=torch.bool), torch.randn(1, D, 2, 2)) == 4

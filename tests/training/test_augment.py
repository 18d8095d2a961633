"""What the critic sees: each change by its definition, alike for both sides, with gradients, from a seed."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from smalti.training.augment import Augmentation, DiffAugment, cut_out, mirrored, recoloured, shifted

POLICY: tuple[Augmentation, ...] = ("colour", "translation", "cutout")


def noise(n: int = 4, height: int = 16, width: int = 24) -> Tensor:
    return torch.rand(n, 3, height, width, generator=torch.Generator().manual_seed(0)) * 2 - 1


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_colours_by_hand() -> None:
    images = noise(4)
    half = torch.full((3, 4), 0.5)
    assert torch.allclose(recoloured(images, half), images, atol=1e-6)
    brighter, grey, flat = half.clone(), half.clone(), half.clone()
    brighter[0], grey[1], flat[2] = 0.7, 0.0, 0.0
    assert torch.allclose(recoloured(images, brighter), images + 0.2, atol=1e-6)
    assert torch.allclose(recoloured(images, grey), images.mean(1, keepdim=True).expand_as(images), atol=1e-6)
    middle = images.mean((1, 2, 3), keepdim=True)
    assert torch.allclose(recoloured(images, flat), (images + middle) / 2, atol=1e-6)


def test_shifts_and_holes_by_hand() -> None:
    images = noise(2) + 5  # nowhere grey
    moved = shifted(images, torch.tensor([[2, -1], [-3, 0]]))
    expected = torch.zeros_like(images)
    expected[0, :, 2:, :-3] = images[0, :, :-2, 3:]
    expected[1, :, :-1] = images[1, :, 1:]
    assert torch.equal(moved, expected)
    holed = cut_out(images, torch.tensor([[-2, 10], [3, 20]]), (8, 12))
    expected = images.clone()
    expected[0, :, :6, 3:15] = 0
    expected[1, :, 10:, 20:] = 0
    assert torch.equal(holed, expected)


def test_draws_stay_within_their_limits_and_reach_them() -> None:
    n = 4000
    picture = torch.zeros(1, 1, 16, 24)
    picture[..., 8, 12] = 1
    moved = DiffAugment(("translation",), n, (16, 24), seeded(0))(picture.expand(n, 1, 16, 24))
    places = moved.flatten(1).argmax(1)
    assert sorted((places // 24).unique().tolist()) == list(range(6, 11))  # 1/8 of 16 up and down
    assert sorted((places % 24).unique().tolist()) == list(range(9, 16))
    holed = DiffAugment(("cutout",), n, (16, 24), seeded(0))(torch.ones(n, 1, 16, 24))
    hidden = (holed == 0).float()
    assert hidden.sum((1, 2, 3)).max() == 8 * 12
    rows = hidden.amax((1, 3)).mean(0)  # how often each row is touched: 8 of 17 places, fewer at the rims
    assert torch.allclose(rows, torch.tensor([min(i + 5, 20 - i, 8) for i in range(16)]) / 17, atol=0.04)


@pytest.mark.parametrize("policy", [POLICY, *((name,) for name in POLICY), ()])
def test_both_sides_are_changed_alike_from_a_seed(policy: tuple[Augmentation, ...]) -> None:
    images = noise()
    view = DiffAugment(policy, 4, (16, 24), seeded(3))
    assert torch.equal(view(images), view(images))
    assert torch.equal(view(images), DiffAugment(policy, 4, (16, 24), seeded(3))(images))
    other = DiffAugment(policy, 4, (16, 24), seeded(4))(images)
    assert torch.equal(view(images), other) == (not policy)
    assert view(images).shape == images.shape


def test_gradients_pass() -> None:
    images = noise(2, 8, 8).double().requires_grad_()
    view = DiffAugment(POLICY, 2, (8, 8), seeded(1))
    assert torch.autograd.gradcheck(view, (images,))


def test_mirrored_turns_about_half() -> None:
    images = noise(400, 2, 4)
    turned = mirrored(images, torch.rand(400, generator=seeded(0)) < 0.5)
    flipped = (turned == images.flip(-1)).all(dim=(1, 2, 3))
    assert ((turned == images).all(dim=(1, 2, 3)) | flipped).all()
    assert 150 < int(flipped.sum()) < 250

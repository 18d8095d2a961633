"""LPIPS from the user's files: the layout of the original's weights, the properties of a distance."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from smalti.errors import ModelError
from smalti.training.lpips import SLICES, Lpips

NUMBERS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
"""Where torchvision's VGG-16 keeps its convolutions."""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("lpips")
    generator = torch.Generator().manual_seed(0)
    vgg, channels = {}, 3
    for number, width in zip(NUMBERS, [w for group in SLICES for w in group], strict=True):
        vgg[f"features.{number}.weight"] = (
            torch.randn(width, channels, 3, 3, generator=generator) * (2 / channels / 9) ** 0.5
        )
        vgg[f"features.{number}.bias"] = torch.zeros(width)
        channels = width
    vgg["classifier.0.weight"] = torch.zeros(1)  # the real file goes on
    linear = {f"lin{k}.model.1.weight": torch.full((1, g[-1], 1, 1), 0.1) for k, g in enumerate(SLICES)}
    torch.save(vgg, folder / "vgg16.pth")
    torch.save(linear, folder / "lin.pth")
    return [str(folder / "vgg16.pth"), str(folder / "lin.pth")]


def test_a_distance_with_a_gradient(files: list[str]) -> None:
    distance = Lpips(files)
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1 for _ in range(2))
    assert distance(a, a).item() == 0
    near, far = distance(a + 0.02 * b, a).item(), distance(b, a).item()
    assert 0 < near < far
    a.requires_grad_()
    distance(a, b).backward()
    assert a.grad is not None
    assert a.grad.abs().sum() > 0
    assert all(p.grad is None for p in distance.parameters())


def test_files_that_are_something_else_are_named(files: list[str], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"lin0\.model\.1\.weight"):
        Lpips(files[:1])
    with pytest.raises(ModelError, match="convolutions"):
        Lpips(files[1:])
    with pytest.raises(ModelError, match="does not exist"):
        Lpips([str(tmp_path / "nope.pth")])

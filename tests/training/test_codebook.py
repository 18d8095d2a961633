"""k-means finds what is there, and the codebook begins with it."""

from __future__ import annotations

from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from smalti.data import Pictures, as_images
from smalti.tokenizer import VQGAN, TokenizerConfig
from smalti.training.codebook import kmeans, start_from_features

from .conftest import TINY_VQGAN, toy_pixels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_round_moves_centres_to_the_means_of_their_cells() -> None:
    """One round from known centres, by hand; a centre without vectors stays."""
    vectors = torch.tensor([[0.0], [1.0], [10.0], [12.0]])
    start = vectors[torch.randperm(4, generator=seeded())[:2]]
    nearest = (vectors - start.t()).abs().argmin(1)
    expected = torch.stack([vectors[nearest == i].mean(0) for i in range(2)])
    assert torch.equal(kmeans(vectors, 2, seeded(), rounds=1), expected)
    assert torch.equal(kmeans(torch.ones(5, 2), 3, seeded()), torch.ones(3, 2))
    assert len(kmeans(vectors, 9, seeded())) == 4, "no more centres than vectors"


def test_the_error_never_grows_and_ends_at_a_fixed_point() -> None:
    vectors = torch.randn(500, 3, generator=seeded(1))

    def error(rounds: int) -> float:
        return float(torch.cdist(vectors, kmeans(vectors, 8, seeded(), rounds=rounds)).min(1).values.square().mean())

    errors = [error(rounds) for rounds in (0, 1, 2, 5, 10, 80)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.8 * errors[0]
    centres = kmeans(vectors, 8, seeded(), rounds=80)
    nearest = torch.cdist(vectors, centres).argmin(1)
    means = torch.stack([vectors[nearest == i].mean(0) for i in range(8)])
    assert torch.allclose(centres, means, atol=1e-5)


@pytest.mark.parametrize("quantizer", ["cosine", "nearest"])
def test_the_codebook_begins_at_the_features(quantizer: Literal["cosine", "nearest"]) -> None:
    torch.manual_seed(0)
    network = VQGAN(TokenizerConfig.model_validate({**TINY_VQGAN, "quantizer": quantizer}))
    pictures = Pictures(toy_pixels(40), np.arange(40), "toy")
    images = as_images(pictures.batch(np.arange(40)), torch.device("cpu"))

    def distance() -> float:
        with torch.no_grad():
            z = network.features(images)
            z = F.normalize(z, dim=1) if quantizer == "cosine" else z
            return float((network.quantizer.lookup(network.quantizer.indices(z)) - z).square().sum(1).mean())

    before = distance()
    assert start_from_features(network, pictures, torch.device("cpu"), seed=1, batch=8) == 16
    assert distance() < 0.2 * before
    kept = {name: value.clone() for name, value in network.state_dict().items()}
    start_from_features(network, pictures, torch.device("cpu"), seed=1, batch=8)
    again = network.state_dict()
    assert all(torch.allclose(again[name], value, atol=1e-6) for name, value in kept.items()), "the same each time"


def test_gumbel_codes_are_no_features() -> None:
    network = VQGAN(TokenizerConfig.model_validate({**TINY_VQGAN, "quantizer": "gumbel"}))
    with pytest.raises(TypeError, match="Gumbel"):
        start_from_features(network, Pictures(toy_pixels(2), np.arange(2), "toy"), torch.device("cpu"), seed=0, batch=2)

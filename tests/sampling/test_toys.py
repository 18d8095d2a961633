from __future__ import annotations

import pytest
import torch

from smalti.errors import UsageError
from smalti.sampling import Denoiser
from smalti.testing import ToyPrior, ToyTokenizer, UniformPrior


def test_toy_conditionals_are_sums_over_the_joint() -> None:
    joint = torch.rand(2, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    prior = ToyPrior(joint, (1, 3), 2)
    p = joint / joint.sum()
    nothing = prior.conditionals(torch.full((1, 1, 3), -1))[0]
    torch.testing.assert_close(nothing, torch.stack([p.sum((1, 2)), p.sum((0, 2)), p.sum((0, 1))]))
    middle = prior.conditionals(torch.tensor([[[-1, 1, -1]]]))[0]
    torch.testing.assert_close(middle[0], p[:, 1].sum(1) / p[:, 1].sum())
    assert middle[1].tolist() == [0, 1]


def test_toy_logits_and_numbers() -> None:
    prior = ToyPrior.random(2, 2, 3)
    codes = torch.tensor([[[0, -1], [2, -1]]])
    assert prior(codes).shape == (1, 4, 3)
    torch.testing.assert_close(prior(codes, torch.tensor([[3, 1]]))[0], prior(codes)[0, [3, 1]])
    assert prior.number(prior.grids).tolist() == list(range(81))
    assert prior.windows_seen == 3


def test_toys_are_denoisers() -> None:
    assert isinstance(ToyPrior.random(1, 2, 2), Denoiser)
    assert isinstance(UniformPrior(4), Denoiser)
    assert UniformPrior(4)(torch.zeros(3, 16, 16, dtype=torch.long)).shape == (3, 256, 4)


def test_toys_refuse_what_they_cannot_hold() -> None:
    with pytest.raises(UsageError, match="too large"):
        ToyPrior.random(4, 4, 8)
    with pytest.raises(UsageError, match="entries"):
        ToyPrior(torch.ones(5), (1, 2), 2)


@pytest.mark.parametrize("codebook_size", [2, 8, 64, 1000, 1024])
def test_tokenizer_round_trip_also_through_eight_bits(codebook_size: int) -> None:
    tokenizer = ToyTokenizer(codebook_size, cell=4)
    codes = torch.randperm(codebook_size, generator=torch.Generator().manual_seed(0))[:16].repeat(8)[:16].view(1, 4, 4)
    images = tokenizer.decode(codes)
    assert images.shape == (1, 3, 16, 16)
    assert images.abs().max() <= 1
    assert torch.equal(tokenizer.encode(images), codes)
    assert torch.equal(tokenizer.decode_tiled(codes, tile=2), images)
    eight_bits = ((images + 1) * 127.5).round() / 127.5 - 1
    assert torch.equal(tokenizer.encode(eight_bits), codes)
    assert len(tokenizer.palette.unique(dim=0)) == codebook_size


def test_tokenizer_pads_odd_sizes_to_whole_cells() -> None:
    tokenizer = ToyTokenizer()
    images = tokenizer.decode(torch.randint(0, 64, (2, 3, 4), generator=torch.Generator().manual_seed(0)))
    assert tokenizer.encode(images[:, :, :17, :26]).shape == (2, 3, 4)
    assert tokenizer.encode(images[:, :, :1, :1]).shape == (2, 1, 1)


def test_tokenizer_has_no_picture_of_an_empty_cell() -> None:
    with pytest.raises(ValueError, match=r"0\.\.63"):
        ToyTokenizer().decode(torch.full((1, 2, 2), -1))

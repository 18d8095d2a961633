"""smalti's own tokenizer: any size in, whole cells out, tiles that nobody can tell from one piece."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from smalti.tokenizer import SIZES, VQGAN, LeanArchitecture, TokenizerConfig, check_codes, pad_to_cells


def shaken(config: TokenizerConfig, seed: int = 0) -> VQGAN:
    """A tokenizer in which no weight is zero: new residual blocks are the identity and would hide the halo."""
    torch.manual_seed(seed)
    model = VQGAN(config)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.normal_(std=1.2 / module.weight[0].numel() ** 0.5)
                assert module.bias is not None
                module.bias.normal_(std=0.1)
    return model.eval()


TINY = SIZES["vqgan_tiny"]
UNEVEN = TokenizerConfig(
    architecture=LeanArchitecture(
        encoder_channels=(8, 16), encoder_blocks=(1, 1), decoder_channels=(8, 16), decoder_blocks=(3, 1)
    ),
    codebook_size=64,
    code_dim=8,
)


@pytest.fixture(scope="module")
def model() -> VQGAN:
    return shaken(TINY)


@pytest.mark.parametrize(("height", "width"), [(64, 64), (33, 50), (8, 8), (1, 1), (7, 100), (65, 9)])
def test_any_size_becomes_whole_cells(model: VQGAN, height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width) * 2 - 1
    codes = model.encode(images)
    assert codes.shape == (2, -(-height // 8), -(-width // 8))
    assert codes.dtype == torch.int64
    assert 0 <= int(codes.min()) <= int(codes.max()) < model.codebook_size
    assert model.decode(codes).shape == (2, 3, codes.shape[1] * 8, codes.shape[2] * 8)


def test_padding_reflects_and_leaves_the_picture() -> None:
    images = torch.arange(3 * 5 * 6, dtype=torch.float32).view(1, 3, 5, 6)
    padded = pad_to_cells(images, 4)
    assert padded.shape == (1, 3, 8, 8)
    assert torch.equal(padded[..., :5, :6], images)
    assert torch.equal(padded[..., 5:, :6], images[..., [3, 2, 1], :])  # reflected, the edge itself not repeated
    assert torch.equal(padded[..., :5, 6:], images[..., [4, 3]])
    assert pad_to_cells(images[..., :4, :4], 4).data_ptr() == images.data_ptr()
    assert pad_to_cells(torch.rand(1, 3, 1, 9), 8).shape == (1, 3, 8, 16)  # too small to reflect


def test_cells_that_are_whole_do_not_depend_on_the_padding(model: VQGAN) -> None:
    """What lies far from the edge gets the same codes in a picture cut to whole cells."""
    images = torch.rand(1, 3, 250, 245) * 2 - 1
    assert torch.equal(model.encode(images)[:, :20, :20], model.encode(images[..., :248, :240])[:, :20, :20])


@pytest.mark.parametrize("config", [TINY, UNEVEN], ids=["tiny", "uneven"])
@pytest.mark.parametrize("tile", [3, 8, 13])
def test_tiles_are_the_one_shot_decode(config: TokenizerConfig, tile: int) -> None:
    model = shaken(config)
    codes = torch.randint(config.codebook_size, (2, 19, 31))
    whole, tiled = model.decode(codes), model.decode_tiled(codes, tile=tile)
    assert tiled.shape == whole.shape
    assert (whole - tiled).abs().max() < 1e-5 * whole.abs().max()


@pytest.mark.parametrize("config", [TINY, UNEVEN], ids=["tiny", "uneven"])
def test_the_halo_is_wide_enough(config: TokenizerConfig) -> None:
    """A code changes no pixel farther away than the halo says. Were it wider than needed, tiles would only be slow."""
    model = shaken(config)
    halo, cell = model.decoder.halo, model.cell
    assert halo is not None
    size = 2 * halo + 5
    codes = torch.randint(config.codebook_size, (1, size, size))
    other = codes.clone()
    middle = size // 2
    other[0, middle, middle] = (codes[0, middle, middle] + 1) % config.codebook_size
    changed = (model.decode(codes) != model.decode(other)).any(1)[0]  # H W
    rows = changed.any(1).nonzero().squeeze(1)
    first, last = int(rows.min()), int(rows.max())
    assert first >= (middle - halo) * cell
    assert last < (middle + halo + 1) * cell
    assert first < (middle - halo + 2) * cell  # and not by far


def test_decode_names_the_cell_that_has_no_picture(model: VQGAN) -> None:
    codes = torch.zeros(2, 3, 4, dtype=torch.int64)
    codes[1, 2, 0] = -1
    with pytest.raises(ValueError, match=r"row 2, col 0\) of grid 1 is empty"):
        model.decode(codes)
    with pytest.raises(ValueError, match=r"is 999, but codes are 0\.\.255"):
        check_codes(torch.full((1, 1, 1), 999), 256)


def test_the_callers_tensors_stay(model: VQGAN) -> None:
    images, codes = torch.rand(1, 3, 20, 20), torch.randint(256, (1, 4, 4))
    before = images.clone(), codes.clone()
    model.encode(images)
    model.decode_tiled(codes, tile=2)
    assert torch.equal(images, before[0])
    assert torch.equal(codes, before[1])


def test_the_value_range_is_the_tokenizers_own_business() -> None:
    """A network that sees [0, 1] gives the same pictures and codes as the same network behind a rescaling by hand."""
    inner = shaken(TINY)
    outer = VQGAN(TINY.model_copy(update={"value_range": (0.0, 1.0)})).eval()
    outer.load_state_dict(inner.state_dict())
    images = torch.rand(1, 3, 32, 32) * 2 - 1
    codes = outer.encode(images)
    assert torch.equal(codes, inner.encode((images + 1) / 2))
    torch.testing.assert_close((outer.decode(codes) + 1) / 2, inner.decode(codes))


def test_training_reaches_every_weight() -> None:
    model = shaken(TINY).train()
    images, quantized = model(torch.rand(2, 3, 32, 32) * 2 - 1)
    (images.square().mean() + quantized.loss).backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"architecture": {"kind": "lean", "encoder_blocks": [1, 2]}},
        {"architecture": {"kind": "classic", "base_channels": 48}},
        {"architecture": {"kind": "classic", "channel_multipliers": []}},
        {"architecture": {"kind": "classic", "z_channels": 8}, "code_dim": 16},
        {"codebook_size": 1},
        {"codebook_size": 70_000},
        {"value_range": [1.0, 0.0]},
        {"codebok_size": 64},
    ],
)
def test_configurations_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        TokenizerConfig.model_validate(wrong)

"""The classic VQGAN as a network: sizes, switches, and tiles blended where every pixel sees the whole picture."""

from __future__ import annotations

import pytest
import torch

from smalti.tokenizer import OFFICIAL, VQGAN, ClassicArchitecture, TokenizerConfig
from smalti.tokenizer.tiling import decode_tiled


def small(**switches: object) -> TokenizerConfig:
    return TokenizerConfig(
        architecture=ClassicArchitecture.model_validate(
            {
                "base_channels": 16,
                "norm_groups": 8,
                "channel_multipliers": (1, 2),
                "res_blocks": 1,
                "attention_levels": (1,),
                "z_channels": 8,
                **switches,
            }
        ),
        quantizer="nearest",
        codebook_size=32,
        code_dim=8,
        value_range=(0.0, 1.0),
    )


def test_the_released_models_have_this_many_weights() -> None:
    """29.3 M in the encoder, 33.7 M in the decoder, a codebook of 1024 x 256."""
    with torch.device("meta"):
        model = VQGAN(OFFICIAL)
    assert model.cell == 16
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in model.named_children()}
    assert counts["encoder"] == 29_298_176
    assert counts["decoder"] == 33_722_755
    assert counts["quantizer"] == 1024 * 256


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"stem_channels": 32},
        {"mid_attention": False, "attention_levels": ()},
        {"final_activation": True, "quant_conv": True, "z_channels": 12, "extra_decoder_blocks": 1},
        {"logsigma_head": True},
    ],
)
def test_every_switch_builds_a_network_for_any_size(switches: dict[str, object]) -> None:
    torch.manual_seed(0)
    model = VQGAN(small(**switches)).eval()
    codes = model.encode(torch.rand(1, 3, 17, 30) * 2 - 1)
    assert codes.shape == (1, 9, 15)
    assert model.decode(codes).shape == (1, 3, 18, 30)


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"final_activation": True, "quant_conv": True, "z_channels": 12, "extra_decoder_blocks": 1},
        {"channel_multipliers": (1, 1, 2), "attention_levels": (2,)},
    ],
)
def test_no_seam_where_tiles_of_a_global_decoder_meet(switches: dict[str, object]) -> None:
    """With attention and group norms a tile is not the whole, and the error is not zero. It must not show the tiles:
    where they meet it is no steeper, from pixel to pixel, than anywhere else in the picture."""
    torch.manual_seed(0)
    model = VQGAN(small(**switches)).eval()
    with torch.no_grad():
        for weight in model.decoder.parameters():
            if weight.dim() > 1:
                weight *= 1.7  # random weights as they come make pictures without contrast
    codes = torch.randint(32, (1, 72, 72))
    whole, tiled = model.decode(codes), model.decode_tiled(codes, tile=40)
    halves = [model.decode(codes[:, :, left : left + 36]) for left in (0, 36)]
    # three windows of 40 cells, from 0, 16 and 32; without 8 cells of context they meet in cells 24..32 and 40..48
    c = model.cell
    meet = torch.zeros(72 * c - 1, dtype=torch.bool)
    for cell in (24, 40):
        meet[cell * c - 1 : (cell + 8) * c] = True

    def steepness(pictures: torch.Tensor, axis: int) -> torch.Tensor:
        return (pictures - whole).diff(dim=axis).abs().mean([d for d in range(4) if d != axis % 4])

    for axis in (-1, -2):
        slope = steepness(tiled, axis)
        assert slope[meet].mean() < 1.2 * slope[~meet].mean()
        assert slope[meet].max() < slope[~meet].max()
    laid = steepness(torch.cat(halves, -1), -1)
    assert laid[36 * c - 1] > 5 * laid.median()  # the measure sees a seam where there is one
    assert laid[36 * c - 1] > 3 * steepness(tiled, -1)[meet].max()
    assert (tiled - whole).abs().mean() < (torch.cat(halves, -1) - whole).abs().mean()


def test_blending_weights_add_up_to_one() -> None:
    """A decoder that ignores its surroundings comes out exactly, whatever the tiles."""

    def flat(codes: torch.Tensor) -> torch.Tensor:
        return codes[:, None].float().repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)

    codes = torch.randint(100, (2, 23, 37))
    for tile in (1, 2, 3, 5, 8, 16, 22, 30, 36):
        torch.testing.assert_close(decode_tiled(flat, codes, cell=2, halo=None, tile=tile), flat(codes))


def test_a_canvas_that_fits_is_decoded_in_one_piece() -> None:
    calls = []

    def decode(codes: torch.Tensor) -> torch.Tensor:
        calls.append(codes.shape)
        return torch.zeros(len(codes), 3, codes.shape[1], codes.shape[2])

    decode_tiled(decode, torch.zeros(1, 8, 8, dtype=torch.int64), cell=1, halo=2, tile=8)
    decode_tiled(decode, torch.zeros(1, 8, 40, dtype=torch.int64), cell=1, halo=2, tile=8)
    assert calls[0] == (1, 8, 8)
    assert len(calls) == 6
    assert max(shape[1] * shape[2] for shape in calls) <= 12 * 12
    calls.clear()
    decode_tiled(decode, torch.zeros(1, 50, 90, dtype=torch.int64), cell=1, halo=None, tile=40)
    assert set(calls) == {(1, 40, 40)}

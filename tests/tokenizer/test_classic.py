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


def test_blended_tiles_have_weaker_seams_than_tiles_laid_side_by_side() -> None:
    """With attention and group norms a tile is not the whole. The error must not jump where tiles meet."""
    torch.manual_seed(0)
    model = VQGAN(small()).eval()
    codes = torch.randint(32, (1, 24, 60))
    whole, blended = model.decode(codes), model.decode_tiled(codes, tile=20)
    assert blended.shape == whole.shape
    laid = torch.cat([model.decode(codes[:, :, left : left + 20]) for left in range(0, 60, 20)], dim=-1)

    def steepest(pictures: torch.Tensor) -> float:
        return float((pictures - whole).diff(dim=-1).abs().mean((0, 1, 2)).max())

    assert steepest(blended) < 0.6 * steepest(laid)


def test_blending_weights_add_up_to_one() -> None:
    """A decoder that ignores its surroundings comes out exactly, whatever the tiles."""

    def flat(codes: torch.Tensor) -> torch.Tensor:
        return codes[:, None].float().repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 3, -1, -1)

    codes = torch.randint(100, (2, 23, 37))
    for tile in (5, 8, 16, 30):
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

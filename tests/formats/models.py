"""Small models of random weights in the shapes that the original codebases can express, and files made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from smalti.prior import AbsorbingTransformer, PriorConfig
from smalti.tokenizer import VQGAN, ClassicArchitecture, LeanArchitecture, TokenizerConfig

Module = TypeVar("Module", bound=nn.Module)


def shaken(model: Module, seed: int = 0) -> Module:
    """No weight at its initial value, so that a tensor in the wrong place shows."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model.eval()


def unleashing_tokenizer(codebook_size: int = 24, *, quantizer: str = "nearest", **switches: object) -> VQGAN:
    arch = {"base_channels": 32, "channel_multipliers": (1, 2), "res_blocks": 1, "attention_levels": (1,)}
    torch.manual_seed(0)
    return shaken(
        VQGAN(
            TokenizerConfig(
                architecture=ClassicArchitecture.model_validate({**arch, "z_channels": 8, **switches}),
                quantizer=quantizer,  # type: ignore[arg-type]
                codebook_size=codebook_size,
                code_dim=8,
                value_range=(0.0, 1.0),
            )
        )
    )


def taming_tokenizer(*, quantizer: str = "nearest", **switches: object) -> VQGAN:
    arch = {
        "base_channels": 32,
        "channel_multipliers": (1, 1, 2),
        "res_blocks": 1,
        "extra_decoder_blocks": 1,
        "attention_levels": (1, 2),
        "final_activation": True,
        "quant_conv": True,
        "z_channels": 12,
    }
    torch.manual_seed(0)
    return shaken(
        VQGAN(
            TokenizerConfig(
                architecture=ClassicArchitecture.model_validate({**arch, **switches}),
                quantizer=quantizer,  # type: ignore[arg-type]
                codebook_size=24,
                code_dim=8,
            )
        )
    )


def official_prior(codebook_size: int = 24, *, height: int = 4, width: int = 4, heads: int = 8) -> AbsorbingTransformer:
    torch.manual_seed(1)
    return shaken(
        AbsorbingTransformer(
            PriorConfig(
                codebook_size=codebook_size,
                height=height,
                width=width,
                d_model=32,
                n_layers=2,
                n_heads=heads,
                position="learned",
                bias=True,
                initialisation="torch",
            )
        )
    )


def lean_tokenizer() -> VQGAN:
    lean = LeanArchitecture(
        encoder_channels=(8, 8), encoder_blocks=(1, 1), decoder_channels=(8, 8), decoder_blocks=(1, 1)
    )
    torch.manual_seed(0)
    return shaken(VQGAN(TokenizerConfig(architecture=lean, codebook_size=24, code_dim=4)))


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[name]) for name, value in ours.items())


def save(state: object, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    return path


def with_training_leftovers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """What a real VQGAN file of unleashing-transformers holds beside the network that is wanted."""
    return {
        **state,
        "disc.main.0.weight": torch.randn(8, 3, 4, 4),
        "disc.main.3.num_batches_tracked": torch.tensor(0),
        "perceptual.lin0.model.1.weight": torch.randn(1, 64, 1, 1),
    }

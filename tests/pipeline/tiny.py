"""A whole pipeline of random weights: small enough for a test, wrong about every picture, exact about every promise."""

from __future__ import annotations

import torch

from smalti.pipeline.pipeline import Pipeline
from smalti.prior import AbsorbingTransformer, PriorConfig
from smalti.sampling import SamplerOptions
from smalti.tokenizer import VQGAN, LeanArchitecture, TokenizerConfig

LEAN = LeanArchitecture(
    encoder_channels=(8, 8, 8), encoder_blocks=(1, 1, 1), decoder_channels=(8, 8, 8), decoder_blocks=(1, 1, 1)
)


def tiny_pipeline(seed: int = 0, classes: tuple[str, ...] = ()) -> Pipeline:
    torch.manual_seed(seed)
    tokenizer = VQGAN(TokenizerConfig(architecture=LEAN, codebook_size=32, code_dim=4))
    prior = AbsorbingTransformer(
        PriorConfig(
            codebook_size=32,
            height=8,
            width=8,
            d_model=16,
            n_layers=2,
            n_heads=1,
            position_optional=True,
            n_classes=len(classes),
        )
    )
    with torch.no_grad():
        for parameter in [*tokenizer.parameters(), *prior.parameters()]:
            parameter.add_(torch.randn_like(parameter) * 0.1)  # a new residual block is the identity
    options = SamplerOptions(num_inference_steps=4)
    info = {"classes": list(classes)} if classes else {}
    return Pipeline(tokenizer, prior, name="tiny", identity=f"{seed:064d}", sampler=options, info=info, dtype="float32")

"""How well a tokenizer restores pictures: while it learns, and for its card."""

from __future__ import annotations

import numpy as np
import torch

from smalti.data import Pictures, as_images
from smalti.tokenizer import VQGAN
from smalti.training.grids import interleave
from smalti.training.loop import arithmetic
from smalti.training.losses import psnr
from smalti.training.parallel import Precision
from smalti.training.runs import StageFolder


def validate(
    network: VQGAN, pictures: Pictures, count: int, precision: Precision, device: torch.device, batch: int = 16
) -> dict[str, float]:
    """PSNR of reconstructions of the first `count` pictures, and the share of codes that occur in them."""
    ratios, codes = [], []
    count = min(len(pictures), count)
    for start in range(0, count, batch):
        images = as_images(pictures.batch(np.arange(start, min(start + batch, count))), device)
        with torch.inference_mode(), arithmetic(precision, device):
            codes.append(network.encode(images))
            ratios.append(psnr(network.decode(codes[-1]), images))
    used = torch.unique(torch.cat(codes)).numel() / network.codebook_size
    return {"validation_psnr": float(torch.cat(ratios).mean()), "validation_codes_used": used}


def measure(network: VQGAN, pictures: Pictures, device: torch.device, most: int = 1000) -> dict[str, str]:
    """The tokenizer's numbers for the model card, in float32."""
    values, count = validate(network, pictures, most, "float32", device), min(len(pictures), most)
    return {
        "reconstruction PSNR": f"{values['validation_psnr']:.2f} dB on {count} validation pictures",
        "codes in use": f"{values['validation_codes_used']:.1%} on the same",
    }


def draw_reconstructions(
    stage: StageFolder, step: int, network: VQGAN, pictures: Pictures, device: torch.device, count: int = 8
) -> None:
    """Pictures beside what is left of them after encoding and decoding."""
    images = as_images(pictures.batch(np.arange(min(count, len(pictures)))), device)
    restored = network.decode(network.encode(images))
    stage.show(step, "reconstructions", interleave(images.cpu(), restored.cpu()))

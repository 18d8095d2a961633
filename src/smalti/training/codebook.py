"""The codebook's start: k-means on what the encoder says about the first pictures."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.data import Pictures, as_images
from smalti.tokenizer import VQGAN
from smalti.tokenizer.quantizer import CosineQuantizer, NearestQuantizer, channels_last

VECTORS_PER_CODE = 10
"""Vectors that k-means sees per code, if there are as many."""
_CHUNK = 4096  # vectors whose distances to all codes are in memory at once


def start_from_features(network: VQGAN, pictures: Pictures, device: torch.device, *, seed: int, batch: int) -> int:
    """Put the codes of `network` at the centres of its encoder's features of the first pictures; returns how many.

    Fewer vectors than codes leave the other codes where they are. Raises TypeError for a Gumbel quantiser, whose codes
    do not live among the features.
    """
    quantizer = network.quantizer
    if not isinstance(quantizer, NearestQuantizer | CosineQuantizer):
        raise TypeError("a Gumbel quantiser has no codes among the features")
    wanted = VECTORS_PER_CODE * network.codebook_size
    found: list[Tensor] = []
    for start in range(0, len(pictures), batch):
        images = as_images(pictures.batch(np.arange(start, min(start + batch, len(pictures)))), device)
        with torch.no_grad():
            found.append(channels_last(network.features(images)).flatten(0, 2).float())
        if sum(map(len, found)) >= wanted:
            break
    vectors = torch.cat(found)
    on_sphere = isinstance(quantizer, CosineQuantizer)
    generator = torch.Generator().manual_seed(seed)
    centres = kmeans(F.normalize(vectors, dim=1) if on_sphere else vectors, network.codebook_size, generator)
    quantizer.place(torch.arange(len(centres), device=device), centres)
    return len(centres)


def kmeans(vectors: Tensor, k: int, generator: torch.Generator, *, rounds: int = 20) -> Tensor:
    """Centres `(min(k, m), d)` of vectors `(m, d)`: Lloyd's algorithm (1957), from `k` of them drawn at random.

    A centre that loses all its vectors stays where it was.
    """
    pick = torch.randperm(len(vectors), generator=generator)[:k].to(vectors.device)
    centres = vectors[pick].clone()
    for _ in range(rounds):
        nearest = torch.cat([torch.cdist(part, centres).argmin(1) for part in torch.split(vectors, _CHUNK)])  # (m,)
        sums = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        counts = torch.bincount(nearest, minlength=len(centres))[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
    return centres

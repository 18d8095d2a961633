"""Feature vectors to codes and codes to vectors. Codes are looked up by index, never through one-hot products.

Three leaves behind one shape: `forward(z) -> Quantized` for training, `indices(z)` and `lookup(codes)` for use.
`z` is `(n, d, h, w)`, codes are int64 `(n, h, w)` in `0..K-1`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.types import Codes


class Quantized(NamedTuple):
    """What a quantiser gives the training loop."""

    vectors: Tensor
    """`(n, code_dim, h, w)`: the decoder's input, with a gradient path to the encoder."""
    codes: Codes
    loss: Tensor
    """Scalar: pulls encoder and codebook together (or the KL term, for Gumbel)."""


def channels_last(z: Tensor) -> Tensor:
    """`(n, d, h, w)` -> `(n, h, w, d)`."""
    return z.permute(0, 2, 3, 1)


def channels_first(z: Tensor) -> Tensor:
    """`(n, h, w, d)` -> `(n, d, h, w)`."""
    return z.permute(0, 3, 1, 2)


class NearestQuantizer(nn.Module):
    """Euclidean nearest code (van den Oord et al. 2017), in the form of taming-transformers.

    Squared distances come from |z|^2 + |e|^2 - 2 z.e; ties go to the lowest index. `legacy_beta` weights the
    codebook term, as both original codebases do by accident, instead of the commitment term.
    """

    def __init__(self, codebook_size: int, code_dim: int, *, beta: float = 0.25, legacy_beta: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, code_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)
        self.beta, self.legacy_beta = beta, legacy_beta

    def distances(self, z: Tensor) -> Tensor:
        """`(n, h, w, K)` squared distances."""
        flat = channels_last(z).reshape(-1, z.shape[1])
        e = self.embedding.weight
        d = flat.square().sum(1, keepdim=True) + e.square().sum(1) - 2 * flat @ e.t()
        return d.view(z.shape[0], *z.shape[2:], -1)

    def indices(self, z: Tensor) -> Codes:
        return self.distances(z).argmin(-1)

    def lookup(self, codes: Codes) -> Tensor:
        return channels_first(self.embedding(codes))

    def forward(self, z: Tensor) -> Quantized:
        codes = self.indices(z)
        q = self.lookup(codes)
        to_encoder, to_codebook = F.mse_loss(q.detach(), z), F.mse_loss(q, z.detach())
        commitment, codebook = (1.0, self.beta) if self.legacy_beta else (self.beta, 1.0)
        return Quantized(z + (q - z).detach(), codes, commitment * to_encoder + codebook * to_codebook)

    @torch.no_grad()
    def place(self, where: Tensor, vectors: Tensor) -> None:
        """Put the codes `where` (int64 `(m,)`) at `vectors` `(m, d)`."""
        self.embedding.weight[where] = vectors.to(self.embedding.weight.dtype)


class GumbelQuantizer(nn.Module):
    """Codes as categorical logits, relaxed by Gumbel noise in training (Jang et al. 2017).

    `temperature` is annealed by the training loop. `indices` is the deterministic choice, argmax of the logits.
    """

    def __init__(self, channels: int, codebook_size: int, code_dim: int, *, kl_weight: float = 5e-4) -> None:
        super().__init__()
        self.proj = nn.Conv2d(channels, codebook_size, 1)
        self.embed = nn.Embedding(codebook_size, code_dim)
        self.temperature, self.kl_weight = 1.0, kl_weight

    def indices(self, z: Tensor) -> Codes:
        return self.proj(z).argmax(1)  # type: ignore[no-any-return]

    def lookup(self, codes: Codes) -> Tensor:
        return channels_first(self.embed(codes))

    def forward(self, z: Tensor, noise: Tensor | None = None, *, hard: bool | None = None) -> Quantized:
        """`noise` are Gumbel draws of the logits' shape; `hard` defaults to True in evaluation, False in training."""
        logits = self.proj(z)  # n K h w
        if noise is None:
            noise = -torch.empty_like(logits).exponential_().log()
        soft = F.softmax((logits + noise) / self.temperature, dim=1)
        codes = soft.argmax(1)
        if hard if hard is not None else not self.training:
            vectors = self.lookup(codes)
        else:
            vectors = torch.einsum("nkhw,kd->ndhw", soft, self.embed.weight)
        q = F.softmax(logits, dim=1)
        kl = (q * torch.log(q * logits.shape[1] + 1e-10)).sum(1).mean()
        return Quantized(vectors, codes, self.kl_weight * kl)


class CosineQuantizer(nn.Module):
    """Codes on the unit sphere (ViT-VQGAN, Yu et al. 2022) that move together through one learned linear layer
    (SimVQ, Zhu et al. 2024), so that codes nobody chose follow those in use; `revive` resets the rest.
    """

    basis: Tensor

    def __init__(self, codebook_size: int, code_dim: int, *, beta: float = 0.25) -> None:
        super().__init__()
        self.register_buffer("basis", nn.init.normal_(torch.empty(codebook_size, code_dim), std=code_dim**-0.5))
        self.mix = nn.Linear(code_dim, code_dim, bias=False)
        with torch.no_grad():
            self.mix.weight.zero_().fill_diagonal_(1.0)
        self.beta = beta

    @property
    def codebook(self) -> Tensor:
        """`(K, d)` unit vectors."""
        return F.normalize(self.mix(self.basis).float(), dim=-1)

    def indices(self, z: Tensor) -> Codes:
        flat = F.normalize(channels_last(z).float(), dim=-1)
        return (flat @ self.codebook.t()).argmax(-1)

    def lookup(self, codes: Codes) -> Tensor:
        return channels_first(F.embedding(codes, self.codebook))

    def forward(self, z: Tensor) -> Quantized:
        unit = F.normalize(z.float(), dim=1)
        codes = self.indices(z.detach())
        q = self.lookup(codes)
        # on the sphere |q - z|^2 = 2 - 2 q.z; summed over d so that the weight does not depend on code_dim
        to_codebook = (q - unit.detach()).square().sum(1).mean()
        to_encoder = (q.detach() - unit).square().sum(1).mean()
        return Quantized(unit + (q - unit).detach(), codes, to_codebook + self.beta * to_encoder)

    @torch.no_grad()
    def place(self, where: Tensor, vectors: Tensor) -> None:
        """Put the codes `where` (int64 `(m,)`) at the directions of `vectors` `(m, d)`."""
        unit = F.normalize(vectors.double(), dim=-1)
        # basis rows are seen through `mix`: solve mix(b) = v for b. In float64: LAPACK's float32 solutions depend on
        # where its memory happens to lie, and a resumed run has to be the same to the bit
        solution = torch.linalg.lstsq(self.mix.weight.double(), unit.t()).solution
        self.basis[where] = solution.t().to(self.basis.dtype)


Quantizer = NearestQuantizer | GumbelQuantizer | CosineQuantizer


@torch.no_grad()
def revive(
    quantizer: NearestQuantizer | CosineQuantizer, dead: Tensor, z: Tensor, generator: torch.Generator | None = None
) -> int:
    """Move the codes in `dead` (bool `(K,)`) onto random vectors of `z` `(n, d, h, w)`; returns how many."""
    where = dead.nonzero().squeeze(1)
    flat = channels_last(z).reshape(-1, z.shape[1]).float()
    count = min(len(where), len(flat))
    pick = torch.randperm(len(flat), generator=generator)[:count].to(flat.device)
    quantizer.place(where[:count], flat[pick])
    return count

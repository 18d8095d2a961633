"""Imported weights sampled by our engine and by the paper's loop, written out plainly: the same statistics.

Two samples of each token's distribution are compared by a chi-square test of homogeneity; all seeds are fixed.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from formats.models import official_prior, unleashing_tokenizer
from smalti.formats import export_unleashing, import_checkpoint
from smalti.prior import AbsorbingTransformer
from smalti.sampling import SamplerOptions, fill
from smalti.types import EMPTY


@torch.no_grad()
def papers_samples(prior: AbsorbingTransformer, n: int, steps: int, seed: int) -> Tensor:
    """Bond-Taylor et al. (2022), algorithm 2: at t = steps..1 each masked token is revealed with probability 1/t."""
    generator = torch.Generator().manual_seed(seed)
    height, width = prior.window
    x = torch.full((n, height, width), EMPTY)
    for t in range(steps, 0, -1):
        reveal = (torch.rand(x.shape, generator=generator) < 1 / t) & (x == EMPTY)
        probabilities = prior(x).softmax(-1).flatten(0, 1)
        drawn = torch.multinomial(probabilities, 1, generator=generator).view(x.shape)
        x = torch.where(reveal, drawn, x)
    return x


def our_samples(prior: AbsorbingTransformer, n: int, steps: int) -> Tensor:
    empty = torch.full((n, *prior.window), EMPTY)
    return fill(prior, empty, seeds=range(n), options=SamplerOptions(order="ancestral", num_inference_steps=steps))


def p_value(a: Tensor, b: Tensor, size: int) -> float:
    """Chi-square test that two samples of integers in 0..size-1 have one distribution; rare values are pooled."""
    counts = np.stack([np.bincount(x.flatten().numpy(), minlength=size) for x in (a, b)])
    order = np.argsort(-counts.sum(0))
    counts = counts[:, order]
    often = int((counts.sum(0) >= 20).sum())
    pooled = np.concatenate([counts[:, :often], counts[:, often:].sum(1, keepdims=True)], axis=1)
    pooled = pooled[:, pooled.sum(0) > 0]
    return float(stats.chi2_contingency(pooled).pvalue)


def test_every_token_and_every_pair_has_the_papers_distribution(tmp_path: Path) -> None:
    """2x2 cells of 3 codes: per token, and for the whole grid, of which there are 81."""
    prior = official_prior(3, height=2, width=2)
    with torch.no_grad():  # larger, so that cells depend on each other
        for block in prior.blocks:
            block.attention.value.weight.mul_(3)  # type: ignore[union-attr, operator]
            block.attention.output.weight.mul_(3)  # type: ignore[union-attr, operator]
        for weight in (prior.token_embedding.weight, prior.head.weight):  # type: ignore[union-attr]
            weight.mul_(2.5)
    export_unleashing(unleashing_tokenizer(3), prior, tmp_path)
    imported = import_checkpoint(tmp_path).prior
    assert imported is not None
    ours, papers = our_samples(imported, 1000, 6), papers_samples(imported, 4000, 6, seed=1)
    for row in range(2):
        for col in range(2):
            assert p_value(ours[:, row, col], papers[:, row, col], 3) > 1e-3
    place = torch.tensor([[27, 9], [3, 1]])
    assert p_value((ours * place).sum((1, 2)), (papers * place).sum((1, 2)), 81) > 1e-3
    # the test can tell: independent draws with the right marginals fail it
    shuffled = ours.clone()
    shuffled[:, 0, 0] = ours[:, 0, 0].roll(1)
    assert p_value((shuffled * place).sum((1, 2)), (papers * place).sum((1, 2)), 81) < 1e-3


def test_the_originals_sampler(originals: Path) -> None:
    """The recorded network: codes of all 64 cells, and how surprising the samples are to the network itself."""
    prior = import_checkpoint(originals / "unleashing" / "logs" / "vqgan_tiny", heads=4).prior
    assert prior is not None
    ours, papers = our_samples(prior, 96, 12), papers_samples(prior, 96, 12, seed=2)
    for row, col in ((0, 0), (3, 4), (7, 7)):
        assert p_value(ours[:, row, col], papers[:, row, col], 64) > 1e-3
    assert p_value(ours, papers, 64) > 1e-3

    @torch.no_grad()
    def surprise(codes: Tensor) -> Tensor:
        hidden = codes.clone()
        hidden[:, ::2, ::2] = EMPTY
        logp = prior(hidden).log_softmax(-1).gather(-1, codes.flatten(1)[..., None])[..., 0]
        return -logp.view(codes.shape)[:, ::2, ::2].mean((1, 2))

    assert stats.ttest_ind(surprise(ours).numpy(), surprise(papers).numpy()).pvalue > 1e-3

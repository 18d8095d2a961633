"""Which codes belong together: the absorbing-diffusion Transformer, its masks and its objectives.

Given a window of codes with some cells empty, it says how likely each code is at chosen empty cells. It does not know
in which order cells are filled, what a canvas larger than its window is, how codes become pixels, where weights are
stored, or how a training run is organised.
"""

from __future__ import annotations

from smalti.prior.config import SIZES, PriorConfig, named_size
from smalti.prior.kernels import InferenceDenoiser, fastest_dtype, optimize_for_inference
from smalti.prior.masking import Noised, RatioLaw, exact_masks, hide, mask_counts, q_sample, q_sample_fixed, quantile
from smalti.prior.objectives import (
    LossTerms,
    Masked,
    ObjectiveOptions,
    bits_per_dimension,
    draw_masks,
    masked_loss,
    paper_elbo,
    paper_loss,
    stratified_elbo,
    token_bits_per_dimension,
    training_loss,
)
from smalti.prior.transformer import AbsorbingTransformer

__all__ = [
    "AbsorbingTransformer",
    "PriorConfig",
    "SIZES",
    "named_size",
    "InferenceDenoiser",
    "optimize_for_inference",
    "fastest_dtype",
    "LossTerms",
    "ObjectiveOptions",
    "training_loss",
    "Masked",
    "draw_masks",
    "masked_loss",
    "paper_loss",
    "paper_elbo",
    "stratified_elbo",
    "bits_per_dimension",
    "token_bits_per_dimension",
    "Noised",
    "RatioLaw",
    "exact_masks",
    "hide",
    "mask_counts",
    "q_sample",
    "q_sample_fixed",
    "quantile",
]

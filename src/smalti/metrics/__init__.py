"""Numbers with their protocol: how good reconstructions, likelihoods and samples are, and under which conditions.

It knows models, codes, pictures and features; no verbs, no training, no terminal. The name of a number carries the
label of its features (`fd_enl0`); only those made from FID's Inception, whose weights the user brings, are called FID
(`fid_clean`, `fid_tf`).
"""

from __future__ import annotations

from smalti.metrics.card import markdown, to_json
from smalti.metrics.evaluate import METRICS, Entry, Number, Report, evaluate
from smalti.metrics.features import (
    EXTRACTORS,
    EfficientNetFeatures,
    Extractor,
    InceptionFeatures,
    ModuleFeatures,
    extractor,
    features_of,
)
from smalti.metrics.frechet import Moments, frechet_distance, moments
from smalti.metrics.kernel import KernelDistance, kernel_distance
from smalti.metrics.likelihood import Bits, Likelihood, likelihood
from smalti.metrics.neighbours import Neighbours, nearest
from smalti.metrics.prdc import PRDC, prdc
from smalti.metrics.reconstruction import CodebookUse, codebook_use, perceptual_distance, psnr, ssim
from smalti.metrics.subject import Settings, Subject

__all__ = [
    "EXTRACTORS",
    "METRICS",
    "PRDC",
    "Bits",
    "CodebookUse",
    "EfficientNetFeatures",
    "Entry",
    "Extractor",
    "InceptionFeatures",
    "KernelDistance",
    "Likelihood",
    "ModuleFeatures",
    "Moments",
    "Neighbours",
    "Number",
    "Report",
    "Settings",
    "Subject",
    "codebook_use",
    "evaluate",
    "extractor",
    "features_of",
    "frechet_distance",
    "kernel_distance",
    "likelihood",
    "markdown",
    "moments",
    "nearest",
    "perceptual_distance",
    "prdc",
    "psnr",
    "ssim",
    "to_json",
]

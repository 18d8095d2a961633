"""Several metrics of one model on one set of pictures, each with the conditions under which it was measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from typing import Any

from torch import Tensor

from smalti import __version__
from smalti.data import Pictures
from smalti.errors import ModelError, UsageError
from smalti.metrics.features import Extractor, frechet_name
from smalti.metrics.frechet import frechet_distance, moments
from smalti.metrics.kernel import kernel_distance
from smalti.metrics.likelihood import Bits, likelihood
from smalti.metrics.neighbours import nearest
from smalti.metrics.prdc import prdc
from smalti.metrics.reconstruction import codebook_use, perceptual_distance, psnr, ssim
from smalti.metrics.subject import BATCH, Progress, Settings, Subject, Tokenizer
from smalti.sampling import Denoiser, SamplerOptions

CLOSEST = 5
"""Pairs of made and training pictures that are named."""


@dataclass(frozen=True)
class Number:
    """One result."""

    value: float
    standard_error: float | None = None
    interval: tuple[float, float] | None = None
    """95 % confidence."""
    unit: str = ""
    better: str = ""
    """higher, lower, or nothing where neither is."""


@dataclass(frozen=True)
class Entry:
    """What one metric found, and how."""

    numbers: dict[str, Number]
    protocol: dict[str, Any]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Report:
    """An evaluation: enough to be repeated, and to know what it may be compared with."""

    model: str
    identity: str | None
    """sha256 of the tokenizer."""
    data: str
    data_sha256: str
    pictures: int
    """n, of the data and of what was made."""
    size: tuple[int, int]
    """(height, width) in pixels."""
    seed: int
    sampler: dict[str, Any]
    smalti_version: str
    metrics: dict[str, Entry]
    conditions: dict[str, str] = field(default_factory=dict)
    """What else the caller knows to matter: device, number format."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers; what is not finite becomes null."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def reconstruction(subject: Subject) -> Entry:
    """PSNR, SSIM and perceptual distance of decode(encode(picture)), and the use of the codebook."""
    real, restored = subject.real, subject.restored
    parts = [slice(i, i + BATCH) for i in range(0, len(real), BATCH)]
    numbers = {
        "psnr": _mean([psnr(real[p], restored[p]) for p in parts], "dB", "higher"),
        "ssim": _mean([ssim(real[p], restored[p]) for p in parts], "", "higher"),
    }
    protocol = {
        "pictures": len(real),
        "psnr": "8 bits, RGB, peak 255; mean over pictures",
        "ssim": "Gaussian 11x11, sigma 1.5, valid windows, per RGB channel; mean over pictures",
    }
    try:
        net = subject.perceptual_net
    except UsageError as error:
        protocol["perceptual"] = f"left out: {error}"
    else:
        found = [perceptual_distance(net, real[p], restored[p]) for p in parts]
        numbers["perceptual_enl0"] = _mean(found, "", "lower")
        protocol["perceptual"] = (
            "squared distance of unit features of EfficientNet-Lite0 at strides 4, 8, 16, no resize; not LPIPS"
        )
    use = codebook_use(subject.codes, subject.tokenizer.codebook_size)
    numbers["codebook_usage"] = Number(use.usage, better="higher")
    numbers["codebook_perplexity"] = Number(use.perplexity, unit="codes", better="higher")
    protocol["codebook"] = f"{subject.tokenizer.codebook_size} codes, {subject.codes.numel()} cells"
    return Entry(numbers, protocol)


def bits(subject: Subject) -> Entry:
    """Bound and exact K-step bits per token of the codes of the data."""
    settings, height_width = subject.settings, subject.real.shape[1:3]
    found = likelihood(
        subject.denoiser,
        subject.codes,
        values_per_grid=3 * math.prod(height_width),
        steps=settings.steps,
        strata=settings.strata,
        options=subject.options,
        seed=settings.seed,
        report=lambda done: subject.progress("likelihood", done),
    )
    numbers = {
        "elbo": _bits(found.elbo),
        "elbo_bits_per_dim": Number(found.bits_per_dim, unit="bits per colour value", better="lower"),
        **{f"exact_{s}_steps": _bits(b) for s, b in found.exact.items()},
    }
    protocol = {
        "pictures": len(subject.codes),
        "grid": "x".join(str(side) for side in subject.codes.shape[1:]),
        "elbo": f"upper bound on -log2 p per cell, {settings.strata} stratified masks per picture",
        "exact": f"-log2 q per cell of a fill in S steps, order {found.options.order}, schedule "
        f"{found.options.schedule}, temperature 1",
        "bits_per_dim": "codes only: what the tokenizer loses is not counted",
    }
    return Entry(numbers, protocol)


def frechet(subject: Subject) -> Entry:
    """Fréchet distance of features of what is made, and of reconstructions, to the data."""
    name, real = frechet_name(subject.extractor), moments(subject.real_features)
    numbers = {}
    if subject.has_prior:
        numbers[name] = Number(frechet_distance(real, moments(subject.made_features)), better="lower")
    numbers[f"{name}_reconstruction"] = Number(
        frechet_distance(real, moments(subject.restored_features)), better="lower"
    )
    note = "biased upwards by about c/n: compare equal n only" + ("" if name.startswith("fid_") else "; not FID")
    return Entry(numbers, _sets(subject) | {"covariance": "float64, over n - 1", "note": note})


def kid(subject: Subject) -> Entry:
    """Kernel distance between features of what is made and of the data."""
    found = kernel_distance(subject.real_features, subject.made_features, seed=subject.settings.seed)
    number = Number(found.value, found.standard_error, (found.low, found.high), better="lower")
    protocol = {
        "kernel": "(x.y/d + 1)^3, U-statistic over all pairs",
        "interval": "95 %, bootstrap over at most 50 blocks of pictures",
    }
    return Entry({f"kid_{subject.extractor.name}": number}, _sets(subject) | protocol)


def manifold(subject: Subject) -> Entry:
    """Precision, recall, density and coverage."""
    found = prdc(subject.real_features, subject.made_features, subject.settings.k)
    numbers = {
        f"{name}_{subject.extractor.name}": Number(getattr(found, name), better="higher")
        for name in ("precision", "recall", "density", "coverage")
    }
    return Entry(numbers, _sets(subject) | {"k": found.k, "radii": "to the k-th neighbour, the picture not counted"})


def neighbours(subject: Subject) -> Entry:
    """How near made pictures come to training pictures, against how near unseen real pictures come."""
    train = subject.train_features
    references = subject.real_features if train is None else train
    made = nearest(subject.made_features, references)
    if train is None:
        real = nearest(references, references, 2).distances[:, 1]  # the nearest is the picture itself
    else:
        real = nearest(subject.real_features, references).distances[:, 0]
    label = subject.extractor.name
    distances = made.distances[:, 0]
    closer = float((distances < real.median()).double().mean())
    numbers = {
        f"nearest_{label}_median": Number(float(distances.median())),
        f"nearest_{label}_least": Number(float(distances.min())),
        f"nearest_{label}_median_of_real": Number(float(real.median())),
        "closer_than_half_of_real": Number(closer),
    }
    protocol = _sets(subject) | {
        "references": f"{len(references)} pictures: "
        + ("the data itself, leaving each out; says nothing of memory, give --train" if train is None else "--train"),
        "closest": "the nearest pairs: seed of the made picture, number of the reference in its set, from 0",
        "closer_than_half_of_real": "share of made pictures nearer to a reference than the median real picture: 0.5 if "
        "made pictures are like unseen ones, 1 if they are copies",
    }
    order = distances.argsort(stable=True)[:CLOSEST].tolist()
    closest = [
        {"seed": subject.settings.seed + i, "reference": int(made.indices[i, 0]), "distance": float(distances[i])}
        for i in order
    ]
    return Entry(numbers, protocol, {"closest": closest})


METRICS: dict[str, Callable[[Subject], Entry]] = {
    "reconstruction": reconstruction,
    "likelihood": bits,
    "frechet": frechet,
    "kid": kid,
    "prdc": manifold,
    "neighbours": neighbours,
}
"""By the name that `--metrics` takes. A new metric: a function here, its arithmetic in a file of its own."""
OF_TOKENIZERS = ("reconstruction", "frechet")
"""Those that need no prior."""
OF_FEATURES = ("frechet", "kid", "prdc", "neighbours")
"""Those that compare features."""


def evaluate(
    tokenizer: Tokenizer,
    denoiser: Denoiser | None,
    pictures: Pictures,
    *,
    metrics: Sequence[str] | None = None,
    settings: Settings | None = None,
    options: SamplerOptions | None = None,
    features: Extractor | str = "enl0",
    train: Pictures | None = None,
    model: str = "unnamed",
    identity: str | None = None,
    data: str = "unnamed",
    conditions: Mapping[str, str] | None = None,
    progress: Progress = lambda what, done: None,
) -> Report:
    """Measure a model on pictures that it was not trained on; `train` are those that it was trained on.

    `metrics`: names of `METRICS`, default all that the model allows. `model`, `identity`, `data` and `conditions` go
    into the report and nowhere else. Deterministic on one machine. Raises UsageError for unknown names, too few
    pictures and a k or n that do not fit, ModelError for a metric that needs a prior the model does not have.
    """
    settings, options = settings or Settings(), options or SamplerOptions()
    names = list(metrics) if metrics is not None else list(METRICS if denoiser is not None else OF_TOKENIZERS)
    _check(names, denoiser, pictures, settings)
    subject = Subject(
        tokenizer,
        denoiser,
        pictures,
        settings=settings,
        options=options,
        features=features,
        train=train,
        progress=progress,
    )
    if set(names) & set(OF_FEATURES):
        _ = subject.extractor  # missing weights are known now, not after an hour
    entries = {name: METRICS[name](subject) for name in names}
    return Report(
        model=model,
        identity=identity,
        data=data,
        data_sha256=pictures.fingerprint,
        pictures=subject.n,
        size=pictures.size,
        seed=settings.seed,
        sampler=options.model_dump(mode="json", exclude_none=True),
        smalti_version=__version__,
        metrics=entries,
        conditions=dict(conditions or {}),
    )


def _check(names: Sequence[str], denoiser: Denoiser | None, pictures: Pictures, settings: Settings) -> None:
    """Everything that can be known to be wrong before hours of work."""
    if not names:
        raise UsageError(f"name at least one metric: {', '.join(METRICS)}", field="metrics")
    for name in names:
        if name not in METRICS:
            near = get_close_matches(name, METRICS, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(METRICS)}"
            raise UsageError(f"no metric is called {name!r}; {hint}", field="metrics")
        if denoiser is None and name not in OF_TOKENIZERS:
            raise ModelError(f"{name} needs a prior, this model is a tokenizer only; use {', '.join(OF_TOKENIZERS)}")
    n = min(settings.n, len(pictures))
    least = {"frechet": 2, "kid": 4, "prdc": settings.k + 1, "neighbours": 2}
    for name in names:
        if n < least.get(name, 1):
            raise UsageError(f"{name} needs at least {least[name]} pictures, not {n}", field="n")
    if settings.k < 1 or any(s < 1 for s in settings.steps) or settings.strata < 1:
        raise UsageError("k, steps and strata must be at least 1", field="k" if settings.k < 1 else "steps")


def _sets(subject: Subject) -> dict[str, Any]:
    return {
        "features": f"{subject.extractor.name}: {subject.extractor.protocol}",
        "real": subject.n,
        "made": subject.n,
        "reference": "the data, read from 8 bits; made pictures rounded to 8 bits",
    }


def _mean(parts: Sequence[Tensor], unit: str, better: str) -> Number:
    found = Bits.of(_joined(parts))
    return Number(found.mean, found.standard_error, unit=unit, better=better)


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].new_tensor([value for part in parts for value in part.tolist()])


def _bits(found: Bits) -> Number:
    return Number(found.mean, found.standard_error, unit="bits per token", better="lower")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value

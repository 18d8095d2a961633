"""What is measured: pictures, their codes, what comes back from the codes, what is made, and features of all these.

Each part is made once, when a metric first asks for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from smalti.data import Pictures, as_images
from smalti.errors import ModelError
from smalti.metrics.efficientnet import EfficientNetLite0, pretrained
from smalti.metrics.features import Extractor, Pixels, extractor, features_of
from smalti.metrics.likelihood import STEPS, STRATA
from smalti.randomness import Purpose, permutation
from smalti.sampling import Denoiser, SamplerOptions, fill
from smalti.types import EMPTY, Codes, Images

BATCH = 16
"""Pictures worked on together; bounds the memory, changes no result."""
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done, 0..1."""


class Tokenizer(Protocol):
    """What is used of `smalti.tokenizer.VQGAN`."""

    @property
    def cell(self) -> int: ...
    @property
    def codebook_size(self) -> int: ...
    @property
    def device(self) -> torch.device: ...
    def encode(self, images: Images) -> Codes: ...
    def decode(self, codes: Codes) -> Images: ...


@dataclass(frozen=True)
class Settings:
    """The conditions of an evaluation."""

    n: int = 1000
    """Pictures taken from the data, and pictures made; fewer if the data has fewer."""
    seed: int = 0
    """Chooses the pictures of the data; made picture i uses seed + i."""
    k: int = 3
    """Neighbour that sets the radii of precision, recall, density and coverage."""
    steps: tuple[int, ...] = STEPS
    """Numbers of steps whose exact bits per token are computed."""
    strata: int = STRATA
    """Masks per picture in the estimate of the bound."""


class Subject:
    """A model, the pictures it is measured on, and everything derived from the two."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        denoiser: Denoiser | None,
        pictures: Pictures,
        *,
        settings: Settings,
        options: SamplerOptions,
        features: Extractor | str,
        train: Pictures | None = None,
        progress: Progress = lambda what, done: None,
    ) -> None:
        self.tokenizer, self.settings, self.options = tokenizer, settings, options
        self._denoiser, self._pictures, self.train = denoiser, pictures, train
        self._features, self.progress = features, progress
        self.n = min(settings.n, len(pictures))

    @property
    def has_prior(self) -> bool:
        """Whether the model can make pictures, or only encode and decode them."""
        return self._denoiser is not None

    @property
    def denoiser(self) -> Denoiser:
        """The prior. Raises ModelError for a tokenizer-only model."""
        if self._denoiser is None:
            raise ModelError("this model is a tokenizer only: only its reconstruction can be measured")
        return self._denoiser

    @cached_property
    def real(self) -> Pixels:
        """The n pictures of the data, in its sequence."""
        chosen = np.sort(permutation(self.settings.seed, Purpose.CHOOSE, len(self._pictures))[: self.n])
        return self._pictures.batch(chosen)

    @cached_property
    def codes(self) -> Codes:
        """Of the real pictures, `(n, h, w)`."""
        parts = [
            self.tokenizer.encode(as_images(self.real[part], self.tokenizer.device)).cpu()
            for part in self._batches("encoding", self.n)
        ]
        return torch.cat(parts)

    @cached_property
    def restored(self) -> Pixels:
        """The real pictures, encoded and decoded."""
        return self._decoded("decoding", self.codes)

    @cached_property
    def made(self) -> Pixels:
        """n pictures from the model, with its sampler."""
        height, width = self.codes.shape[1:]
        parts = []
        for part in self._batches("making pictures", self.n):
            seeds = [self.settings.seed + i for i in range(self.n)[part]]
            empty = torch.full((len(seeds), height, width), EMPTY)
            parts.append(fill(self.denoiser, empty, seeds=seeds, options=self.options))
        return self._decoded("decoding made pictures", torch.cat(parts))

    @cached_property
    def extractor(self) -> Extractor:
        """What pictures are compared by."""
        given = self._features
        return extractor(given, self.tokenizer.device) if isinstance(given, str) else given

    @cached_property
    def real_features(self) -> Tensor:
        """float64 `(n, d)`."""
        return self._features_of("features of the data", self.real)

    @cached_property
    def restored_features(self) -> Tensor:
        """float64 `(n, d)`."""
        return self._features_of("features of reconstructions", self.restored)

    @cached_property
    def made_features(self) -> Tensor:
        """float64 `(n, d)`."""
        return self._features_of("features of made pictures", self.made)

    @cached_property
    def train_features(self) -> Tensor | None:
        """float64 `(m, d)` of all training pictures, if they were given."""
        train = self.train
        if train is None:
            return None
        parts = self._batches("features of training pictures", len(train))
        return features_of((train.batch(np.arange(len(train))[part]) for part in parts), self.extractor)

    @cached_property
    def perceptual_net(self) -> EfficientNetLite0:
        """Raises UsageError if its weights are not installed."""
        return pretrained().to(self.tokenizer.device)

    def _features_of(self, what: str, pixels: Pixels) -> Tensor:
        return features_of((pixels[part] for part in self._batches(what, len(pixels))), self.extractor)

    def _decoded(self, what: str, codes: Codes) -> Pixels:
        height, width = self._pictures.size
        parts = [
            as_pixels(self.tokenizer.decode(codes[part]))[:, :height, :width]
            for part in self._batches(what, len(codes))
        ]
        return np.concatenate(parts)

    def _batches(self, what: str, count: int) -> Iterator[slice]:
        for first in range(0, count, BATCH):
            self.progress(what, first / count)
            yield slice(first, min(first + BATCH, count))
        self.progress(what, 1.0)


def as_pixels(images: Images) -> Pixels:
    """Images `(n, 3, H, W)` in [-1, 1] as a viewer sees them: uint8 `(n, H, W, 3)`, clamped, halves round up."""
    bytes_ = ((images.detach().float().cpu() + 1) * 127.5 + 0.5).floor().clamp(0, 255).to(torch.uint8)
    return bytes_.permute(0, 2, 3, 1).contiguous().numpy()

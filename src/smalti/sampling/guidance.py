"""Guidance: two opinions of the same cells become one, which exaggerates what the better one knows more.

    l = l_weak + (1 + w) (l_strong - l_weak)        log-probabilities, so p ~ p_weak (p_strong / p_weak)^(1 + w)

Classifier-free guidance (Ho & Salimans, arXiv 2207.12598): strong knows the class, weak is the same network without it.
Autoguidance (Karras et al., arXiv 2406.02507): weak is a smaller network, or an earlier state of the same one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, final

import numpy as np
import torch
from torch import Tensor

from smalti.errors import UsageError
from smalti.sampling.denoiser import Denoiser
from smalti.sampling.options import SamplerOptions
from smalti.sampling.windows import Floats, Size
from smalti.types import EMPTY, Codes, Logits

_FIRST = 0.25
_LEAST = -1e4  # log-probability of what the weak opinion excludes: finite, so that no difference is infinity - infinity


def late(share: Floats) -> Floats:
    """0 until a quarter of the cells is known, then a raised cosine up to 1: the first cells decide what kind of
    picture it becomes, and guidance there costs variety (MaskBit, Weber et al. 2024; arXiv 2507.08965)."""
    grown = np.clip((share - _FIRST) / (1 - _FIRST), 0, 1)
    strength: Floats = (1 - np.cos(np.pi * grown)) / 2
    return strength


def constant(share: Floats) -> Floats:
    """1 throughout."""
    return np.ones_like(share)


GUIDANCE_SCHEDULES: Final[dict[str, Callable[[Floats], Floats]]] = {"late": late, "constant": constant}
"""By name: from the share of known cells, 0..1, to the share of the guidance's strength, 0..1."""


def cells_in_window(canvas: Size, window: Size) -> int:
    """How many cells of each window belong to the canvas: windows never leave it, and see all of a smaller one."""
    return min(canvas[0], window[0]) * min(canvas[1], window[1])


@final
class GuidedDenoiser:
    """A `Denoiser` made of one (with and without its label) or of two (better and worse).

    How strongly a window is guided depends on how many of its own cells are known, and on nothing else in the batch.
    Windows whose strength is 0, and windows without a label where only the label could tell the two apart, are not
    asked a second time and come out unchanged.
    """

    def __init__(
        self,
        strong: Denoiser,
        weak: Denoiser | None = None,
        *,
        scale: float,
        schedule: str = "late",
        cells: int | None = None,
    ) -> None:
        """scale: w, at least 0; 0 = `strong` alone. schedule: of `GUIDANCE_SCHEDULES`. weak: gets the same label;
        None = `strong` without one. cells: those of a window that can be known, fewer than all on a small canvas.
        Raises UsageError if the two do not speak of the same codes and windows."""
        if weak is not None and (weak.codebook_size, *weak.window) != (strong.codebook_size, *strong.window):
            raise UsageError("a model can only be guided by one of the same codes and the same window", field="weak")
        self.strong, self.weak = strong, weak
        self.scale, self.schedule = scale, GUIDANCE_SCHEDULES[schedule]
        self.codebook_size, self.window = strong.codebook_size, strong.window
        self.cells = cells or strong.window[0] * strong.window[1]
        self.second_evaluations = 0
        """Windows that were asked a second time so far."""

    @property
    def device(self) -> torch.device:
        """Where the better denoiser wants its input."""
        return self.strong.device

    def __call__(self, codes: Codes, positions: Tensor | None = None, label: Tensor | None = None) -> Logits:
        """As `Denoiser`; the rows of guided windows are log-probabilities of the guided distribution up to a constant.
        """
        logits = self.strong(codes, positions, label)
        known = (codes != EMPTY).flatten(1).sum(1).cpu().numpy()
        w = self.scale * self.schedule(known / self.cells)
        if self.weak is None:
            w = np.zeros_like(w) if label is None else np.where(label.cpu().numpy() < 0, 0, w)
        rows = torch.from_numpy(np.flatnonzero(w)).to(codes.device)
        if not len(rows):
            return logits
        self.second_evaluations += len(rows)
        seen = codes[rows], None if positions is None else positions[rows]
        other = self.strong(*seen) if self.weak is None else self.weak(*seen, None if label is None else label[rows])
        guided = guide(logits[rows], other, torch.from_numpy(w[w > 0]))
        return logits.to(guided.dtype).index_copy(0, rows, guided)


def guided_by(denoiser: Denoiser, options: SamplerOptions, label: Tensor | None, canvas: Size) -> Denoiser:
    """`denoiser` as `options` want it for a canvas: guided by the label, where there is one."""
    if not options.guidance or label is None:
        return denoiser
    cells = cells_in_window(canvas, (int(denoiser.window[0]), int(denoiser.window[1])))
    return GuidedDenoiser(denoiser, scale=options.guidance, schedule=options.guidance_schedule, cells=cells)


def guide(strong: Logits, weak: Logits, w: Tensor) -> Logits:
    """`(n, m, K)` logits of the distribution p_weak (p_strong / p_weak)^(1 + w), w `(n,)`; -inf where strong is."""
    exact = torch.promote_types(strong.dtype, torch.float32)
    log_strong = torch.log_softmax(strong.to(exact), -1)
    log_weak = torch.log_softmax(weak.to(strong.device, exact), -1).clamp(min=_LEAST)
    return log_strong + w.to(strong.device, exact)[:, None, None] * (log_strong - log_weak)

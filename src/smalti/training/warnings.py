"""Warnings in plain words: what goes wrong in a run, seen from its reports, and what to do about it.

Each check is a pure function of the reports of one stage so far. `Watch` says each finding once, and again only when
it is twice as bad. Thresholds are loose on purpose: a warning that comes up in healthy runs is one nobody reads.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from types import TracebackType
from typing import NamedTuple, Self

from smalti.training.history import add
from smalti.training.progress import Picture, Progress, Report

Reports = Sequence[Report]

FEW = 5
"""Reports that are averaged, so that one bad batch warns nobody."""


class Finding(NamedTuple):
    """Something that goes wrong."""

    kind: str
    badness: float
    """Grows as it gets worse, in the check's own unit; above 0."""
    text: str
    """What is seen and what to do, in one line."""


def collapse(reports: Reports) -> Finding | None:
    """The codebook collapses: few codes are used, or usage spreads over half as many as it did.

    Perplexity is compared with the run's own best, because what is good depends on the pictures. It leaps and falls
    while the first codes find their places, which is not counted (a fifth of the stage, at most 2000 steps); then it
    rises and settles, and half of the best does not happen by chance. Below one code in ten a codebook of any usual
    size has collapsed whatever came before.
    """
    reports = [report for report in reports if report.progress > 0.2 or report.step > 2000]
    perplexities = _recent(reports, "perplexity", len(reports))
    if len(perplexities) < 2 * FEW:
        return None
    now = fmean(perplexities[-FEW:])
    best = max(_averages(perplexities))
    used = fmean(_recent(reports, "codes_used", FEW))
    advice = (
        "revive codes more often (tokenizer.revive_every) and longer (tokenizer.revive_until), lower the learning "
        "rate, or use fewer codes"
    )
    if now < best / 2:
        seen = f"perplexity fell from {best:.0f} to {now:.0f} codes"
        return Finding("collapse", best / now, f"the codebook collapses: {seen}; {advice}")
    if used < 0.1:
        return Finding("collapse", 0.1 / max(used, 1e-3), f"only {used:.1%} of the codebook is used; {advice}")
    return None


def critic_wins(reports: Reports) -> Finding | None:
    """The critic tells every reconstruction from a picture, so that it no longer teaches the tokenizer.

    Its hinge loss is 1 if it knows nothing, and 0 if all patches are on the right side by the whole margin; then its
    gradient is 0 as well. Below 0.05 about one patch in twenty is in doubt. The tokenizer's adversarial loss (the
    negated score) is above 1 then and rises: it loses, and loses ground. A good critic stays between 0.3 and 0.9.
    """
    critic = _recent(reports, "critic", 2 * FEW)
    fooling = _recent(reports, "adversarial", 2 * FEW)
    if len(critic) < FEW or len(fooling) < 2 * FEW:
        return None
    now, before = fmean(fooling[-FEW:]), fmean(fooling[:FEW])
    if fmean(critic[-FEW:]) >= 0.05 or now <= 1 or now <= before:
        return None
    return Finding(
        "critic",
        now,
        f"the discriminator wins: its loss is {fmean(critic[-FEW:]):.2g} (1 = undecided) and the adversarial loss "
        f"rises ({before:.2g} to {now:.2g}); lower losses.adversarial, start later (losses.gan_start), or make the "
        "critic smaller (tokenizer.critic_channels)",
    )


def diverging(reports: Reports) -> Finding | None:
    """Validation gets worse while training gets better: the network learns its pictures by heart.

    The prior's validation bits come from the same masks each time, so a rise of 1 % over the best, twice in a row, is
    no noise. The tokenizer's PSNR falls also when a critic sharpens pictures, but then its training error rises too.
    """
    if bits := _validations(reports, "validation_bits_per_token", "nats_per_masked"):
        best = min(bits, key=lambda v: v.value)
        rise = min((v.value - best.value) / best.value for v in bits[-2:])
        trained = bits[-1].training < best.training
        if rise > 0.01 and trained and bits[-1].value - best.value > 0.01:
            return Finding(
                "diverging",
                rise,
                f"validation diverges from training: {bits[-1].value:.3f} bits per token, after {best.value:.3f} at "
                f"step {best.step}, while the training loss falls; the prior learns the pictures by heart: stop here, "
                "train on more pictures (data.flip, data.cuts), on fewer steps, or with prior.model.dropout",
            )
    if ratios := _validations(reports, "validation_psnr", "l2") or _validations(reports, "validation_psnr", "l1"):
        top = max(ratios, key=lambda v: v.value)
        fall = min(top.value - v.value for v in ratios[-2:])
        if fall > 0.5 and ratios[-1].training < top.training:
            return Finding(
                "diverging",
                fall,
                f"validation diverges from training: PSNR {ratios[-1].value:.2f} dB, after {top.value:.2f} at step "
                f"{top.step}, while the training error falls; train on more pictures (data.flip, data.cuts), or on "
                "fewer steps (tokenizer.keep: best keeps the best weights)",
            )
    return None


def stuck(reports: Reports) -> Finding | None:
    """Learning does not begin, or has been undone.

    Never begun: after 300 steps, a twentieth of the stage and 4 FEW reports the error is where it was in the first
    report, to 1 %. Undone: it is back at more than half of the way up from its best to where it began. Reconstruction
    error and nats per masked cell are looked at, since a total with a critic's opinion in it may rise for good reasons.
    """
    for name in ("nats_per_masked", "l2", "l1"):
        values = _recent(reports, name, len(reports))
        if len(values) >= 4 * FEW:
            break
    else:
        return None
    first, now, best = values[0], fmean(values[-FEW:]), min(_averages(values))
    advice = "lower learning_rate.peak, or lengthen its warmup (weights of a finished model have little left to learn)"
    late = reports[-1].step >= 300 and reports[-1].progress > 0.05
    if late and now > first * 0.99 and best > first * 0.99:
        text = f"learning is stuck: {name} is {now:.3g}, after {first:.3g} at step {reports[0].step}; {advice}"
        return Finding("stuck", 1.0, text)
    if best < first * 0.9 and now > (first + best) / 2 and now > best * 1.25:
        if "adversarial" in reports[-1].values:
            advice = "lower losses.adversarial if the critic did it (losses.gan_start), else learning_rate.peak"
        text = f"learning was undone: {name} is {now:.3g}, after {best:.3g} at its best; {advice}"
        return Finding("stuck", now / best, text)
    return None


CHECKS: tuple[Callable[[Reports], Finding | None], ...] = (collapse, critic_wins, diverging, stuck)


def findings(reports: Reports) -> list[Finding]:
    """What is wrong now, from all reports of one stage so far."""
    return [finding for check in CHECKS if (finding := check(reports)) is not None]


class Watch:
    """Looks at a stage after each report, and says what is new."""

    def __init__(self, before: Mapping[str, Reports] | None = None) -> None:
        """before: by stage, what an earlier process of this run reported, and has warned of."""
        self._reports = {stage: list(reports) for stage, reports in (before or {}).items()}
        self._said = {(stage, f.kind): f.badness for stage, reports in self._reports.items() for f in findings(reports)}

    def after(self, report: Report) -> list[str]:
        """The warnings that this report gives rise to, each in one line."""
        seen = self._reports.setdefault(report.stage, [])
        add(report, seen)
        news = []
        for finding in findings(seen):
            key = (report.stage, finding.kind)
            if finding.badness >= 2 * self._said.get(key, 0.0):
                self._said[key] = finding.badness
                news.append(f"warning, {report.stage} at step {report.step}: {finding.text}")
        return news


class WarningProgress:
    """Passes everything on, and says what `Watch` finds."""

    def __init__(self, inner: Progress, before: Mapping[str, Reports] | None = None) -> None:
        """before: see `Watch`."""
        self._inner, self._watch = inner, Watch(before)

    def report(self, report: Report) -> None:
        self._inner.report(report)
        for text in self._watch.after(report):
            self._inner.message(text)

    def message(self, text: str) -> None:
        self._inner.message(text)

    def picture(self, picture: Picture) -> None:
        self._inner.picture(picture)

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._inner.__exit__(kind, error, trace)


# --- parts of the checks ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Validation:
    step: int
    value: float
    training: float
    """Mean of a training value around it."""


def _validations(reports: Reports, name: str, training: str) -> list[_Validation]:
    """Each measurement of `name`, with the mean of `training` over the FEW reports up to it; [] if fewer than three."""
    found = []
    around: deque[float] = deque(maxlen=FEW)
    for report in reports:
        if training in report.values:
            around.append(report.values[training])
        value = report.values.get(name)
        if value is not None and math.isfinite(value) and around:
            found.append(_Validation(report.step, value, fmean(around)))
    return found if len(found) > 2 else []


def _recent(reports: Reports, name: str, count: int) -> list[float]:
    """The last `count` finite values."""
    found: list[float] = []
    for report in reversed(reports):
        value = report.values.get(name)
        if value is not None and math.isfinite(value):
            found.append(value)
            if len(found) == count:
                break
    return found[::-1]


def _averages(values: Sequence[float]) -> list[float]:
    """Of each FEW neighbours."""
    return [fmean(values[i : i + FEW]) for i in range(len(values) - FEW + 1)]

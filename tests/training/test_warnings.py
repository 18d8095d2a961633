"""Warnings from made-up curves: each fault is named once with its cure, and no healthy run is warned of."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest

from smalti.training import Recipe, train
from smalti.training.history import read_history
from smalti.training.progress import Report, SilentProgress
from smalti.training.warnings import FEW, Finding, WarningProgress, Watch, collapse, critic_wins, diverging, stuck
from training.recorded import recorded_run, reports


def falling(start: float, end: float) -> Callable[[float], float]:
    return lambda x: end + (start - end) * math.exp(-5 * x)


def said(stream: list[Report]) -> list[str]:
    watch = Watch()
    return [text for report in stream for text in watch.after(report)]


HEALTHY_TOKENIZER = {
    "loss": falling(1.5, 0.6),
    "l2": falling(0.3, 0.1),
    "codes_used": lambda x: min(0.9, 0.1 + x),
    "perplexity": lambda x: 20 + 400 * x**0.5,
    "critic": lambda x: 0.6 + 0.2 * math.sin(40 * x) if x > 0.3 else None,
    "adversarial": lambda x: 0.4 + 0.5 * math.sin(31 * x) if x > 0.35 else None,
    "validation_psnr": lambda x: 16 + 10 * x - 0.4 * (x > 0.35) if round(x * 100) % 10 == 0 else None,
}
HEALTHY_PRIOR = {
    "loss": falling(6, 3),
    "nats_per_masked": falling(6, 3),
    "validation_bits_per_token": lambda x: falling(8, 4)(x) if round(x * 100) % 10 == 0 else None,
}


def test_healthy_runs_are_not_warned_of(tmp_path: Path) -> None:
    assert said(reports("tokenizer", 100, **HEALTHY_TOKENIZER)) == []
    assert said(reports("prior", 100, **HEALTHY_PRIOR)) == []
    history = read_history(recorded_run(tmp_path / "run"))
    assert len(history.reports["tokenizer"]) == 50
    assert [text for stage in history.reports.values() for text in said(list(stage))] == []


def test_the_toy_run_of_these_tests_is_not_warned_of(recipe: Recipe) -> None:
    class Record(SilentProgress):
        messages: list[str] = []  # noqa: RUF012

        def message(self, text: str) -> None:
            self.messages.append(text)

    often = {"log_every": 1, "validate_every": 2, "steps": 30}
    stages = {name: getattr(recipe, name).model_copy(update=often) for name in ("tokenizer", "prior")}
    train(recipe.model_copy(update=stages), progress=Record())
    assert not [text for text in Record.messages if "warning" in text]


@pytest.mark.parametrize(
    ("fault", "check", "words"),
    [
        (
            {"perplexity": lambda x: 400 * x if x < 0.6 else 60},
            collapse,
            ("perplexity fell from", "tokenizer.revive_every"),
        ),
        ({"codes_used": lambda x: 0.04}, collapse, ("only 4.0% of the codebook is used", "fewer codes")),
        (
            {"critic": lambda x: 0.6 if x < 0.6 else 0.01, "adversarial": lambda x: 0.5 if x < 0.6 else 4 * x},
            critic_wins,
            ("the discriminator wins", "losses.gan_start", "tokenizer.critic_channels"),
        ),
        (
            {"validation_psnr": lambda x: 24 - 8 * abs(x - 0.5) if round(x * 100) % 10 == 0 else None},
            diverging,
            ("validation diverges", "after 24.00 at step 2500", "data.flip"),
        ),
        ({"l2": lambda x: 0.3}, stuck, ("learning is stuck: l2 is 0.3", "learning_rate.peak")),
        (
            {"l2": lambda x: falling(0.3, 0.05)(x) if x < 0.6 else 0.25},
            stuck,
            ("learning was undone", "losses.adversarial"),
        ),
    ],
)
def test_faults_of_a_tokenizer_are_named_with_a_cure(
    fault: dict[str, Callable[[float], float | None]],
    check: Callable[[list[Report]], Finding | None],
    words: tuple[str, ...],
) -> None:
    stream = reports("tokenizer", 100, **{**HEALTHY_TOKENIZER, **fault})
    found = check(stream)
    assert found is not None
    for word in words:
        assert word in found.text
    lines = said(stream)
    assert lines
    assert all(line.startswith("warning, tokenizer at step ") and "\n" not in line for line in lines)
    assert not [line for line in lines if not any(word in line for word in words)], "no other check is fooled"


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (
            {"validation_bits_per_token": lambda x: 4 + 4 * (x - 0.4) ** 2 if round(x * 100) % 10 == 0 else None},
            ("validation diverges", "4.000 at step 2000", "by heart", "prior.model.dropout"),
        ),
        ({"nats_per_masked": lambda x: 6.9, "loss": lambda x: 6.9}, ("learning is stuck", "learning_rate.peak")),
        ({"nats_per_masked": lambda x: falling(7, 3)(x) if x < 0.5 else 6.5}, ("learning was undone",)),
    ],
)
def test_faults_of_a_prior(fault: dict[str, Callable[[float], float | None]], words: tuple[str, ...]) -> None:
    lines = said(reports("prior", 100, **{**HEALTHY_PRIOR, **fault}))
    assert lines
    for line in lines:
        assert all(word in line for word in words)


def test_what_looks_like_a_fault_and_is_none() -> None:
    def sharpened(x: float) -> float:
        return falling(0.3, 0.1)(x) + 0.03 * (x > 0.5)

    for stage, curves in [
        # codes leap about while they find their places
        ("tokenizer", {"perplexity": lambda x: 130 if x < 0.05 else 20 if x < 0.15 else 100}),
        # a sharp critic is heard from the middle on: PSNR falls, and so does the fit to the training pictures
        ("tokenizer", {"l2": sharpened, "validation_psnr": lambda x: 20 + 8 * x if x < 0.5 else 22}),
        # a strong critic that the tokenizer keeps up with
        ("tokenizer", {"critic": lambda x: 0.04, "adversarial": lambda x: 2 - x}),
        # one bad measurement
        ("prior", {"validation_bits_per_token": lambda x: 5 if round(x * 100) == 60 else 4 - 0.1 * x}),
        # a run that has converged stays where it is
        ("prior", {"nats_per_masked": lambda x: 3 + 3 * math.exp(-50 * x)}),
        # not yet anything to judge by
        ("prior", {"nats_per_masked": lambda x: 6.0 if x < 4 * FEW / 100 else 4.0}),
    ]:
        healthy = HEALTHY_TOKENIZER if stage == "tokenizer" else HEALTHY_PRIOR
        assert said(reports(stage, 100, **{**healthy, **curves})) == [], curves


def test_said_once_and_again_when_twice_as_bad() -> None:
    shrinking = {"perplexity": lambda x: 400 if x < 0.4 else 400 / 2 ** (8 * x - 2)}
    lines = said(reports("tokenizer", 200, **{**HEALTHY_TOKENIZER, **shrinking}))
    lows = [float(line.split(" to ")[1].split()[0]) for line in lines]
    assert len(lows) >= 3
    assert all(later <= earlier / 1.8 for earlier, later in pairwise(lows))


def test_a_resumed_run_is_not_warned_again_of_what_it_was_warned_of() -> None:
    stream = reports("prior", 100, **{**HEALTHY_PRIOR, "nats_per_masked": lambda x: 6.9})
    watch = Watch({"prior": stream[:60]})
    assert said(stream[:60]) != []
    assert [text for report in stream[50:] for text in watch.after(report)] == []  # steps 51..60 come twice


def test_warnings_are_messages_to_whoever_watches() -> None:
    seen: list[str] = []

    class Record(SilentProgress):
        def report(self, report: Report) -> None:
            seen.append("report")

        def message(self, text: str) -> None:
            seen.append(text)

    with WarningProgress(Record()) as progress:
        for report in reports("prior", 20, **{**HEALTHY_PRIOR, "nats_per_masked": lambda x: 6.9}):
            progress.report(report)
        progress.message("hello")
    assert seen[:-2] == ["report"] * 20
    assert seen[-2].startswith("warning, prior at step 1000: learning is stuck")
    assert seen[-1] == "hello"

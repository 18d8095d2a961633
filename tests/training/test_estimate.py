"""What a stage will cost: the arithmetic, the counting of bytes, and what follows from both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from smalti.errors import ModelError, UsageError
from smalti.training import RunFolder, estimate
from smalti.training.estimate import (
    Costs,
    Line,
    bytes_of,
    counted_bytes,
    explained_memory,
    in_words,
    moments_of,
    parts_that_fit,
    survives,
    through,
)
from smalti.training.optimizers import build_optimizer
from smalti.training.progress import SilentProgress
from smalti.training.schedules import Length

from .test_stages import prior, same, tokenizer

GB = 10**9
COSTS = Costs(standing=2 * GB, moments=1 * GB, passing=Line(0.5 * GB, 0.25 * GB), seconds=Line(0.1, 0.05))


def test_a_line_through_two_measurements() -> None:
    assert through((1, 3.0), (4, 9.0)) == Line(1.0, 2.0)
    assert through((2, 3.0), (2, 3.0)) == Line(0.0, 1.5)  # one picture only: nothing is known to be shared
    assert through((1, 5.0), (4, 4.0)) == Line(5.0, 0.0)  # a noisy clock gives no picture for nothing


def test_parts_by_hand() -> None:
    assert COSTS.memory(4) == pytest.approx(4.5 * GB)
    assert parts_that_fit(16, COSTS, 6 * GB) == 1  # 1 + 0.5 + 16 / 4 = 5.5
    assert parts_that_fit(16, COSTS, 5 * GB) == 2  # 3.5
    assert parts_that_fit(12, COSTS, 3.6 * GB) == 2  # 6 at a time: 3.0
    assert parts_that_fit(12, COSTS, 2.3 * GB) == 4  # 3 at a time: 2.25; 5 would not divide 12
    assert parts_that_fit(12, COSTS, 6 * GB, at_least=3) == 3
    assert parts_that_fit(7, COSTS, 1.9 * GB) == 7
    assert parts_that_fit(7, COSTS, 1.7 * GB) is None
    assert COSTS.step(16, 4) == pytest.approx(4 * (0.1 + 4 * 0.05))


@given(pictures=st.integers(1, 60), usable=st.floats(0, 20 * GB), at_least=st.integers(1, 8))
def test_the_smallest_number_of_equal_parts(pictures: int, usable: float, at_least: int) -> None:
    found = parts_that_fit(pictures, COSTS, usable, at_least)
    fits = [n for n in range(at_least, pictures + 1) if pictures % n == 0 and COSTS.to_come(pictures // n) <= usable]
    assert found == (fits[0] if fits else None)


def test_live_bytes_are_counted_forwards_and_backwards() -> None:
    x = torch.ones(1000, requires_grad=True)
    with counted_bytes() as peak:
        for _ in range(5):
            torch.sin(x.detach())  # each dies before the next but one is made
    assert peak() <= 2 * 4000
    with counted_bytes() as peak:
        y = x
        for _ in range(5):
            y = torch.sin(y)  # each is kept for the backward pass
        assert peak() == 5 * 4000
        y[:10].view(2, 5)  # views own nothing
        assert peak() == 5 * 4000
        y.sum().backward()
    assert 6 * 4000 <= peak() <= 9 * 4000
    assert x.grad is not None


def test_weights_and_moments_to_the_byte() -> None:
    network = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.BatchNorm1d(16))
    assert bytes_of([network]) == 4 * (8 * 16 + 16 + 2 * 16 + 2 * 16) + 8
    for name, expected in (("adamw", 2 * 4 * (8 * 16 + 3 * 16)), ("muon", 4 * 8 * 16 + 2 * 4 * 3 * 16)):
        optimizer = build_optimizer(network, name, weight_decay=0.0, betas=(0.9, 0.99))  # type: ignore[arg-type]
        assert moments_of([optimizer]) == expected
        network(torch.randn(4, 8)).sum().backward()
        optimizer.step()
        held = [v for moments in optimizer.state.values() for v in moments.values() if v.dim()]
        assert sum(v.nbytes for v in held) == expected


def test_the_estimate_in_words() -> None:
    words = in_words("prior", 5_660_000, COSTS, Length(steps=1000), 0, 16, 4, 6 * GB, 1)
    assert words == "prior: 5.66 M weights; about 4.5 GB of memory (6.0 GB free) and 1.2 s a step: " \
        "1,000 steps in about 20:00"  # fmt: skip
    words = in_words("prior", 5_660_000, COSTS, Length(budget_minutes=10), 0, 16, 4, 6 * GB, 2)
    assert "in each of 2 processes" in words
    assert words.endswith("about 500 steps in 10 minutes")
    words = in_words("prior", 5_660_000, COSTS, Length(steps=1000), 0.9, 16, 4, 6 * GB, 1)
    assert words.endswith("100 more steps in about 2:00"), "of a resumed run, what is left"


class Heard(SilentProgress):
    def __init__(self) -> None:
        self.texts: list[str] = []

    def message(self, text: str) -> None:
        self.texts.append(text)


@pytest.mark.parametrize("train", [tokenizer, prior])
def test_a_batch_that_does_not_fit_is_computed_in_parts(
    train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With memory for one or two pictures, four come out as two or four parts: said, and the same as when asked for."""
    measured: list[Costs] = []
    measure = estimate.measure
    monkeypatch.setattr(estimate, "measure", lambda *a: measured.append(measure(*a)) or measured[-1])
    even = {"accumulate": 1, "learning_rate": {"peak": 1e-3, "warmup": 2, "decay": "constant"}}
    train(RunFolder(tmp_path / "plenty"), 1, **even)
    heard = Heard()
    enough = (measured[0].to_come(1) + 1) / estimate._USABLE_OF_SYSTEM
    monkeypatch.setattr(estimate, "available_memory", lambda device: enough)
    monkeypatch.setattr(estimate, "measure", lambda *a: measured[0])
    split = train(RunFolder(tmp_path / "little", heard), 4, **even)
    assert any("computed in 4 parts" in text and f"{train.__name__}.accumulate: 4" in text for text in heard.texts)
    monkeypatch.setattr(estimate, "available_memory", lambda device: 100 * GB)
    asked = train(RunFolder(tmp_path / "asked"), 4, **even | {"accumulate": 4})
    assert same(split.state_dict(), asked.state_dict())
    resumed = train(RunFolder(tmp_path / "little"), 6, resume=True, **even)  # now there is room: no matter
    assert same(train(RunFolder(tmp_path / "whole"), 6, **even | {"accumulate": 4}).state_dict(), resumed.state_dict())

    monkeypatch.setattr(estimate, "available_memory", lambda device: 10)
    with pytest.raises(UsageError, match=f"the {train.__name__} does not fit: one picture") as caught:
        train(RunFolder(tmp_path / "none"), 4)
    assert caught.value.field == f"{train.__name__}.size"


def test_measuring_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trained with and without a rehearsal: the same weights, with dropout and a critic in them."""
    measured = [prior(RunFolder(tmp_path / "a"), 3), tokenizer(RunFolder(tmp_path / "b"), 3)]
    monkeypatch.setattr(estimate, "measure", lambda *a: COSTS)
    monkeypatch.setattr(estimate, "available_memory", lambda device: 100 * GB)
    plain = [prior(RunFolder(tmp_path / "c"), 3), tokenizer(RunFolder(tmp_path / "d"), 3)]
    assert all(same(a.state_dict(), b.state_dict()) for a, b in zip(measured, plain, strict=True))


def test_a_gpu_is_tried_at_the_real_size() -> None:
    def rehearse(pictures: int) -> None:
        if pictures > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")

    cpu = torch.device("cpu")
    assert survives(rehearse, 4, 1000, cpu)
    assert not survives(rehearse, 8, 1000, cpu)
    with pytest.raises(ModelError, match=r"larger prior\.accumulate"), explained_memory("prior"):
        rehearse(8)

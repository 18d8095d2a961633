from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smalti.sampling.options import SamplerOptions
from smalti.sampling.schedules import SCHEDULES, Schedule

some_counts = st.lists(st.integers(1, 40), min_size=1, max_size=30)


@given(st.sampled_from([*SCHEDULES, "explicit"]), st.integers(1, 300), st.integers(0, 700), some_counts)
def test_counts_are_positive_and_sum_to_the_empty_cells(name: str, steps: int, n: int, counts: list[int]) -> None:
    schedule = Schedule.of(name, steps, counts if name == "explicit" else None)
    per_step = schedule.counts(n)
    assert sum(per_step) == n
    assert all(count > 0 for count in per_step)
    assert len(per_step) == min(schedule.steps, n)


def test_linear_is_as_equal_as_possible() -> None:
    for n in (7, 30, 256):
        assert max(Schedule.of("linear", 7).counts(n)) - min(Schedule.of("linear", 7).counts(n)) <= 1


def test_cosine_follows_its_curve() -> None:
    filled = 0
    for k, count in enumerate(Schedule.of("cosine", 8).counts(256), 1):
        filled += count
        assert abs(filled - 256 * (1 - math.cos(math.pi / 2 * k / 8))) <= 0.5


@given(some_counts)
def test_explicit_counts_are_kept_and_otherwise_proportions(counts: list[int]) -> None:
    schedule = Schedule.of("explicit", 0, counts)
    assert schedule.counts(sum(counts)) == tuple(counts)
    assert schedule.counts(3 * sum(counts)) == tuple(3 * c for c in counts)


def test_every_schedule_can_be_chosen() -> None:
    for name in SCHEDULES:
        assert SamplerOptions(schedule=name).steps_schedule().curve is SCHEDULES[name]
    with pytest.raises(KeyError):
        Schedule.of("nonesuch", 3)

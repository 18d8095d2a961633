from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from smalti.randomness import Purpose, uniforms
from smalti.sampling.draws import adjust, draw, probabilities

P = torch.tensor([[0.1, 0.4, 0.2, 0.3]], dtype=torch.float64)


def test_temperature_divides_logits() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    for temperature in (0.3, 0.7, 1.0, 1.9):
        expected = torch.softmax(logits.double() / temperature, -1)
        torch.testing.assert_close(adjust(probabilities(logits), temperature=temperature), expected)


def test_extreme_temperatures_stay_finite() -> None:
    p = probabilities(torch.tensor([[50.0, 49.0, -300.0]]))
    torch.testing.assert_close(adjust(p, temperature=1e-3)[0], torch.tensor([1.0, 0, 0], dtype=torch.float64))
    assert (adjust(p, temperature=1e6) > 0.3).all()


def test_top_k_closed_form() -> None:
    torch.testing.assert_close(adjust(P, top_k=2), torch.tensor([[0, 4 / 7, 0, 3 / 7]], dtype=torch.float64))
    assert adjust(P, top_k=1).tolist() == [[0, 1, 0, 0]]
    for k in (0, 4, 99):
        torch.testing.assert_close(adjust(P, top_k=k), P)


def test_top_k_of_equals_keeps_exactly_k_of_lower_number() -> None:
    p = torch.tensor([[0.2, 0.2, 0.2, 0.4]], dtype=torch.float64)
    assert (adjust(p, top_k=2) > 0).tolist() == [[True, False, False, True]]
    assert (adjust(p, top_k=3) > 0).tolist() == [[True, True, False, True]]


def test_top_p_closed_form() -> None:
    torch.testing.assert_close(adjust(P, top_p=0.69), torch.tensor([[0, 4 / 7, 0, 3 / 7]], dtype=torch.float64))
    # a set that reaches top_p exactly is enough, whatever the rounding of 0.4 + 0.3
    torch.testing.assert_close(adjust(P, top_p=0.7), torch.tensor([[0, 4 / 7, 0, 3 / 7]], dtype=torch.float64))
    torch.testing.assert_close(adjust(P, top_p=0.71), torch.tensor([[0, 4 / 9, 2 / 9, 3 / 9]], dtype=torch.float64))
    assert adjust(P, top_p=1e-9).tolist() == [[0, 1, 0, 0]]


def test_temperature_then_top_k_then_top_p() -> None:
    squares = torch.tensor([0.01, 0.16, 0.04, 0.09], dtype=torch.float64)
    three = squares * torch.tensor([0, 1, 1, 1])  # top_k = 3 of p^2
    three = three / three.sum()  # .552, .138, .310: the first two reach 0.86, but not without normalising (0.833)
    expected = three * torch.tensor([0, 1, 0, 1])
    torch.testing.assert_close(adjust(P, temperature=0.5, top_k=3, top_p=0.86)[0], expected / expected.sum())


def test_draw_is_the_inverse_of_the_cumulative_sum() -> None:
    u = torch.tensor([0.0, 0.0999, 0.1001, 0.4999, 0.5001, 0.6999, 0.7001, 1 - 2**-53], dtype=torch.float64)
    assert draw(P.expand(8, 4), u).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


@given(st.lists(st.sampled_from([0.0, 1e-300, 1e-9, 0.3, 1.0]), min_size=1, max_size=9), st.floats(0, 1 - 2**-53))
def test_impossible_codes_are_never_drawn(weights: list[float], u: float) -> None:
    p = torch.tensor([weights], dtype=torch.float64)
    if p.sum() == 0:
        return
    for probe in (0.0, u, 1 - 2**-53):
        assert p[0, draw(p / p.sum(), torch.tensor([probe], dtype=torch.float64))] > 0


def test_frequencies() -> None:
    n = 20_000
    u = torch.from_numpy(uniforms(3, Purpose.DRAW, np.arange(n)))
    counts = np.bincount(draw(P.expand(n, 4), u).numpy(), minlength=4)
    assert stats.chisquare(counts, P[0].numpy() * n).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_logits_are_drawn_in_float64(dtype: torch.dtype) -> None:
    p = probabilities(torch.zeros(2, 1024, dtype=dtype))
    assert p.dtype == torch.float64
    assert torch.equal(p, torch.full((2, 1024), 2.0**-10, dtype=torch.float64))


def test_nothing_is_written_to() -> None:
    p, u = P.clone(), torch.tensor([0.5], dtype=torch.float64)
    draw(adjust(p, temperature=0.5, top_k=2, top_p=0.5), u)
    assert torch.equal(p, P)
    assert u.item() == 0.5

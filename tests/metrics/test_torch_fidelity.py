"""Distances on given features agree with torch-fidelity's, recorded by tools/record_torch_fidelity.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from metrics.closed_form import FEATURES
from smalti.metrics import frechet_distance, kernel_distance, moments, prdc

RECORDED = Path(__file__).parents[1] / "golden" / "metrics" / "torch_fidelity.json"


@pytest.mark.parametrize("name", FEATURES)
def test_agrees_to_a_millionth(name: str) -> None:
    made, real = (make() for make in FEATURES[name])
    expected = json.loads(RECORDED.read_text("utf-8"))["distances"][name]
    balls = prdc(real, made, 3)
    got = {
        "frechet": frechet_distance(moments(made), moments(real)),
        "kid": kernel_distance(made, real).value,
        "precision": balls.precision,
        "recall": balls.recall,
    }
    assert got == pytest.approx(expected, abs=1e-6)

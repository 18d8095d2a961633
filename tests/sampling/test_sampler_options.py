from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from smalti.errors import UsageError
from smalti.sampling import ORDERS, PRESETS, SamplerOptions


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": 0}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": -1}, "top_k"),
        ({"num_inference_steps": 0}, "num_inference_steps"),
        ({"order": "spiral"}, "order"),
        ({"schedule": "quick"}, "schedule"),
        ({"windows": "none"}, "windows"),
        ({"max_batch": 0}, "max_batch"),
        ({"schedule": "explicit"}, None),
        ({"counts": (1, 2)}, None),
        ({"schedule": "explicit", "counts": (1, 0)}, None),
        ({"schedule": "explicit", "counts": (1, 2), "order": "ancestral"}, None),
    ],
)
def test_wrong_values_are_usage_errors_of_one_line(fields: dict[str, Any], field: str | None) -> None:
    with pytest.raises(UsageError) as caught:
        SamplerOptions(**fields)
    assert "\n" not in str(caught.value)
    assert caught.value.field == field
    if field:
        assert field in str(caught.value)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'temperature'"):
        SamplerOptions(temprature=0.9)


def test_wrong_values_inside_other_models_are_usage_errors_too() -> None:
    class Request(BaseModel):
        sampler: SamplerOptions

    with pytest.raises(UsageError, match="temperature"):
        Request(sampler={"temperature": -1})
    assert Request(sampler={"temperature": 0.5}).sampler.temperature == 0.5


def test_round_trip_through_json() -> None:
    options = SamplerOptions(order="halton", schedule="explicit", counts=(1, 2, 3), temperature=0.9)
    assert SamplerOptions.model_validate_json(options.model_dump_json()) == options


def test_replace_checks_again() -> None:
    assert SamplerOptions().replace(top_k=5).top_k == 5
    with pytest.raises(UsageError):
        SamplerOptions().replace(top_k=-5)


def test_presets_and_documentation() -> None:
    assert {name: p.num_inference_steps for name, p in PRESETS.items()} == {"fast": 8, "balanced": 24, "best": 64}
    assert PRESETS["balanced"] == SamplerOptions()
    schema = SamplerOptions.model_json_schema()
    assert all("description" in field for field in schema["properties"].values())
    assert schema["properties"]["order"]["enum"] == list(ORDERS)

"""`SamplerOptions`: everything that decides how cells are filled, apart from the seed and the grid."""

from __future__ import annotations

import difflib
from typing import Any, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from smalti.errors import UsageError
from smalti.sampling.orders import ORDERS
from smalti.sampling.schedules import Schedule


class SamplerOptions(BaseModel):
    """How to fill empty cells. Frozen; a wrong value raises `UsageError` (one line, with `field`)."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    order: str = Field("bluenoise", json_schema_extra={"enum": list(ORDERS)})
    """Which cells first: bluenoise (recommended), halton, random, ancestral (the paper's), raster, confidence."""

    schedule: Literal["cosine", "linear", "explicit"] = "cosine"
    """How many cells per step: cosine (few first), linear (equal), explicit (`counts`). Ancestral has its own."""

    num_inference_steps: int = Field(24, ge=1, le=1_000_000)
    """Steps, each one network evaluation per window; never more than there are empty cells. Ancestral: T. With
    `windows="outward"` on a large canvas: steps per window full of cells."""

    counts: tuple[int, ...] | None = None
    """Cells per step for the explicit schedule, each at least 1; proportions if their sum is not the empty cells'."""

    temperature: float = Field(1.0, gt=0, allow_inf_nan=False)
    """Logits are divided by it: 1 = the model's distribution, lower = tidier, higher = stranger."""

    top_k: int = Field(0, ge=0)
    """Draw only among the k most likely codes; 0 = all."""

    top_p: float = Field(1.0, gt=0, le=1, allow_inf_nan=False)
    """Draw only among the most likely codes that together have this probability; 1 = all."""

    guidance: float = Field(0.0, ge=0, le=100, allow_inf_nan=False)
    """For models with classes, where a label is given: w of classifier-free guidance, p(code | label)^(1 + w) /
    p(code)^w. 0 = the model's own distribution; 1 to 4 makes pictures more typical of their class, and more alike."""

    guidance_schedule: Literal["late", "constant"] = "late"
    """When: "late" = not before a quarter of the cells is known, then more and more, which costs fewer evaluations and
    less variety; "constant" = throughout."""

    windows: Literal["outward", "tiles", "overlap"] = "outward"
    """On canvases larger than the model's window: outward from what is known, ring by ring, so that distant parts
    agree; everywhere at once, in tiles whose place changes at each step; or in fixed overlapping windows whose
    probabilities are averaged (the paper's way, dearer)."""

    overlap: int = Field(8, ge=0)
    """Cells that neighbouring windows share with `windows="overlap"`."""

    margin: int = Field(2, ge=0)
    """With `windows="tiles"`: cells nearer than this to an inner edge of their tile wait for another step, if enough
    others can be drawn."""

    central_weight: bool = False
    """With `windows="overlap"`: weight each window by how central the cell is in it, instead of equally."""

    max_batch: int = Field(64, ge=1)
    """Most windows per network call; memory grows with it, results do not depend on it."""

    choice_temperature: float = Field(4.5, ge=0, allow_inf_nan=False)
    """Noise on the choice of cells of the confidence order, falling to 0 at the last step."""

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            raise _usage_error(error) from None

    @field_validator("order")
    @classmethod
    def _known_order(cls, value: str) -> str:
        if value not in ORDERS:
            raise ValueError(f"{value!r} is none of {', '.join(ORDERS)}")
        return value

    @model_validator(mode="after")
    def _counts_with_explicit(self) -> Self:
        if (self.schedule == "explicit") != (self.counts is not None):
            raise ValueError("counts go with schedule='explicit', and it needs them")
        if self.counts is not None and (not self.counts or min(self.counts) < 1):
            raise ValueError("counts must be positive numbers of cells")
        if self.counts is not None and self.order == "ancestral":
            raise ValueError("order='ancestral' draws its own counts; use order='random' with explicit counts")
        return self

    def replace(self, **changes: Any) -> SamplerOptions:
        """These options with some changed, checked again."""
        return SamplerOptions(**{**self.model_dump(), **changes})

    def steps_schedule(self) -> Schedule:
        """The schedule these options describe."""
        return Schedule.of(self.schedule, self.num_inference_steps, self.counts)


PRESETS: Final[dict[str, SamplerOptions]] = {
    "fast": SamplerOptions(num_inference_steps=8, margin=1),
    "balanced": SamplerOptions(num_inference_steps=24, margin=2),
    "best": SamplerOptions(num_inference_steps=64, margin=4),
}
"""Named choices. On a canvas of one window: 8, 24 or 64 network evaluations."""


def _usage_error(error: ValidationError) -> UsageError:
    """The first complaint as one line that names the field and, for unknown names, the nearest known one."""
    first = error.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(field), SamplerOptions.model_fields, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(SamplerOptions.model_fields)}"
        return UsageError(f"unknown sampler option {field!r}{hint}", field=field)
    message = first["msg"].removeprefix("Value error, ")
    given = "" if first["type"] == "value_error" else f", not {first['input']!r}"
    return UsageError(f"{field}: {message}{given}" if field else message, field=field)

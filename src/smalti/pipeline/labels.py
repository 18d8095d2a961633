"""Classes as callers write them, names or numbers, and as requests and networks have them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import torch

from smalti.errors import UsageError
from smalti.formats.classes import class_number, listed

Label: TypeAlias = str | int | Sequence[str | int] | None
"""The class of all results, of each of them, or none; by name or number."""
Named: TypeAlias = str | tuple[str, ...] | None
"""The same by name."""


def named(label: Label, classes: Sequence[str], model: str) -> Named:
    """A label, or several, as names of the model's classes. Raises UsageError for one that it does not have."""
    if label is None:
        return None
    needs_classes("label", classes, model)
    if isinstance(label, str | int):
        return classes[class_number(label, classes)]
    return tuple(classes[class_number(one, classes)] for one in label)


def numbers(label: Label, count: int, classes: Sequence[str], model: str) -> torch.Tensor | None:
    """The class of each of `count` results, int64 `(count,)`; None = of none."""
    names = named(label, classes, model)
    if names is None:
        return None
    each = (names,) * count if isinstance(names, str) else names
    return torch.tensor([class_number(name, classes) for name in each])


def check_guidance(guidance: float | None, label: Named, classes: Sequence[str], model: str) -> None:
    """Raises UsageError for guidance that was asked for where there is no label."""
    if guidance and label is None:
        needs_classes("guidance", classes, model)
        raise UsageError(f"guidance needs a label, one of {listed(classes)}", field="guidance")


def needs_classes(field: str, classes: Sequence[str], model: str) -> None:
    """Raises UsageError for a model without classes."""
    if not classes:
        raise UsageError(f"{field}: {model} has no classes; train one with data.labels=true", field=field)

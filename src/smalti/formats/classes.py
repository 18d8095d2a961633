"""Names of a model's classes: people say "church", networks say 3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from smalti.errors import UsageError

_SHOWN = 12


def class_names(info: Mapping[str, Any], count: int) -> tuple[str, ...]:
    """Names of the `count` classes of a model, from the `info` of its index; their numbers where it has none."""
    names = info.get("classes")
    if isinstance(names, list) and len(names) == count and all(isinstance(n, str) and n.isprintable() for n in names):
        return tuple(names)
    return tuple(str(number) for number in range(count))


def class_number(label: str | int, names: Sequence[str]) -> int:
    """The number of a class from its name, or from its number if no name is so. Raises UsageError with the nearest."""
    if label in names:
        return names.index(str(label))
    text = str(label)
    if text.isdecimal() and int(text) < len(names):
        return int(text)
    near = get_close_matches(text, names, 1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    raise UsageError(f"label: no class is called {text!r}; {hint}There are: {listed(names)}", field="label")


def listed(names: Sequence[str]) -> str:
    """The names in one line, of many the first."""
    shown = ", ".join(names[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"

"""An evaluation for people: one table of numbers, and below it the conditions under which they hold."""

from __future__ import annotations

import json
import math
from typing import Any

from smalti.metrics.evaluate import Number, Report

ARROWS = {"higher": "↑", "lower": "↓", "": ""}


def to_json(report: Report) -> str:
    """The report as indented JSON, null for what is not finite."""
    return json.dumps(report.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def markdown(report: Report) -> str:
    """A page with every number and the whole protocol: n, k, resize, reference, sampler, seed."""
    height, width = report.size
    lines = [
        f"# {report.model}, measured",
        "",
        f"{report.pictures} pictures of {report.data}, {height}x{width} pixels, seed {report.seed}, "
        f"smalti {report.smalti_version}.",
        "",
        "| metric | | value | |",
        "| --- | --- | ---: | --- |",
    ]
    for entry in report.metrics.values():
        lines += [
            f"| {name} | {ARROWS[number.better]} | {shown(number)} | {number.unit} |"
            for name, number in entry.numbers.items()
        ]
    lines += ["", "↑ more is better, ↓ less is better; ± one standard error; [ ] 95 % interval.", "", "## Protocol", ""]
    lines += _items({"data sha256": report.data_sha256, "model sha256": report.identity or "unknown"})
    lines += _items({"sampler": ", ".join(f"{k} {v}" for k, v in report.sampler.items())})
    lines += _items(report.conditions)
    for name, entry in report.metrics.items():
        lines += ["", f"### {name}", "", *_items(entry.protocol)]
        for title, rows in entry.details.items():
            lines += ["", f"{title}:", "", *_table(rows)]
    return "\n".join(lines) + "\n"


def shown(number: Number) -> str:
    """Value and uncertainty, to digits that mean something: `27.128 ± 0.051`, `0.0121 [0.0108, 0.0135]`."""
    if number.interval is not None:
        low, high = number.interval
        return f"{number.value:.4g} [{low:.3g}, {high:.3g}]"
    error = number.standard_error
    if error is not None and math.isfinite(error) and error > 0:
        digits = max(0, min(6, 1 - _magnitude(error)))
        return f"{number.value:.{digits}f} ± {error:.{digits}f}"
    return f"{number.value:.4g}"


def _magnitude(value: float) -> int:
    """The power of ten of the first digit."""
    return int(f"{value:e}".split("e")[1])


def _items(facts: dict[str, Any]) -> list[str]:
    return [f"- {name}: {value}" for name, value in facts.items()]


def _table(rows: list[dict[str, Any]]) -> list[str]:
    if not rows:
        return ["none"]
    cells = [[f"{v:.4g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    head = [f"| {' | '.join(rows[0])} |", f"|{' --- |' * len(rows[0])}"]
    return [*head, *(f"| {' | '.join(row)} |" for row in cells)]

"""A finished run made of the recorded healthy one, and made-up curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from smalti.training.progress import Report

RECORDED = Path(__file__).parents[1] / "golden" / "runs" / "faces.jsonl"
CONFIG: dict[str, Any] = {
    "name": "faces",
    "stage": "both",
    "data": {"path": "faces-val.npy", "size": [32, 32]},
    "tokenizer": {"steps": 500, "losses": {"l1": 1.0}},
    "prior": {"steps": 600, "learning_rate": {"peak": 0.003}},
}


def recorded_run(folder: Path, *, lines: int | None = None, **changes: Any) -> Path:
    """A run folder with the recorded metrics (the first `lines` of them) and a recipe with `changes` on top."""
    folder.mkdir(parents=True)
    text = RECORDED.read_text("utf-8").splitlines(keepends=True)
    (folder / "metrics.jsonl").write_text("".join(text[:lines]), "utf-8")
    (folder / "config.yaml").write_text(yaml.safe_dump(CONFIG | changes), "utf-8")
    if lines is None:
        (folder / "model").mkdir()
        (folder / "model" / "model_index.json").write_text(json.dumps({}))
    return folder


def reports(stage: str, count: int, every: int = 50, **curves: Callable[[float], float | None]) -> list[Report]:
    """`count` reports of a stage; each curve is a function of the share done, 0..1, None = not reported then."""
    found = []
    for i in range(1, count + 1):
        share = i / count
        values = {name: value for name, curve in curves.items() if (value := curve(share)) is not None}
        found.append(Report(stage, i * every, share, float(i), 100.0, values))
    return found

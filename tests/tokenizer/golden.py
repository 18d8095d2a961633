"""What the original implementations answered, by name, with the tolerance stated for each tensor."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor


class Golden:
    """Recorded tensors of one codebase."""

    def __init__(self, tensors: Path, tolerances: dict[str, float]) -> None:
        with safe_open(tensors, "pt") as file:
            self.tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.tolerances = tolerances

    @classmethod
    def full(cls, folder: Path) -> Golden:
        """The complete set, which lies beside a developer's checkout."""
        recorded = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["io"]
        return cls(folder / "io.safetensors", {name: entry.get("atol", 0.0) for name, entry in recorded.items()})

    @classmethod
    def small(cls, file: Path) -> Golden:
        """The few tensors that are in the repository."""
        with safe_open(file, "pt") as archive:
            return cls(file, json.loads(archive.metadata()["atol"]))

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def check(self, name: str, actual: Tensor, *, rtol: float = 0.0) -> None:
        """Fail unless `actual` is the recorded tensor within its tolerance (exactly, for integers)."""
        expected = self.tensors[name]
        actual = actual.detach().reshape(expected.shape)
        if expected.is_floating_point():
            torch.testing.assert_close(
                actual, expected, atol=self.tolerances[name], rtol=rtol, msg=lambda m: f"{name}: {m}"
            )
        else:
            assert torch.equal(actual, expected), name

"""What the original implementations answered, by name, with the tolerance stated for each tensor."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor


class Golden:
    """Recorded tensors of one codebase; `part` is put before the names that one asks for."""

    def __init__(self, folder: Path, part: str = "") -> None:
        recorded = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["io"]
        self._tensors, self._part = load_file(folder / "io.safetensors"), part
        self._tolerances = {name: float(entry.get("atol", 0.0)) for name, entry in recorded.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[self._part + name]

    def __contains__(self, name: str) -> bool:
        return self._part + name in self._tensors

    def tolerance(self, name: str) -> float:
        """Largest absolute difference that rounding on another machine explains."""
        return self._tolerances[self._part + name]

    def check(self, name: str, actual: Tensor, *, rtol: float = 0.0) -> None:
        """Fail unless `actual` is the recorded tensor within its tolerance (exactly, for integers)."""
        expected = self[name]
        actual = actual.detach().reshape(expected.shape)
        if expected.is_floating_point():
            atol = self.tolerance(name)
            torch.testing.assert_close(actual, expected, atol=atol, rtol=rtol, msg=lambda m: f"{name}: {m}")
        else:
            assert torch.equal(actual, expected), name

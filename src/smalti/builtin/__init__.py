"""The models inside the package, one folder each, with card and licence. Only finds them; loading is `formats`'."""

from __future__ import annotations

from pathlib import Path


def builtin_models() -> dict[str, Path]:
    """Name -> model folder, in alphabetical order."""
    here = Path(__file__).parent
    return {folder.parent.name: folder.parent for folder in sorted(here.glob("*/model_index.json"))}

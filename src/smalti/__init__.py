"""smalti: generate and edit images as mosaics of discrete codes.

Public names load on first use (PEP 562), so that `import smalti` costs no torch import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from smalti.codes import CodeGrid
    from smalti.errors import SmaltiError
    from smalti.pipeline.output import Output
    from smalti.pipeline.pipeline import Pipeline
    from smalti.prior import AbsorbingTransformer
    from smalti.regions import Piece, Region
    from smalti.sampling import SamplerOptions
    from smalti.tokenizer import VQGAN

_HOME = {
    "AbsorbingTransformer": "smalti.prior",
    "CodeGrid": "smalti.codes",
    "Output": "smalti.pipeline.output",
    "Piece": "smalti.regions",
    "Pipeline": "smalti.pipeline.pipeline",
    "Region": "smalti.regions",
    "SamplerOptions": "smalti.sampling",
    "SmaltiError": "smalti.errors",
    "VQGAN": "smalti.tokenizer",
}

__all__ = [
    "VQGAN",
    "AbsorbingTransformer",
    "CodeGrid",
    "Output",
    "Piece",
    "Pipeline",
    "Region",
    "SamplerOptions",
    "SmaltiError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'smalti' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)

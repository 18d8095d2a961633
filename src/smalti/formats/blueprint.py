"""Build a module without memory for its weights: to learn their names and shapes before a file is believed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

T = TypeVar("T", bound=nn.Module)

_INITIALISERS = (nn.init.normal_, torch.Tensor.normal_)


class _Uninitialised(TorchFunctionMode):
    """Skips initialisers: on the meta device they do nothing, but some import torch's compiler for it, in seconds."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        given = dict(kwargs or {})
        if func in _INITIALISERS:
            return args[0] if args else given["tensor"]
        return func(*args, **given)


def blueprint(build: Callable[[], T]) -> T:
    """What `build` makes, on the meta device: shapes without storage, whatever sizes a configuration claims."""
    with torch.device("meta"), _Uninitialised():
        return build()

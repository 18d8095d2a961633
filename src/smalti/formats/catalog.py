"""From a name to a model folder: `builtin:faces`, a folder, or `user/repo` on the Hub."""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path

from smalti.builtin import builtin_models
from smalti.errors import ModelError

PREFIX = "builtin:"


def resolve(
    name: str | Path,
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    local_files_only: bool = False,
) -> tuple[str, Path]:
    """The model's name as recipes write it, and its folder.

    A folder's name is its path as it was given, so that replaying a picture finds it again from the same place; of an
    absolute path it is the last part, because a picture must not tell whose machine it was made on. A Hub name is the
    only one that may use the network, and not with `local_files_only`.
    Raises ModelError naming what was asked for and what there is.
    """
    text = str(name)
    models = builtin_models()
    short = text.removeprefix(PREFIX)
    if short in models and (text.startswith(PREFIX) or not Path(text).exists()):
        return PREFIX + short, models[short]
    if text.startswith(PREFIX):
        near = get_close_matches(short, models, 1)
        hint = f"did you mean {PREFIX}{near[0]}?" if near else f"there are: {', '.join(models) or 'none'}"
        raise ModelError(f"no built-in model is called {short!r}; {hint}")
    folder = Path(text)
    if folder.is_dir():
        return folder.resolve().name if folder.is_absolute() else folder.as_posix(), folder
    if folder.exists():
        raise ModelError(f"{text} is a file, not a model folder; a foreign checkpoint needs: smalti import {text}")
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        from smalti.formats.hub import pull

        return text, pull(text, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
    raise ModelError(f"no model at {text}: give a folder, user/repo on the Hub, or {PREFIX}{'|'.join(models) or '...'}")

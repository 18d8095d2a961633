"""The errors a user can meet, as a tree:

    SmaltiError                 anything we explain in one line
    ├── UsageError              the request itself is wrong: a parameter, a region, a combination (exit 2)
    └── InputError              a file or folder cannot be used as asked (exit 1)
        ├── ImageError          a picture: missing, truncated, not an image, too large
        ├── ModelError          a model folder or checkpoint: missing, corrupt, mismatched
        ├── DataError           a data set: empty, unreadable, changed
        └── OutputError         an output: exists already, not writable, disk full

A message is one line: what happened, to which file or field, and what to do next. `assert` is only for our own bugs.
"""

from __future__ import annotations


class SmaltiError(Exception):
    """Base of every error that smalti explains to its user. `str(error)` is one line."""

    exit_code = 1


class UsageError(SmaltiError):
    """The request is wrong. `field` names the parameter, if one is to blame."""

    exit_code = 2

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class InputError(SmaltiError):
    """A file or folder cannot be used as asked."""


class ImageError(InputError):
    """A picture is missing, truncated, not an image, or too large."""


class ModelError(InputError):
    """A model folder or checkpoint is missing, corrupt, or does not fit together."""


class DataError(InputError):
    """A data set is empty, unreadable, or has changed."""


class OutputError(InputError):
    """An output exists already, cannot be written, or the disk is full."""

"""Writing so that a file is either whole or not there, and telling which file could not be written and why."""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from smalti.errors import OutputError

_REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EACCES: "no permission to write there",
    errno.EPERM: "no permission to write there",
    errno.EROFS: "the file system is read-only",
    errno.ENOENT: "the folder does not exist",
    errno.ENOTDIR: "a part of its path is not a folder",
    errno.EISDIR: "it is a folder",
    errno.ENAMETOOLONG: "the name is too long",
}


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Turn an OSError while writing `path` into an OutputError that names it."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0, error.strerror or str(error))
        raise OutputError(f"cannot write {path}: {reason}") from error


@contextmanager
def atomic_write(path: str | Path, *, force: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it is synced and renamed to `path`, else removed.

    Raises OutputError if `path` exists (unless `force`) or cannot be written; nothing is left behind then. Only a
    regular file is ever overwritten: renaming onto a device such as /dev/null would replace it for everybody.
    """
    target = Path(path)
    check_output(target, force=force)
    with explained(target):
        temporary = target.with_name(f".smalti-{secrets.token_hex(8)}.part")
        # the mode is what any new file gets, less the umask; a name in use would be an error, not a shared file
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        with explained(target):
            yield temporary
            with temporary.open("rb+") as file:
                os.fsync(file.fileno())
            os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise


def check_output(path: str | Path, *, force: bool = False) -> None:
    """Raise OutputError for a path that `atomic_write` would refuse: asked before the work, not after it."""
    target = Path(path)
    with explained(target):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, "is a folder")
        if target.exists() and not target.is_file():
            raise OutputError(f"cannot write {target}: it is a device, not a file")
        if target.exists() and not force:
            raise OutputError(f"{target} exists already: give another name, or --force to overwrite it")
        if not stat.S_ISDIR(target.parent.stat().st_mode):
            raise NotADirectoryError(errno.ENOTDIR, "is a file")
        if not os.access(target.parent, os.W_OK):
            raise PermissionError(errno.EACCES, "not writable")


def write_bytes(path: str | Path, data: bytes, *, force: bool = False) -> None:
    """Write a whole file atomically."""
    with atomic_write(path, force=force) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str, *, force: bool = False) -> None:
    """Write a whole text file (UTF-8) atomically."""
    write_bytes(path, text.encode("utf-8"), force=force)


def sha256_bytes(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def sha256_file(path: str | Path) -> str:
    """Hex digest of a file's bytes, read in pieces."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

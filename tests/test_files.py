"""A file is either whole or not there, and an error names it."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from smalti.errors import OutputError
from smalti.files import atomic_write, sha256_bytes, sha256_file, write_bytes, write_text


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_what_is_written_is_there(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a.bin", b"\x00\xff")
    write_text(tmp_path / "ü.txt", "Steinchen – ß")
    assert (tmp_path / "a.bin").read_bytes() == b"\x00\xff"
    assert (tmp_path / "ü.txt").read_text("utf-8") == "Steinchen – ß"
    assert left_in(tmp_path) == ["a.bin", "ü.txt"]


def test_hashes(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"abc")
    known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1
    assert sha256_bytes(b"abc") == sha256_file(tmp_path / "a") == known


def test_an_existing_file_is_kept_unless_forced(tmp_path: Path) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"first")
    with pytest.raises(OutputError, match=r"a exists already.*--force"):
        write_bytes(path, b"second")
    assert path.read_bytes() == b"first"
    write_bytes(path, b"second", force=True)
    assert path.read_bytes() == b"second"
    assert left_in(tmp_path) == ["a"]


def test_new_files_have_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_bytes(tmp_path / "ours", b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("interruption", [ValueError("a bug"), KeyboardInterrupt(), SystemExit(1)])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, interruption: BaseException) -> None:
    path = tmp_path / "a"
    write_bytes(path, b"old")

    def write_half() -> None:
        with atomic_write(path, force=True) as temporary:
            temporary.write_bytes(b"half")
            raise interruption

    with pytest.raises(type(interruption)):
        write_half()
    assert path.read_bytes() == b"old"
    assert left_in(tmp_path) == ["a"]


@pytest.mark.parametrize("failing", ["fsync", "replace", "open"])
@pytest.mark.parametrize(
    ("code", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "error")]
)
def test_a_failing_disk_is_one_line_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, code: int, words: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"smalti.files.os.{failing}", fail)
    with pytest.raises(OutputError, match=words) as caught:
        write_bytes(tmp_path / "a.png", b"data")
    assert "a.png" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert left_in(tmp_path) == []


def test_a_disk_that_fills_up_while_writing(tmp_path: Path) -> None:
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full on this system")

    def write_to_full_disk() -> None:
        with atomic_write(tmp_path / "a.bin") as temporary:
            temporary.unlink()
            temporary.symlink_to(full)  # every byte written from here on meets a full disk
            temporary.write_bytes(b"data")

    with pytest.raises(OutputError, match=r"a\.bin: the disk is full"):
        write_to_full_disk()
    assert left_in(tmp_path) == []


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nowhere/a.png", "the folder does not exist"),
        ("file/a.png", "not a folder"),
        ("x" * 300, "the name is too long"),
        (".", "it is a folder"),
    ],
)
def test_places_that_cannot_be_written(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=words):
        write_bytes(tmp_path / place, b"")
    assert left_in(tmp_path) == ["file"]


def test_a_folder_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    locked = tmp_path / "locked"
    locked.mkdir(mode=0o555)
    if os.access(locked, os.W_OK):  # root may write anywhere

        def refuse(*_: object, **__: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        monkeypatch.setattr("smalti.files.os.open", refuse)
    with pytest.raises(OutputError, match=r"locked/a\.png: no permission to write there"):
        write_bytes(locked / "a.png", b"")
    assert left_in(locked) == []


def test_a_device_is_never_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="it is a device"):
        write_bytes(pipe, b"data", force=True)
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    name = "é" * 125 + ".png"  # 254 bytes
    write_bytes(tmp_path / name, b"data")
    assert left_in(tmp_path) == [name]

"""`smalti data check` in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smalti.cli.app import run


def test_in_words(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "c.png").write_bytes(b"broken")
    (work / "d.png").write_bytes((work / "a.png").read_bytes())
    assert run(["data", "check", ".", "--size", "32x64"]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[0] == ".: 4 pictures (folder)"
    for part in ("45x61 (3)", "RGB 3", "broken   1", "c.png is not a picture", "a.png = d.png", "too small: b.png"):
        assert part in out
    assert "note: 1 broken file(s) will be left out" in err


def test_as_json(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["data", "check", str(work), "--size", "40", "--json", "-q"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["count"], found["readable"], found["size"], err) == (2, 2, [40, 40], "")
    assert found["sizes"] == [{"height": 45, "width": 61, "count": 2}]
    assert found["broken"] == found["duplicates"] == found["smaller"] == []


def test_refusals_are_one_line(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (work / "empty").mkdir()
    (work / "bad").mkdir()
    (work / "bad" / "a.png").write_bytes(b"")
    cases = [(["empty"], 1, "holds no pictures"), (["no"], 1, "no data at no"), (["bad"], 1, "none of the 1 pictures"),
             ([".", "--size", "big"], 2, "128x192"), ([".", "--size", "4x64"], 2, "less than 8")]  # fmt: skip
    for words, code, says in cases:
        assert run(["data", "check", *words, "-q"]) == code
        error = capsys.readouterr().err
        assert says in error
        assert error.count("\n") == 1

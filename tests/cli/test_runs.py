"""`smalti runs` as its users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smalti.cli.app import run
from training.recorded import recorded_run


@pytest.fixture
def runs(work: Path) -> Path:
    recorded_run(work / "runs" / "faces")
    recorded_run(work / "runs" / "faces-2", lines=70, threads=2)
    recorded_run(work / "runs" / "new", lines=0)
    return work


def test_list_is_a_table(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "runs" / "new" / "config.yaml").write_text("[]")
    assert run(["runs", "list"]) == 0
    said = capsys.readouterr()
    rows = [line.split() for line in said.out.splitlines()]
    assert rows[0] == ["run", "state", "stage", "step", "done", "time", "loss", "PSNR", "bits/token"]
    assert rows[1] == ["faces", "finished", "prior", "600", "100%", "0:32", "2.911", "16.28", "4.593"]
    assert rows[2][:5] == ["faces-2", "stopped", "prior", "200", "33%"]
    assert rows[3] == ["new", "damaged"]
    assert "new: runs/new/config.yaml holds no fields" in said.err


def test_list_for_a_program(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "list", "runs/faces", "--json"]) == 0
    (found,) = json.loads(capsys.readouterr().out)["runs"]
    assert (found["run"], found["state"], found["step"], found["notes"]) == ("runs/faces", "finished", 600, [])


def test_plot(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    for _ in range(2):  # the run's own picture is made anew each time
        assert run(["runs", "plot", "runs/faces"]) == 0
        assert capsys.readouterr().out == "runs/faces/plots.png\n"
    assert run(["runs", "plot", "runs/faces", "runs/faces-2", "-o", "both.svg"]) == 0
    assert (runs / "both.svg").is_file()
    assert run(["runs", "plot", "runs/faces", "-o", "both.svg"]) == 1
    assert "both.svg exists already" in capsys.readouterr().err
    assert run(["runs", "plot", "runs/faces", "-o", "both.svg", "--force"]) == 0


def test_compare(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["runs", "compare", "runs/faces", "runs/faces-2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["faces", "faces-2"]
    assert [line.split()[-2:] for line in lines if "bits per token, best" in line] == [["4.593", "4.97"]]
    assert lines[-2:] == ["recipe", lines[-1]]
    assert lines[-1].split() == ["threads", "-", "2"]
    assert run(["runs", "compare", "runs/faces", "runs/faces-2", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["recipe"] == {"threads": [None, 2]}
    assert answer["runs"][0]["numbers"]["prior steps"] == 600


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("list nowhere", 1, "there is no folder nowhere"),
        ("list a.png", 1, "there is no folder a.png"),
        ("plot runs", 1, "runs is not a training run"),
        ("plot runs/new", 2, "nothing to plot yet"),
        ("plot runs/faces -o x.jpg", 2, "must end in .png or .svg"),
        ("compare runs/faces runs/none", 1, "runs/none is not a training run"),
    ],
)
def test_bad_requests_are_one_line(
    runs: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, message: str
) -> None:
    assert run(["runs", *arguments.split()]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1


def test_an_unknown_tracker_is_named(work: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "tiny", "--track", "tensorbord"]) == 2
    said = capsys.readouterr().err
    assert "track: Input should be 'none', 'tensorboard', 'trackio' or 'wandb' (given: tensorbord)" in said

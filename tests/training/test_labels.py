"""Classes from folders to pictures: labels stay with their codes, some are not told, and a name brings its class."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from smalti.cli.app import run
from smalti.data import cached_codes, code_labels, load_pictures, split
from smalti.errors import DataError, UsageError
from smalti.formats.folder import load_model
from smalti.prior import PriorConfig
from smalti.tokenizer import VQGAN, TokenizerConfig
from smalti.training import PriorOptions, Recipe, RunFolder, export, train, train_prior
from smalti.training.labels import dropped
from smalti.training.prior_stage import validate

from .conftest import TINY_PRIOR, TINY_VQGAN

COLOURS = {"blue": (20, 40, 220), "red": (220, 40, 20)}


def paint(folder: Path, per_class: int = 20) -> Path:
    """Pictures of one colour in a folder of that name, with a little noise and a bright stripe somewhere."""
    rng = np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            pixels = np.array(colour) + rng.integers(-20, 20, (16, 16, 3))
            pixels[rng.integers(16)] += 30
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="module")
def sorted_pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return paint(tmp_path_factory.mktemp("sorted"))


def is_red(pixels: np.ndarray[Any, Any]) -> bool:
    return bool(pixels[..., 0].mean() > pixels[..., 2].mean())


@pytest.mark.parametrize(("cuts", "flip"), [(1, False), (1, True), (3, True)])
def test_labels_stay_with_their_codes(sorted_pictures: Path, tmp_path: Path, cuts: int, flip: bool) -> None:
    torch.manual_seed(0)
    tokenizer = VQGAN(TokenizerConfig.model_validate(TINY_VQGAN)).eval()
    training, validation = split(load_pictures(sorted_pictures, (16, 16), tmp_path, cuts=cuts, zoom=1.5), 0.2)
    assert (training.classes, len(training), len(validation)) == (("blue", "red"), 32 * cuts, 8)
    for pictures, mirrored in ((training, flip), (validation, False)):
        labels = code_labels(pictures, flip=mirrored)
        assert len(labels) == len(cached_codes(pictures, tokenizer, tmp_path, flip=mirrored))
        views = np.tile(pictures.batch(np.arange(len(pictures))), (1 + mirrored, 1, 1, 1))
        assert [is_red(pixels) for pixels in views] == (labels == 1).tolist()


def test_classes_can_be_counted_in_another_order(sorted_pictures: Path, tmp_path: Path) -> None:
    pictures = load_pictures(sorted_pictures, (16, 16), tmp_path)
    turned = pictures.with_classes(["red", "green", "blue"])
    assert turned.classes == ("red", "green", "blue")
    assert (turned.own_labels() == np.where(pictures.own_labels() == 1, 0, 2)).all()
    with pytest.raises(DataError, match="class 'blue', which is none of red, green"):
        pictures.with_classes(["red", "green"])


def test_dropping_is_a_share_by_seed_and_place() -> None:
    labels = torch.arange(10_000)
    some = dropped(labels, 0.1, seed=5)
    assert abs(int((some == -1).sum()) - 1000) < 120
    assert torch.equal(some, dropped(labels, 0.1, seed=5))
    assert torch.equal(some[:400], dropped(labels[:400], 0.1, seed=5))  # the place decides
    assert torch.equal(some == -1, dropped(labels.flip(0), 0.1, seed=5) == -1)
    assert not torch.equal(some, dropped(labels, 0.1, seed=6))
    assert torch.equal(dropped(labels, 0.0, seed=5), labels)


def two_kinds(count: int = 40) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Codes that say nothing but their class: all 3, or all 8."""
    labels = np.arange(count) % 2
    return np.broadcast_to(np.where(labels, 8, 3)[:, None, None], (count, 4, 4)).astype(np.uint16), labels


CONFIG = PriorConfig(codebook_size=16, height=4, width=4, n_classes=2, **TINY_PRIOR)
FAST: dict[str, Any] = {"batch": 8, "precision": "float32", "learning_rate": {"peak": 0.01, "warmup": 5},
                        "objective": {"ratio": "cosine"}}  # often all is hidden, and only the label tells


def learn(folder: Path, steps: int, resume: bool = False, **changes: Any) -> Any:
    codes, labels = two_kinds()
    options = PriorOptions(**{"steps": steps, **FAST, "checkpoint_every": 10, **changes})
    return train_prior(codes, CONFIG, options, RunFolder(folder), labels=labels, validation=codes,
                       validation_labels=labels, resume=resume)  # fmt: skip


def test_a_prior_learns_what_a_label_means_and_what_none_means(tmp_path: Path) -> None:
    network = learn(tmp_path, 150, condition_dropout=0.3)
    empty = torch.full((3, 4, 4), -1)
    p = network(empty, label=torch.tensor([0, 1, -1])).softmax(-1).mean(1)
    assert p[0, 3] > 0.9
    assert p[1, 8] > 0.9
    assert 0.25 < p[2, 3] < 0.75  # trained on the dropped ones
    assert p[2, [3, 8]].sum() > 0.9
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    bits = [json.loads(line).get("validation_bits_per_token") for line in lines]
    codes, labels = (torch.from_numpy(a.astype(np.int64)) for a in two_kinds())
    told, untold = (validate(network, codes, "float32", 0, given) for given in (labels, None))
    assert bits[-1] == pytest.approx(told, rel=1e-4)
    assert told < untold


def test_a_labelled_run_resumes_to_the_bit_and_knows_its_labels(tmp_path: Path) -> None:
    whole = learn(tmp_path / "whole", 20, accumulate=2)
    learn(tmp_path / "parts", 10, accumulate=2, learning_rate={"peak": 0.01, "warmup": 5, "decay": "constant"})
    codes, labels = two_kinds()
    with pytest.raises(DataError, match="data changed"):
        train_prior(codes, CONFIG, PriorOptions(steps=20, **FAST), RunFolder(tmp_path / "parts"), labels=1 - labels,
                    resume=True)  # fmt: skip
    constant = {"learning_rate": {"peak": 0.01, "warmup": 5, "decay": "constant"}}
    parts = learn(tmp_path / "parts", 20, resume=True, accumulate=2, **constant)
    expected = learn(tmp_path / "again", 20, accumulate=2, **constant)
    for name, value in expected.state_dict().items():
        assert torch.equal(parts.state_dict()[name], value)
    assert not torch.equal(whole.class_embedding.weight, expected.class_embedding.weight)


@pytest.mark.parametrize(("labels", "says"), [(np.zeros(3, int), "need 40 labels"), (np.full(40, 2), "has 2 classes")])
def test_labels_that_do_not_fit(labels: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        train_prior(two_kinds()[0], CONFIG, PriorOptions(steps=1), RunFolder(tmp_path), labels=labels)


@pytest.fixture(scope="module")
def trained(sorted_pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a toy recipe with labels, trained from the command line."""
    place = tmp_path_factory.mktemp("labelled")
    stage = {"precision": "float32", "log_every": 50, "checkpoint_every": 100, "validate_every": 100, "batch": 8}
    fields = {
        "name": "colours",
        "run": str(place / "run"),
        "device": "cpu",
        "data": {"path": str(sorted_pictures), "size": 16, "validation_share": 0.2, "labels": True, "flip": True},
        "tokenizer": {**stage, "steps": 120, "model": TINY_VQGAN, "learning_rate": {"peak": 0.005}},
        "prior": {**stage, **FAST, "steps": 200, "size": "tiny", "model": TINY_PRIOR, "samples": 4,
                  "condition_dropout": 0.3},
    }  # fmt: skip
    (place / "colours.yaml").write_text(yaml.safe_dump(fields))
    assert run(["train", str(place / "colours.yaml"), "-q"]) == 0
    return place / "run"


def made(folder: Path) -> list[np.ndarray[Any, Any]]:
    return [np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))]


def test_pictures_of_a_class_look_like_it(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = str(trained / "model")
    for label in COLOURS:
        assert run(["generate", "-m", model, "--label", label, "--guidance", "1", "-n", "8", "-o", f"{label}/"]) == 0
    assert [is_red(pixels) for pixels in made(tmp_path / "red")] == [True] * 8
    assert [is_red(pixels) for pixels in made(tmp_path / "blue")] == [False] * 8
    assert run(["generate", "-m", model, "-n", "24", "-o", "any/"]) == 0
    assert 3 <= sum(is_red(pixels) for pixels in made(tmp_path / "any")) <= 21

    capsys.readouterr()
    assert run(["replay", "red/generate-0.png", "--check", "-m", model]) == 0
    assert run(["info", "red/generate-0.png"]) == 0
    assert run(["models", "show", model]) == 0
    out = capsys.readouterr().out
    assert "0 differing codes" in out
    assert "label: red" in out
    assert json.loads(out[out.index("{") :])["info"]["classes"] == ["blue", "red"]

    bits = []
    for label in COLOURS:
        assert run(["score", "red/generate-0.png", "-m", model, "--label", label, "--json"]) == 0
        bits.append(json.loads(capsys.readouterr().out)["bits_per_token"])
    assert bits[0] > bits[1], "a red picture surprises as a blue one"


def test_an_unknown_class_is_one_line(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in (
        (["--label", "rde"], "error: label: no class is called 'rde'; did you mean 'red'? There are: blue, red"),
        (["--guidance", "2"], "error: guidance needs a label, one of blue, red"),
    ):
        assert run(["generate", "-m", str(trained / "model"), "-o", str(tmp_path / "x.png"), *words]) == 2
        assert capsys.readouterr().err.splitlines() == [says]
    assert run(["generate", "--label", "red", "-o", str(tmp_path / "x.png")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: label: builtin:faces has no classes; train one with data.labels=true"
    ]


def test_the_run_remembers_its_classes(trained: Path, tmp_path: Path) -> None:
    looked = load_model(export(trained, tmp_path / "look"))
    assert looked.info["classes"] == ["blue", "red"]
    assert looked.prior is not None
    assert looked.prior.config.n_classes == 2
    assert yaml.safe_load((trained / "config.yaml").read_text())["data"]["classes"] == ["blue", "red"]


def test_classes_of_other_pictures(trained: Path, sorted_pictures: Path, tmp_path: Path) -> None:
    fields = yaml.safe_load((trained / "config.yaml").read_text()) | {"run": str(tmp_path / "other")}
    start = fields | {"start_from": str(trained / "model"), "from_model": str(trained / "model")}
    flat = tmp_path / "flat"
    flat.mkdir()
    (flat / "a.png").write_bytes((sorted_pictures / "red" / "00.png").read_bytes())
    red = str(sorted_pictures / "red")
    cases: list[tuple[dict[str, Any], dict[str, Any], type[Exception], str]] = [
        (fields, {"path": red, "classes": ()}, DataError, "red: these pictures have no classes"),
        (fields, {"validation": str(flat)}, DataError, "flat: these pictures have no classes"),
        (fields, {"classes": ["red"]}, DataError, "class 'blue', which is none of red"),
        (start, {"classes": ["red", "blue"]}, UsageError, "knows the classes blue, red, not red, blue"),
        (fields | {"stage": "prior"}, {"path": None, "codes": "x.npy"}, UsageError, "codes have no class names"),
    ]
    for base, data, error, says in cases:
        with pytest.raises(error, match=says):
            train(Recipe.model_validate(base | {"data": base["data"] | data}))
    twice = fields | {"prior": fields["prior"] | {"model": {**TINY_PRIOR, "n_classes": 3}}}
    with pytest.raises(UsageError, match=r"follows from data\.labels"):
        train(Recipe.model_validate(twice))

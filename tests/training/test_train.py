"""`train`: a folder of pictures becomes a model folder that loads."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from smalti.errors import DataError, ModelError, OutputError, UsageError
from smalti.formats.folder import load_model, verify
from smalti.training import Recipe, export, load_recipe, train
from smalti.training.overview import announced
from smalti.training.progress import Report, SilentProgress, duration, one_line
from smalti.training.recipe import explained_yaml


class Record(SilentProgress):
    def __init__(self) -> None:
        self.stages: list[str] = []

    def report(self, report: Report) -> None:
        self.stages.append(report.stage)


def changed(fields: dict[str, Any], **changes: Any) -> Recipe:
    return Recipe.model_validate({**fields, **changes})


def test_both_stages_then_resume_then_export(recipe: Recipe, tmp_path: Path) -> None:
    seen = Record()
    folder = train(recipe, progress=seen)
    assert folder == tmp_path / "run" / "model"
    verify(folder)
    model = load_model(folder)
    assert model.prior is not None
    assert model.prior.window == (4, 4)
    assert model.info["name"] == "toy"
    assert "reconstruction PSNR" in model.info["metrics"]
    assert set(seen.stages) == {"pictures", "tokenizer", "codes", "prior"}
    run = tmp_path / "run"
    assert {"config.yaml", "env.json", "metrics.jsonl", "samples", "cache"} <= {p.name for p in run.iterdir()}
    assert list((run / "samples").glob("prior-samples-*.png"))

    weights = model.prior.state_dict()
    with pytest.raises(OutputError, match="--resume"):
        train(recipe)
    train(recipe, resume=True)  # nothing left to do: the same model again
    again = load_model(folder).prior
    assert again is not None
    assert all(torch.equal(weights[name], value) for name, value in again.state_dict().items())

    looked = load_model(export(run, tmp_path / "look")).prior
    assert looked is not None
    assert all(torch.equal(weights[name], value) for name, value in looked.state_dict().items())


def test_a_refused_run_leaves_the_earlier_one_as_it_was(fields: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    train(changed(fields))
    config = tmp_path / "run" / "config.yaml"
    before, others = config.read_bytes(), tmp_path / "others"
    shutil.copytree(pictures, others)
    next(path for path in others.rglob("*.png")).unlink()
    elsewhere = {"data": {**fields["data"], "path": str(others)}}
    with pytest.raises(OutputError, match="already holds a tokenizer run"):
        train(changed(fields, seed=5, **elsewhere))
    with pytest.raises(DataError, match="the training data changed"):
        train(changed(fields, **elsewhere), resume=True)
    wider = {**fields["prior"], "model": {**fields["prior"]["model"], "d_model": 32}}
    with pytest.raises(UsageError, match="another prior configuration"):
        train(changed(fields, prior=wider), resume=True)
    assert config.read_bytes() == before
    train(load_recipe(config), resume=True)


def test_two_processes_do_not_train_the_same_run(recipe: Recipe, tmp_path: Path) -> None:
    with announced(tmp_path / "run"):
        held = subprocess.run(
            [sys.executable, "-m", "smalti", "train", str(_written(recipe, tmp_path))],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert held.returncode == 1
    assert "is being trained already" in held.stderr
    assert not (tmp_path / "run").exists()
    with announced(tmp_path / "run"):
        pass  # nobody holds it any more


def _written(recipe: Recipe, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(explained_yaml(recipe))
    return path


def test_a_run_explains_its_recipe(recipe: Recipe, tmp_path: Path) -> None:
    text = explained_yaml(recipe)
    assert "# Optimizer steps. The same recipe then gives the same weights" in text
    assert load_recipe(_written(recipe, tmp_path)) == recipe
    fields = yaml.safe_load(text)
    assert fields == recipe.model_dump(mode="json")
    for line, nextline in pairwise(text.splitlines()):
        assert nextline.strip().startswith("#") or line.strip().startswith("#"), f"{nextline} is not explained"


def test_runs_below_the_pictures_are_no_pictures(fields: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    place = tmp_path / "place"
    shutil.copytree(pictures, place)
    here = {"data": {**fields["data"], "path": str(place)}, "run": str(place / "runs" / "mine")}
    train(changed(fields, **here))
    assert list((place / "runs/mine/samples").glob("*.png"))
    train(changed(fields, **here), resume=True)  # the data have not changed
    with pytest.raises(UsageError, match="holds the pictures"):
        train(changed(fields, **{**here, "run": str(place)}))


def test_one_stage_after_the_other_is_both_at_once(fields: dict[str, Any], tmp_path: Path) -> None:
    both = load_model(train(changed(fields, run=str(tmp_path / "both"))))
    first = train(changed(fields, stage="tokenizer"))
    assert load_model(first).prior is None
    second = load_model(train(changed(fields, stage="prior")))
    other = train(changed(fields, stage="prior", run=str(tmp_path / "other"), from_model=str(first)))
    assert both.prior is not None
    for model in (second, load_model(other)):
        assert model.prior is not None
        for part, expected in ((model.prior, both.prior), (model.tokenizer, both.tokenizer)):
            found = part.state_dict()
            assert all(torch.equal(found[name], value) for name, value in expected.state_dict().items())


def test_training_on_from_a_model(fields: dict[str, Any], tmp_path: Path) -> None:
    owed = {"licence": "CC-BY-4.0", "attribution": "drawn by somebody"}
    first = train(changed(fields, info=owed))
    still = {"learning_rate": {"peak": 1e-12}, "steps": 1, "weight_decay": 0.0}
    stages = {name: {**fields[name], **still} for name in ("tokenizer", "prior")}
    stages["tokenizer"]["revive_until"] = 0
    on = load_model(train(changed(fields, run=str(tmp_path / "on"), start_from=str(first), **stages)))
    before = load_model(first)
    assert {key: on.info[key] for key in owed} == owed  # a licence goes with the weights
    for new, old in ((on.tokenizer, before.tokenizer), (on.prior, before.prior)):
        assert new is not None
        assert old is not None
        weights = old.state_dict()
        assert all(torch.allclose(value, weights[name], atol=1e-8) for name, value in new.state_dict().items())
    stages["prior"]["model"] = {**fields["prior"]["model"], "d_model": 32}
    with pytest.raises(UsageError, match=r"prior of another configuration \(d_model\): d_model is 16 there and 32"):
        train(changed(fields, run=str(tmp_path / "wider"), start_from=str(first), **stages))


def test_models_that_a_recipe_names_are_looked_at_before_anything_else(fields: dict[str, Any], tmp_path: Path) -> None:
    tokenizer_only = str(train(changed(fields, stage="tokenizer", run=str(tmp_path / "first"))))
    run, nowhere = str(tmp_path / "run"), str(tmp_path / "nowhere")
    odd, both = {**fields["data"], "size": 30}, {"start_from": tokenizer_only, "from_model": tokenizer_only}
    for change, error, message in (
        ({"start_from": nowhere}, ModelError, "start_from: no model at"),
        ({"from_model": nowhere}, ModelError, "from_model: no model at"),
        ({"from_model": "builtin:faces", "data": odd}, UsageError, "not a multiple of the 8"),
        ({"stage": "prior"}, UsageError, "the prior needs a tokenizer"),
        ({"start_from": "builtin:face"}, ModelError, "did you mean builtin:faces"),
        ({"start_from": "builtin:faces"}, UsageError, "start_from has a tokenizer of another configuration"),
        ({**both, "stage": "prior"}, UsageError, "has no prior to start from"),
    ):
        with pytest.raises(error, match=message):
            train(changed(fields, run=run, **change))
        assert not (Path(run) / "cache").exists(), change


def test_a_model_of_the_hub_is_fetched_once_before_anything_else(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(changed(fields, run=str(tmp_path / "first")))
    asked: list[bool] = []

    def pull(repository: str, *, local_files_only: bool, **_: Any) -> Path:
        assert repository == "me/model"
        asked.append(local_files_only)
        return folder

    monkeypatch.setattr("smalti.formats.hub.pull", pull)
    train(changed(fields, start_from="me/model"))
    assert asked[0] is False
    assert len(asked) > 1
    assert all(asked[1:])


def test_the_decoder_alone_changes_pictures_and_neither_codes_nor_prior(fields: dict[str, Any], tmp_path: Path) -> None:
    first = load_model(train(changed(fields)))
    alone = {"stage": "decoder", "start_from": str(tmp_path / "run" / "model"), "run": str(tmp_path / "sharper")}
    second = load_model(train(changed(fields, **alone)))
    assert first.prior is not None
    assert second.prior is not None
    prior, tokenizer = first.prior.state_dict(), first.tokenizer.state_dict()
    assert all(torch.equal(value, prior[name]) for name, value in second.prior.state_dict().items())
    moved = {n for n, value in second.tokenizer.state_dict().items() if not torch.equal(value, tokenizer[n])}
    assert moved
    assert all(name.startswith("decoder.") for name in moved)
    train(changed(fields, **alone), resume=True)
    with pytest.raises(UsageError, match="start_from=FOLDER"):
        train(changed(fields, stage="decoder"))
    gumbel = {**fields["tokenizer"], "model": {**fields["tokenizer"]["model"], "quantizer": "gumbel"}}
    start = train(changed(fields, stage="tokenizer", run=str(tmp_path / "gumbel"), tokenizer=gumbel))
    with pytest.raises(UsageError, match="cannot be trained alone"):
        train(changed(fields, stage="decoder", run=str(tmp_path / "alone"), tokenizer=gumbel, start_from=str(start)))


def test_a_half_precision_model_knows_the_codes_of_its_stored_tokenizer(fields: dict[str, Any]) -> None:
    folder = train(changed(fields, dtype="float16"))
    tokenizer = load_model(folder).tokenizer
    assert all(torch.equal(v, v.half().float()) for v in tokenizer.state_dict().values() if v.is_floating_point())
    from smalti.data import cached_codes, load_pictures, split

    training, _ = split(load_pictures(fields["data"]["path"], (16, 16), folder.parent / "cache"), 0.2)
    before = sorted((folder.parent / "cache").glob("codes-*"))
    cached_codes(training, tokenizer, folder.parent / "cache")
    assert sorted((folder.parent / "cache").glob("codes-*")) == before, (
        "the cached codes are those of the stored weights"
    )


def test_what_cannot_be_trained(fields: dict[str, Any], tmp_path: Path) -> None:
    cases: list[tuple[type[Exception], str, dict[str, Any], bool]] = [
        (ModelError, "nothing to resume", {}, True),
        (UsageError, "needs a tokenizer", {"stage": "prior"}, False),
        (
            DataError,
            "make it with: paint",
            {"data": {"path": str(tmp_path / "no"), "make": "paint", "size": 16}},
            False,
        ),
        (DataError, "holds no pictures", {"data": {"path": str(tmp_path / "empty"), "size": 16}}, False),
    ]
    (tmp_path / "empty").mkdir()
    for error, says, changes, resume in cases:
        with pytest.raises(error, match=says):
            train(changed(fields, **changes), resume=resume)


def test_changed_pictures_are_noticed_on_resume(fields: dict[str, Any], pictures: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in pictures.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    fields["data"]["path"] = str(copy)
    train(changed(fields, stage="tokenizer"))
    (copy / "00.png").write_bytes((copy / "01.png").read_bytes())
    with pytest.raises(DataError, match="data changed"):
        train(changed(fields, stage="tokenizer"), resume=True)


def test_sigterm_of_the_command_saves_exits_143_and_resumes(fields: dict[str, Any], tmp_path: Path) -> None:
    """What a cluster does to a job before its time is over."""
    fields["stage"] = "tokenizer"
    fields["tokenizer"] |= {"steps": 10**6, "log_every": 1, "checkpoint_every": 10**6, "validate_every": 10**6}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fields))
    command = [sys.executable, "-m", "smalti", "train", str(tmp_path / "recipe.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    heard = ""
    while "step" not in heard:
        heard = process.stderr.readline()
        assert heard, "it ended before its first report"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=120)
    assert process.returncode == 143
    last = (tmp_path / "run/tokenizer/checkpoints/last").read_text().strip()
    steps = int(last.removeprefix("step-")) + 3
    done = subprocess.run([*command, "--resume", "--set", f"tokenizer.steps={steps}"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    verify(tmp_path / "run/model")


def test_export_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not a training run"):
        export(tmp_path, tmp_path / "x")


def test_the_resolved_recipe_of_a_run_is_complete(recipe: Recipe, tmp_path: Path) -> None:
    train(recipe.model_copy(update={"stage": "tokenizer"}))
    assert load_recipe(tmp_path / "run" / "config.yaml").tokenizer == recipe.tokenizer


def test_progress_in_words() -> None:
    report = Report("prior", 50, 0.25, 100.0, 12.34, {"loss": 1.5, "gradient_norm": 9.0})
    assert one_line(report) == "step 50  12.3 images/s  5:00 left  loss 1.5"
    assert (duration(75), duration(7500.4)) == ("1:15", "2:05:00")

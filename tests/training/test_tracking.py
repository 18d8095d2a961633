"""Trackers: what tensorboard's files hold after a run, how services are called, and that none can end a run."""

from __future__ import annotations

import importlib.machinery
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from smalti.errors import UsageError
from smalti.training import Recipe, train
from smalti.training.progress import Picture, Report, Several, SilentProgress
from smalti.training.tracking import TrackerProgress


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of tensorboard's own dependencies
def test_tensorboards_files_hold_the_metrics_and_the_grids(recipe: Recipe) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(recipe.model_copy(update={"track": "tensorboard"}))
    read = EventAccumulator(str(recipe.folder / "tensorboard"))
    read.Reload()
    scalars, images = set(read.Tags()["scalars"]), set(read.Tags()["images"])
    assert {"tokenizer/loss", "tokenizer/validation_psnr", "prior/validation_bits_per_token"} <= scalars
    assert {"tokenizer/reconstructions", "prior/samples", "prior/inpaintings"} <= images
    assert [event.step for event in read.Scalars("prior/loss")] == [5, 10, 15, 20]
    assert read.Scalars("tokenizer/validation_psnr")[-1].value > 5
    with Image.open(recipe.folder / "samples" / "prior-inpaintings-00000020.png") as grid:
        shown = read.Images("prior/inpaintings")[-1]
        assert (shown.step, shown.width, shown.height) == (20, *grid.size)


class Service(types.ModuleType):
    """A stand-in for wandb or trackio that remembers what it was asked for."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = importlib.machinery.ModuleSpec(name, None)
        self.calls: list[tuple[str, Any]] = []
        self.config = types.SimpleNamespace(update=lambda values, **_: self.calls.append(("config", values)))

    def init(self, **options: Any) -> Service:
        self.calls.append(("init", options))
        return self

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        self.calls.append(("log", values | ({} if step is None else {"given step": step})))

    def define_metric(self, name: str, step_metric: str) -> None:
        self.calls.append(("define", (name, step_metric)))

    def finish(self) -> None:
        self.calls.append(("finish", None))

    class Image:
        def __init__(self, pixels: np.ndarray) -> None:
            self.shape = pixels.shape


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_services_get_each_stage_on_its_own_steps(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service(name)
    monkeypatch.setitem(sys.modules, name, service)
    Image.new("RGB", (6, 4)).save(tmp_path / "grid.png")
    recipe = {"name": "toy", "data": {"size": [16, 16]}, "threads": None}
    with TrackerProgress(name, tmp_path, "toy", recipe) as tracker:  # type: ignore[arg-type]
        assert service.calls == [], "nothing is started before the first report"
        tracker.report(Report("tokenizer", 20, 1.0, 3.0, 7.5, {"loss": 0.5}))
        tracker.report(Report("prior", 5, 0.5, 1.0, None, {"loss": 3.0}))
        tracker.message("reading 40 pictures")
        tracker.message("warning, prior at step 5: look here")
        tracker.picture(Picture("prior", "samples", 5, tmp_path / "grid.png"))
    kinds = [kind for kind, _ in service.calls]
    logs = [values for kind, values in service.calls if kind == "log"]
    assert service.calls[0] == ("init", service.calls[0][1])
    assert service.calls[0][1]["project"] == "smalti"
    assert service.calls[0][1]["name"] == "toy"
    assert ("config", {"name": "toy", "data.size": "[16, 16]", "threads": "null"}) in service.calls
    assert logs[0] == {"tokenizer/loss": 0.5, "tokenizer/images_per_second": 7.5, "tokenizer/step": 20}
    assert logs[1] == {"prior/loss": 3.0, "prior/step": 5}
    assert logs[2] == {"messages": "warning, prior at step 5: look here"}
    assert logs[3]["prior/samples"].shape == (4, 6, 3)
    assert kinds[-1] == "finish"
    assert (("define", ("prior/*", "prior/step")) in service.calls) == (name == "wandb")


def test_a_service_that_fails_does_not_end_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("wandb")

    def refuse(values: dict[str, Any], step: int | None = None) -> None:
        raise ConnectionError("no route\nto host")

    service.log = refuse  # type: ignore[method-assign]
    monkeypatch.setitem(sys.modules, "wandb", service)
    told: list[str] = []
    with TrackerProgress("wandb", tmp_path, "toy", {}, say=told.append) as tracker:
        for step in (1, 2, 3):
            tracker.report(Report("prior", step, 0.1, 1.0))
    assert told == ["wandb failed and is left out from here on: ConnectionError: no route to host"]


@pytest.mark.parametrize(
    ("name", "hint"), [("wandb", "pip install wandb"), ("tensorboard", r"pip install 'smalti\[track\]'")]
)
def test_a_missing_tracker_says_what_to_install(
    name: str, hint: str, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(UsageError, match=f"track: {name} needs {name}, which is not installed: {hint}"):
        train(recipe.model_copy(update={"track": name}))
    assert not recipe.folder.exists()


def test_several_watch_and_the_last_to_come_goes_first() -> None:
    seen: list[str] = []

    class One(SilentProgress):
        def __init__(self, name: str) -> None:
            self._name = name

        def report(self, report: Report) -> None:
            seen.append(f"{self._name} step {report.step}")

        def picture(self, picture: Picture) -> None:
            seen.append(f"{self._name} {picture.kind}")

        def __exit__(self, *error: object) -> None:
            seen.append(f"{self._name} goes")

    with Several(One("a"), One("b")) as both:
        both.report(Report("prior", 3, 0.5, 1.0))
        both.picture(Picture("prior", "samples", 3, Path("x.png")))
        both.message("m")
    assert seen == ["a step 3", "b step 3", "a samples", "b samples", "b goes", "a goes"]

"""Metrics, grids and warnings to a tracker, through Accelerate's classes for them: one of those who watch a run."""

from __future__ import annotations

import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from PIL import Image

from smalti.errors import UsageError
from smalti.training.overview import flattened
from smalti.training.progress import Picture, Report

TrackerName = Literal["none", "tensorboard", "trackio", "wandb"]

_SCALARS = (str, bool, int, float)
PROJECT = "smalti"
"""What the runs are filed under at trackio and wandb."""
_INSTALL = {
    "tensorboard": "pip install 'smalti[track]'",
    "trackio": "pip install trackio accelerate",
    "wandb": "pip install wandb accelerate",
}


class TrackerProgress:
    """Sends what a run reports to a tracker, each value as `<stage>/<name>` at the stage's own step.

    A tracker that fails is given up, with one message: nothing it does can end a run. It starts with the first report,
    when the run's processes know each other.
    """

    def __init__(
        self,
        name: TrackerName,
        run: Path,
        label: str,
        recipe: Mapping[str, Any],
        *,
        say: Callable[[str], None] = lambda text: None,
    ) -> None:
        """run: the run's folder, where tensorboard's files go. label: what the tracker calls it. recipe: plain fields.
        say: who is told of a tracker that fails. Raises UsageError, with what to install, if it is missing.
        """
        for package in (name, "accelerate"):
            if importlib.util.find_spec(package) is None:
                raise UsageError(f"track: {name} needs {package}, which is not installed: {_INSTALL[name]}",
                                 field="track")  # fmt: skip
        self._name, self._run, self._label, self._recipe, self._say = name, run, label, recipe, say
        self._tracker: Any = None
        self._failed = False

    def report(self, report: Report) -> None:
        values = {f"{report.stage}/{name}": value for name, value in report.values.items()}
        if report.images_per_second is not None:
            values[f"{report.stage}/images_per_second"] = report.images_per_second
        self._attempt(lambda tracker: self._log(tracker, report.stage, report.step, values))

    def message(self, text: str) -> None:
        if text.startswith("warning"):
            self._attempt(lambda tracker: tracker.log({"messages": text}))

    def picture(self, picture: Picture) -> None:
        self._attempt(lambda tracker: self._show(tracker, picture))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tracker is not None:
            self._attempt(lambda tracker: tracker.finish())
            self._tracker = None

    def _attempt(self, act: Callable[[Any], None]) -> None:
        if self._failed:
            return
        try:
            if self._tracker is None:
                self._tracker = self._started()
            act(self._tracker)
        except Exception as error:  # whatever a network or a service does
            self._failed = True
            reason = " ".join(str(error).split())[:200]
            self._say(f"{self._name} failed and is left out from here on: {type(error).__name__}: {reason}")

    def _started(self) -> Any:
        from accelerate import PartialState, tracking

        PartialState()  # its loggers ask it for the number of this process
        tracker: Any
        if self._name == "tensorboard":
            tracker = tracking.TensorBoardTracker("tensorboard", self._run)
        elif self._name == "wandb":
            tracker = tracking.WandBTracker(PROJECT, name=self._label, dir=str(self._run))
        else:
            tracker = tracking.TrackioTracker(PROJECT, name=self._label)
        tracker.start()
        plain = flattened(self._recipe)
        tracker.store_init_configuration({k: v if isinstance(v, _SCALARS) else json.dumps(v) for k, v in plain.items()})
        if self._name == "wandb":  # both stages begin at step 0, and its own steps may not go back
            for stage in ("pictures", "tokenizer", "codes", "prior"):
                tracker.tracker.define_metric(f"{stage}/*", step_metric=f"{stage}/step")
        return tracker

    def _log(self, tracker: Any, stage: str, step: int, values: dict[str, Any]) -> None:
        if self._name == "tensorboard":
            tracker.log(values, step=step)
        else:
            tracker.log(values | {f"{stage}/step": step})

    def _show(self, tracker: Any, picture: Picture) -> None:
        with Image.open(picture.path) as opened:
            pixels = np.asarray(opened.convert("RGB"))  # (H, W, 3)
        name = f"{picture.stage}/{picture.kind}"
        if self._name == "tensorboard":
            tracker.log_images({name: pixels[None]}, step=picture.step, dataformats="NHWC")
            return
        module: Any = importlib.import_module(self._name)
        self._log(tracker, picture.stage, picture.step, {name: module.Image(pixels)})


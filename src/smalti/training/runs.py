"""The folder of a training run, and the ways a run can be asked to stop.

runs/faces/config.yaml      the recipe with everything filled in
           env.json         versions and machine
           metrics.jsonl    one line per report: stage, step, seconds, values
           process.json     who trains it, while it is trained
           samples/         grids of pictures
           plots.png        curves, by `smalti runs plot`
           tensorboard/     the same metrics for that program, with `track: tensorboard`
           cache/           pictures and codes made once
           tokenizer/, prior/   checkpoints of each stage
           model/           the result, a model folder
"""

from __future__ import annotations

import json
import platform
import signal
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, Self

import torch

from smalti.errors import DataError, ModelError, OutputError, UsageError
from smalti.files import explained, write_text
from smalti.training.checkpoints import LAST, State, latest_checkpoint, load_checkpoint, save_checkpoint
from smalti.training.grids import save_grid
from smalti.training.progress import Picture, Progress, Report, SilentProgress
from smalti.types import Images


class RunFolder:
    """Where a run keeps its things. Nothing is created before the first write."""

    def __init__(self, path: str | Path, progress: Progress | None = None, *, writes: bool = True) -> None:
        """writes: False in all processes of a run but the first: they read, and neither write nor speak."""
        self.path, self.writes = Path(path), writes
        self.progress: Progress = progress if progress is not None and writes else SilentProgress()
        self._config: str | None = None

    @property
    def cache(self) -> Path:
        return self.path / "cache"

    @property
    def model(self) -> Path:
        return self.path / "model"

    def keep_config(self, text: str, *, resume: bool) -> None:
        """Keep the complete recipe, as YAML, and the environment beside the results.

        Of a resumed run only with the first thing it writes: if it is refused, the recipe it began with stays.
        """
        self._config = text
        if not resume:
            self.write_config()

    def write_config(self) -> None:
        """What `keep_config` was given, if it is not written yet."""
        text, self._config = self._config, None
        if text is not None and self.writes:
            _replace_text(self.path / "config.yaml", text)
            _replace_text(self.path / "env.json", json.dumps(environment(), indent=1) + "\n")

    def stage(self, name: str, *, keep: int = 2) -> StageFolder:
        return StageFolder(self, name, keep)


class StageFolder:
    """The part of a run folder that belongs to one stage."""

    def __init__(self, run: RunFolder, name: str, keep: int = 2) -> None:
        self.run, self.name, self.keep = run, name, keep
        self.checkpoints = run.path / name / "checkpoints"
        self._identity: dict[str, str] = {}

    def restore(self, resume: bool, *, model: str, data: str) -> State | None:
        """The state to go on from; None for a fresh start.

        model, data: what identifies the network's configuration and the training data; kept in every checkpoint, so
        that a run is never continued with others. Raises OutputError if a fresh start would mix with an earlier run,
        ModelError if there is nothing to resume, DataError or UsageError if data or model are not the run's.
        """
        self._identity = {"model": model, "data": data}
        path = latest_checkpoint(self.checkpoints, self.run.progress.message)
        if not resume:
            self.check_fresh()
            return None
        if path is None:
            raise ModelError(f"nothing to resume: no complete {self.name} checkpoint in {self.checkpoints}; to begin "
                             f"this stage again, remove {self.checkpoints.parent}")  # fmt: skip
        state = load_checkpoint(path)
        if state.get("data", data) != data:
            raise DataError(f"the training data changed since {path} was saved: begin again with --set run=FOLDER")
        if state.get("model", model) != model:
            raise UsageError(f"{path} is of another {self.name} configuration: go on with the recipe it began with")
        if self.run.writes:
            _drop_metrics_after(self.run.path / "metrics.jsonl", self.name, int(state["step"]))
        self.run.progress.message(f"{self.name}: going on after step {state['step']}")
        return state

    def check_fresh(self) -> None:
        """Raise OutputError if a fresh start would mix with an earlier run."""
        if self.started():
            raise OutputError(f"{self.run.path} already holds a {self.name} run: go on with --resume, or begin another "
                              "with --set run=FOLDER")  # fmt: skip

    def started(self) -> bool:
        """Whether an earlier process left anything to resume (or a damaged rest of it)."""
        return self.checkpoints.is_dir() and any(p.name.startswith("step-") for p in self.checkpoints.iterdir())

    def save(self, step: int, state: State) -> None:
        """A checkpoint of `state`, which becomes the newest."""
        if self.run.writes:
            self.run.write_config()
            save_checkpoint(self.checkpoints, step, {**state, **self._identity, "step": step}, keep=self.keep)

    def save_best(self, step: int, state: State) -> None:
        """Keep `state` in `best/`, apart from the newest ones."""
        if self.run.writes:
            save_checkpoint(self.checkpoints.parent / "best", step, {**state, "step": step}, keep=1)

    def best(self) -> State | None:
        """What `save_best` kept last, if it is undamaged."""
        path = latest_checkpoint(self.checkpoints.parent / "best", self.run.progress.message)
        return None if path is None else load_checkpoint(path)

    def report(self, report: Report) -> None:
        """One line in metrics.jsonl, and word to whoever watches."""
        if not self.run.writes:
            return
        self.run.write_config()
        line: dict[str, Any] = {"stage": report.stage, "step": report.step, "seconds": round(report.elapsed, 2)}
        if report.images_per_second is not None:
            line["images_per_second"] = round(report.images_per_second, 2)
        line |= {name: float(f"{value:.6g}") for name, value in report.values.items()}
        path = self.run.path / "metrics.jsonl"
        with explained(path):
            self.run.path.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        self.run.progress.report(report)

    def show(self, step: int, kind: str, images: Images, columns: int = 8) -> None:
        """Keep a grid of images `(n, 3, H, W)` in [-1, 1] as samples/<stage>-<kind>-<step>.png, and say so."""
        if not self.run.writes:
            return
        path = self.run.path / "samples" / f"{self.name}-{kind}-{step:08d}.png"
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        save_grid(images, path, columns)
        self.run.progress.picture(Picture(self.name, kind, step, path))


def last_checkpoint_name(folder: Path) -> str | None:
    """What `last` says, if there is one."""
    try:
        return (folder / LAST).read_text("utf-8").strip()
    except OSError:
        return None


def _drop_metrics_after(path: Path, stage: str, step: int) -> None:
    """Forget what a killed run reported after the checkpoint that the resumed one starts from."""
    if not path.is_file():
        return
    kept = []
    for text in path.read_text("utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # the last line of a killed process
        if line.get("stage") != stage or line.get("step", 0) <= step:
            kept.append(text)
    _replace_text(path, "".join(text + "\n" for text in kept))


def _replace_text(path: Path, text: str) -> None:
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text, force=True)


def environment() -> dict[str, Any]:
    """What one needs to know about the machine to understand a result."""
    return {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "command": sys.argv,
    }


class Interruption:
    """Turns Ctrl-C and SIGTERM into a wish that a loop grants between two steps.

    `with Interruption() as wish:` ... at a step's end `if wish.made: save(); wish.grant(wish.made)`. `grant` raises
    KeyboardInterrupt for Ctrl-C and SystemExit(143) for SIGTERM. A second signal acts at once, unless a launcher stands
    between: it passes on what the terminal has sent to everybody already, and kills who takes too long.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.made: int | None = None
        self._launched = launched
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def grant(self, number: int) -> None:
        """Stop now, as the signal `number` means."""
        self._restore()
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.made is not None and not self._launched:
            self.grant(self.made)
        self.made = number

    def _restore(self) -> None:
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, handler)

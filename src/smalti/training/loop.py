"""What both stages' loops share: arithmetic, snapshots, the pace, and the check that a run still makes sense."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from smalti.errors import ModelError, UsageError
from smalti.prior import AbsorbingTransformer, fastest_dtype
from smalti.tokenizer import VQGAN
from smalti.training.checkpoints import State
from smalti.training.parallel import Precision, Processes
from smalti.training.runs import Interruption, StageFolder
from smalti.training.schedules import Clock


def arithmetic(precision: Precision, device: torch.device) -> AbstractContextManager[Any]:
    """Autocast for what needs no gradients: to the format asked for, or to bfloat16 where the processor has it."""
    dtype = fastest_dtype(device) if precision == "auto" else getattr(torch, precision)
    return torch.autocast(device.type, dtype) if dtype != torch.float32 else nullcontext()


def begin_with(start: VQGAN | AbsorbingTransformer, config: BaseModel, *networks: nn.Module) -> None:
    """Copy the weights of `start` into networks of `config`. Raises UsageError if that is not its configuration."""
    check_same_configuration(start.config, config, "prior" if isinstance(start, AbsorbingTransformer) else "tokenizer")
    for network in networks:
        network.load_state_dict(start.state_dict())


def check_same_configuration(start: BaseModel, wanted: BaseModel, stage: str) -> None:
    """Raise UsageError naming the fields in which the configuration to start from is not the recipe's."""
    other = [name for name in type(wanted).model_fields if getattr(start, name, None) != getattr(wanted, name)]
    if other:
        first = other[0]
        raise UsageError(
            f"start_from has a {stage} of another configuration ({', '.join(other)}): {first} is "
            f"{getattr(start, first, None)} there and {getattr(wanted, first)} in the recipe",
            field="start_from",
        )


def restored(
    stage: StageFolder, resume: bool, processes: Processes, *, model: str, data: str
) -> State | None:
    """`StageFolder.restore`, and a look whether all processes found the same."""
    state = stage.restore(resume, model=model, data=data)
    if not processes.same(-1 if state is None else state["step"]):
        raise ModelError(
            f"the processes do not see the same checkpoints in {stage.checkpoints}: the run's folder has to be on a "
            "disk that all machines share"
        )
    return state


class Keeper:
    """Saves checkpoints when due, when asked to stop, and at the end; never one with NaN in it."""

    def __init__(
        self,
        stage: StageFolder,
        every: int,
        snapshot: Callable[[], State],
        wish: Interruption,
        saved: int | None,
        processes: Processes,
    ) -> None:
        """snapshot: the state to save now. saved: the step of the checkpoint that the run started from, if any."""
        self._stage, self._every, self._snapshot, self._wish = stage, every, snapshot, wish
        self._saved, self._processes = saved, processes

    def after(self, step: int, loss: Tensor) -> None:
        """To be called after each step. Raises KeyboardInterrupt or SystemExit, once all is saved, if asked to stop.

        If any process was asked, all stop here.
        """
        stop = int(self._processes.most(self._wish.made or 0))
        if step % self._every == 0 or stop:
            self.save(step, loss)
        if stop:
            self._wish.grant(stop)

    def save(self, step: int, loss: Tensor) -> None:
        """A checkpoint of `step`, unless there is one. Raises ModelError if the run has diverged."""
        if self._saved == step:
            return
        self._write(step, loss)

    def finish(self, step: int, loss: Tensor | None, *, timed: bool) -> None:
        """The last checkpoint; of a timed run even if there is one, so that a resume finds the time used up."""
        if loss is None:  # nothing was left to do
            return
        if timed or self._saved != step:
            self._write(step, loss)

    def _write(self, step: int, loss: Tensor) -> None:
        check_finite({"loss": float(self._processes.mean(loss))}, self._stage, step)
        state = self._processes.whole(self._snapshot())
        # a finite loss says nothing of the update that followed it, nor of the critic's
        check_finite(dict.fromkeys(not_finite(state)[:3], math.nan), self._stage, step)
        with self._processes.first():  # whoever stops or goes on here finds it written
            self._stage.save(step, state)
        self._saved = step


def check_finite(values: Mapping[str, float], stage: StageFolder, step: int) -> None:
    """Raises ModelError, naming the last good checkpoint, if any value is NaN or infinite."""
    bad = [name for name, value in values.items() if not math.isfinite(value)]
    if bad:
        kept = (
            f"the last good checkpoint is kept in {stage.checkpoints}: lower the learning rate and go on with --resume"
            if stage.started()
            else "before the first checkpoint: begin again with a lower learning rate"
        )
        raise ModelError(f"the {stage.name} diverged: {', '.join(bad)} not finite at step {step}; {kept}")


def not_finite(state: Any, name: str = "") -> list[str]:
    """Where in nested `state` tensors hold NaN or infinity, as "network.head.weight"."""
    if isinstance(state, Tensor):
        return [name] if state.is_floating_point() and not bool(torch.isfinite(state).all()) else []
    if isinstance(state, dict):
        inner = list(state.items())
    elif isinstance(state, list | tuple):
        inner = list(enumerate(state))
    else:
        return []
    return [bad for key, value in inner for bad in not_finite(value, f"{name}.{key}".lstrip("."))]


def parts_before(state: State | None, wanted: int, pictures: int) -> int:
    """In how many parts a process computes its `pictures`: as the resumed run did, whose last bits depend on it."""
    before = 1 if state is None else int(state.get("parts", 1))
    return max(wanted, before) if pictures % max(wanted, before) == 0 else wanted


class Pace:
    """Pictures per second since the last look."""

    def __init__(self, images: int) -> None:
        self._images, self._clock = images, Clock()

    def now(self, images: int) -> float:
        """`images`: pictures trained on so far."""
        pace = (images - self._images) / max(self._clock.elapsed, 1e-9)
        self._images, self._clock = images, Clock()
        return pace

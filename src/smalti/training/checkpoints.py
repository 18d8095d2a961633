"""Checkpoints that survive anything: a folder written beside, fsynced, hashed, and renamed into place.

    checkpoints/step-00001000/state.safetensors   every tensor of the state
                              state.json          everything else, and where the tensors belong
                              manifest.json       sha256 and size of both, written last
    checkpoints/last                              the name of the newest complete one, for people and tools

A reader trusts a folder only if its manifest agrees with its files, so a half-written or damaged one is skipped to the
one before. A step that is saved again becomes step-00001000-1, and so on: nothing complete is removed before its
successor is in place. Nothing in a checkpoint is executed when it is read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from smalti.errors import ModelError, OutputError, UsageError
from smalti.files import explained, sha256_file

State = dict[str, Any]
"""Nested dicts, lists and tuples of tensors, numbers, strings, bools and None; dict keys are strings or integers."""

TENSORS, TREE, MANIFEST, LAST = "state.safetensors", "state.json", "manifest.json", "last"
_NAME = re.compile(r"step-(\d{8,})(?:-(\d+))?")


def save_checkpoint(folder: Path, step: int, state: State, *, keep: int = 2) -> Path:
    """Write `state` as `folder/step-<step>` and return that path; at most `keep` checkpoints stay.

    Those of later steps go: a run that saves step 100 has left behind what it once called step 200. A crash at any
    moment leaves the earlier checkpoints as they were. Raises OutputError if the disk refuses.
    """
    final = folder / _next_name(folder, step)
    beside = folder / f".{final.name}.{os.getpid()}.tmp"
    try:
        with explained(final):
            folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir()
            _write(beside, state, step)
            os.replace(beside, final)
            _sync(folder)
            _point_to(folder, final.name)
            _prune(folder, final, keep)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
    return final


def load_checkpoint(path: Path) -> State:
    """The state saved at `path`. Raises ModelError naming the file that is missing or damaged."""
    problem = damage(path)
    if problem:
        raise ModelError(problem)
    try:
        tensors = load_file(path / TENSORS)
        state = _unpack(json.loads((path / TREE).read_text("utf-8"))["state"], tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error
    assert isinstance(state, dict)
    return state


def latest_checkpoint(folder: Path, warn: Callable[[str], None] = lambda text: None) -> Path | None:
    """The newest complete checkpoint in `folder`; damaged ones are named through `warn` and skipped."""
    if not folder.is_dir():
        return None
    for path in sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=_place, reverse=True):
        problem = damage(path)
        if problem is None:
            return path
        warn(f"skipped a damaged checkpoint: {problem}")
    return None


def damage(path: Path) -> str | None:
    """What is wrong with the checkpoint at `path`, in one line; None if its files are what its manifest says."""
    try:
        manifest = json.loads((path / MANIFEST).read_text("utf-8"))
        for name, entry in manifest["files"].items():
            file = path / name
            if not file.is_file():
                return f"{file} is missing"
            if file.stat().st_size != entry["bytes"] or sha256_file(file) != entry["sha256"]:
                return f"{file} is not what was saved (wrong size or hash)"
    except FileNotFoundError:
        return f"{path / MANIFEST} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{path / MANIFEST} cannot be read: {error}"
    return None


# --- writing ----------------------------------------------------------------------------------------------------------


def _write(folder: Path, state: State, step: int) -> None:
    tensors: dict[str, Tensor] = {}
    tree = _pack(state, tensors)
    try:
        save_file(tensors, folder / TENSORS)
    except SafetensorError as error:  # its way to report a full disk
        full = "No space left" in str(error)
        raise OutputError(f"cannot write {folder / TENSORS}: {'the disk is full' if full else error}") from error
    (folder / TREE).write_text(json.dumps({"step": step, "state": tree}), "utf-8")
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)}
        for name in (TENSORS, TREE)
    }
    for name in (TENSORS, TREE):
        _sync(folder / name)
    (folder / MANIFEST).write_text(json.dumps({"format": 1, "step": step, "files": files}, indent=1), "utf-8")
    _sync(folder / MANIFEST)
    _sync(folder)


def _point_to(folder: Path, name: str) -> None:
    beside = folder / f".{LAST}.{os.getpid()}.tmp"
    beside.write_text(name + "\n", "utf-8")
    _sync(beside)
    os.replace(beside, folder / LAST)
    _sync(folder)


def _prune(folder: Path, newest: Path, keep: int) -> None:
    """Remove all but `keep` checkpoints up to `newest`, later ones, and what killed processes left behind."""
    known = sorted((p for p in folder.iterdir() if _NAME.fullmatch(p.name)), key=_place, reverse=True)
    after = [path for path in known if _place(path) > _place(newest)]
    for path in after + known[len(after) + max(1, keep) :]:
        # a half-removed one should not look like one that was damaged
        with suppress(OSError):
            path.rename(folder / f".{path.name}.{os.getpid()}.tmp")
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _next_name(folder: Path, step: int) -> str:
    """step-00000007, or step-00000007-1, -2 ... if that step has been saved before."""
    known = [_place(path) for path in folder.iterdir()] if folder.is_dir() else []
    again = [count + 1 for at, count in known if at == step]
    return f"step-{step:08d}" + (f"-{max(again)}" if again else "")


def _place(path: Path) -> tuple[int, int]:
    """(step, how often it had been saved before)."""
    match = _NAME.fullmatch(path.name)
    return (int(match[1]), int(match[2] or 0)) if match else (-1, 0)


def _sync(path: Path) -> None:
    """Force a file, or a folder's entries, to the disk; folders cannot be opened on Windows, which needs no such."""
    if path.is_dir() and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# --- nested states as tensors and JSON --------------------------------------------------------------------------------


def _pack(value: Any, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """`value` as JSON in which each node names its kind; tensors go to `tensors` under numbers."""
    if isinstance(value, Tensor):
        key = str(len(tensors))
        tensors[key] = value.detach().cpu().contiguous().clone()  # a copy: safetensors refuses shared memory
        return {"tensor": key}
    if isinstance(value, dict):
        return {"dict": [[key, _pack(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, tensors) for item in value]}
    if isinstance(value, list):
        return {"list": [_pack(item, tensors) for item in value]}
    if value is None or isinstance(value, bool | int | float | str):
        return {"value": value}
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpack(node: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = node.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "dict":
            return {key: _unpack(item, tensors) for key, item in content}
        case "tuple":
            return tuple(_unpack(item, tensors) for item in content)
        case "list":
            return [_unpack(item, tensors) for item in content]
        case "value":
            return content
    raise ValueError(f"unknown kind of node {kind!r}")


# --- optimizers -------------------------------------------------------------------------------------------------------


def load_optimizer(optimizer: torch.optim.Optimizer, state: State) -> None:
    """`optimizer.load_state_dict`, with each moment in the memory layout of its weight.

    A file knows no layouts, while fused kernels walk weight, gradient and moments by the same addresses. Raises
    UsageError for the state of another optimizer.
    """
    shapes = [{"muon" in group: len(group["params"])} for group in state["param_groups"]]
    if shapes != [{"muon" in group: len(group["params"])} for group in optimizer.param_groups]:
        raise UsageError("the checkpoint is of another optimizer: go on with the one the run began with",
                         field="optimizer")  # fmt: skip
    optimizer.load_state_dict(state)
    for weight, moments in optimizer.state.items():
        for name, value in moments.items():
            if not isinstance(value, Tensor) or value.shape != weight.shape:
                continue
            if hasattr(weight, "placements"):  # divided among processes
                from torch.distributed.tensor import distribute_tensor

                moments[name] = distribute_tensor(value, weight.device_mesh, weight.placements)  # type: ignore[attr-defined]
            elif value.stride() != weight.stride():
                moments[name] = torch.empty_like(weight, dtype=value.dtype).copy_(value)

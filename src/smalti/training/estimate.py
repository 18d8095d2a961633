"""What a stage will cost, before it starts: memory and time, measured on a few pictures and continued along a line.

The weights' share is counted to the byte; that of a picture is what one forward and backward pass really holds. A batch
that does not fit is computed in parts, which changes no result but the last bits.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smalti.errors import ModelError, UsageError
from smalti.training.parallel import Processes
from smalti.training.progress import duration
from smalti.training.schedules import Clock, Length

Rehearsal = Callable[[int], None]
"""A forward and backward pass over that many pictures, which leaves no trace."""

_USABLE: Final = {"cuda": 0.9}
"""Share of the free memory that is planned with, by kind of device: allocators and libraries take theirs."""
_USABLE_OF_SYSTEM: Final = 0.6
"""The same of system memory: a process has been seen to hold 1.0 to 1.6 times the bytes of its tensors."""
_FEW: Final = 4
"""Pictures of the larger of two rehearsals."""


@dataclass(frozen=True)
class Line:
    """y = fixed + each * n."""

    fixed: float
    each: float

    def at(self, n: float) -> float:
        return self.fixed + self.each * n


def through(first: tuple[int, float], second: tuple[int, float]) -> Line:
    """The line through (n, y) at two n; through the origin if they are one point, and never falling."""
    (n, y), (m, z) = first, second
    if n == m:
        return Line(0.0, y / n)
    each = max(0.0, (z - y) / (m - n))
    return Line(max(0.0, y - each * n), each)


@dataclass(frozen=True)
class Costs:
    """What one process of a stage needs."""

    standing: int
    """Bytes of weights and their average, taken already."""
    moments: int
    """Bytes the optimizers will take at the first step."""
    passing: Line
    """Bytes of a forward and backward pass, with gradients, by pictures computed at once."""
    seconds: Line
    """Seconds of the same."""

    def memory(self, pictures: int) -> float:
        """Bytes in all, of parts of that many pictures."""
        return self.standing + self.to_come(pictures)

    def to_come(self, pictures: int) -> float:
        """The same, less what is taken already."""
        return self.moments + self.passing.at(pictures)

    def step(self, pictures: int, parts: int) -> float:
        """Seconds per optimizer step."""
        return parts * self.seconds.at(pictures / parts)


def parts_that_fit(pictures: int, costs: Costs, usable: float, at_least: int = 1) -> int | None:
    """The smallest number of equal parts of `pictures` (of one process) that fits; None if single ones do not.

    usable: bytes that may be taken now. at_least: parts that were asked for.
    """
    for parts in range(at_least, pictures + 1):
        if pictures % parts == 0 and costs.to_come(pictures // parts) <= usable:
            return parts
    return None


def plan_parts(
    name: str,
    rehearse: Rehearsal,
    processes: Processes,
    length: Length,
    *,
    batch: int,
    parts: int,
    progress: float,
    weights: int,
    standing: int,
    moments: int,
    message: Callable[[str], None],
) -> int:
    """Measure what the stage `name` will take, say it, and return the parts in which each process computes its share.

    batch: global; parts: as the recipe wants; progress: share of the stage that is done already; weights: parameters,
    for the words; standing, moments: see `Costs`.
    Raises UsageError if not even one picture at a time fits.
    """
    if progress >= 1:
        return parts
    pictures = batch // processes.count
    costs = measure(rehearse, pictures // parts, processes.device, standing, moments)
    available = available_memory(processes.device) / processes.neighbours
    usable = _USABLE.get(processes.device.type, _USABLE_OF_SYSTEM) * available
    fitting = parts_that_fit(pictures, costs, usable, parts) or 0
    # one for whom nothing fits decides for all, as does the one that has to take the smallest parts
    impossible, fitting = processes.most(not fitting), int(processes.most(fitting))
    while not impossible and processes.device.type == "cuda":
        if not processes.most(not survives(rehearse, pictures // fitting, moments, processes.device)):
            break
        fitting = next((n for n in range(2 * fitting, pictures + 1) if pictures % n == 0), 0)
        impossible = not fitting
    if impossible:
        raise UsageError(
            f"the {name} does not fit: one picture at a time needs {_bytes(costs.to_come(1))}, and of "
            f"{_bytes(available)} free memory {_bytes(usable)} can be used: choose a smaller {name}.size or data.size",
            field=f"{name}.size",
        )
    message(in_words(name, weights, costs, length, progress, pictures, fitting, available, processes.count))
    if fitting > parts:
        message(
            f"{name}: a batch of {batch} is too large for this memory: it is computed in {fitting} parts "
            f"({name}.accumulate: {fitting}), which takes longer and learns the same"
        )
    return fitting


def in_words(
    name: str,
    weights: int,
    costs: Costs,
    length: Length,
    progress: float,
    pictures: int,
    parts: int,
    available: float,
    processes: int,
) -> str:
    """One line about memory, and the time that is left at `progress` 0..1."""
    step, left, more = costs.step(pictures, parts), 1 - progress, " more" if progress else ""
    if length.budget_minutes is None:
        steps = round(left * length.steps)
        time = f"{steps:,}{more} steps in about {duration(steps * step)}"
    else:
        minutes = left * length.budget_minutes
        time = f"about {60 * minutes / max(step, 1e-9):,.0f}{more} steps in {minutes:.3g} minutes"
    each = f" in each of {processes} processes" if processes > 1 else ""
    return (
        f"{name}: {weights / 1e6:.2f} M weights; about {_bytes(costs.memory(pictures // parts))} of memory{each} "
        f"({_bytes(available)} free) and {step:.3g} s a step: {time}"
    )


def bytes_of(networks: Iterable[nn.Module]) -> int:
    """Bytes of all parameters and buffers."""
    return sum(_local_bytes(value) for network in networks for value in [*network.parameters(), *network.buffers()])


def moments_of(optimizers: Iterable[torch.optim.Optimizer]) -> int:
    """Bytes the optimizers' state takes from the first step on: two moments per weight, one for Muon's matrices."""
    return sum(
        _local_bytes(weight) * (1 if group.get("muon") else 2)
        for optimizer in optimizers
        for group in optimizer.param_groups
        for weight in group["params"]
    )


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(rehearse: Rehearsal, pictures: int, device: torch.device, standing: int, moments: int) -> Costs:
    """`Costs` from rehearsals of one picture and of a few, at most `pictures`."""
    few = max(1, min(pictures, _FEW))
    points = []
    for n in (1, few):
        with counted_bytes() as peak:  # first, because the first pass also wakes libraries up
            rehearse(n)
        clock = Clock()
        rehearse(n)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        points.append((n, float(peak()), clock.elapsed))
    (n, low, short), (m, high, long) = points
    return Costs(standing, moments, through((n, low), (m, high)), through((n, short), (m, long)))


@contextlib.contextmanager
def counted_bytes() -> Iterator[Callable[[], int]]:
    """Counts the bytes of tensors made inside, on any device; gives a function that says their peak."""
    with _Counting() as counting:
        yield lambda: counting.peak


class _Counting(TorchDispatchMode):
    """Sees every operation, forwards and backwards, and follows the life of each storage that is new."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._now = 0
        self._alive: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        known = {_address(t) for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        made = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, Tensor) and _address(tensor) not in known | self._alive:
                storage, address = tensor.untyped_storage(), _address(tensor)
                self._alive.add(address)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._freed, address, storage.nbytes())
        self.peak = max(self.peak, self._now)
        return made

    def _freed(self, address: int, size: int) -> None:
        self._alive.discard(address)
        self._now -= size


def _address(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def survives(rehearse: Rehearsal, pictures: int, moments: int, device: torch.device) -> bool:
    """Whether a part of the real size, beside the optimizer's moments, really fits; asked where a failure is harmless.

    Of use on GPUs only: system memory is promised by the kernel without being there.
    """
    try:
        room = torch.empty(moments, dtype=torch.uint8, device=device)
        rehearse(pictures)
        del room
    except torch.OutOfMemoryError:
        fits = False
    else:
        fits = True
    torch.cuda.empty_cache()
    return fits


@contextlib.contextmanager
def explained_memory(stage: str) -> Iterator[None]:
    """Turn running out of a GPU's memory into a ModelError that says how to go on."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise ModelError(f"the {stage} ran out of memory: go on with --resume and a larger {stage}.accumulate "
                         "(parts in which a batch is computed)") from None  # fmt: skip


def release_memory() -> None:
    """Give freed system memory back: glibc keeps the holes between tensors whose sizes change from step to step, and
    holds several times what is in use after an hour. Takes a few hundredths of a second; elsewhere nothing happens."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def available_memory(device: torch.device) -> int:
    """Bytes that are free where `device` computes; of system memory no more than a container's limit leaves."""
    if device.type == "cuda":
        free = int(torch.cuda.mem_get_info(device)[0])
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    import psutil  # comes with Accelerate

    free = int(psutil.virtual_memory().available)
    group = Path("/sys/fs/cgroup")
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit
        limit = int((group / "memory.max").read_text("ascii"))
        free = min(free, limit - int((group / "memory.current").read_text("ascii")))
    return free


def _local_bytes(value: Tensor) -> int:
    local: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return local.nbytes


def _bytes(count: float) -> str:
    """`1.2e9` -> "1.2 GB"."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{math.ceil(count / 1e6)} MB"

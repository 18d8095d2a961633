"""The processes that train together, and what Accelerate does in each: devices, number formats, gradients, waiting.

A batch is global: of its rows 0, 1, 2, ... process r of R computes r, r + R, ..., in one part or in several. What is
drawn for a batch (masks, mirrors, augmentations) is drawn for all of it in every process, so nothing depends on how
it is split. No other file knows Accelerate (extra `train`), and no loop asks whether it is alone.
"""

from __future__ import annotations

import atexit
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import ModuleType
from typing import Any, Final, Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti.prior import fastest_dtype
from smalti.training.checkpoints import State
from smalti.training.grids import interleave

Precision = Literal["auto", "float32", "bfloat16", "float16"]

_PATIENCE: Final = timedelta(hours=24)
"""How long a process waits for another: the first one may have millions of pictures to prepare. A process that dies is
noticed by the launcher, not by this."""

_ENGINES: Final = ("FSDP", "DEEPSPEED", "MEGATRON_LM")
"""What Accelerate can be told to do with a model behind the back of a loop; `Processes.shard` does it in its sight."""

_FORMATS: Final = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}

Net = TypeVar("Net", bound=nn.Module)


class Processes:
    """Those that train together: one, or as many as `accelerate launch` or `torchrun` started."""

    def __init__(self, device: torch.device | str) -> None:
        """device: where this process computes; of several GPUs each process takes its own.

        Raises UsageError if Accelerate is not installed, or if it was told to shard in its own way.
        """
        accelerate, self.device = _accelerate(), torch.device(device)
        engines = [name for name in _ENGINES if os.environ.get(f"ACCELERATE_USE_{name}", "false").lower() == "true"]
        if engines:
            raise UsageError(f"Accelerate is set up for {engines[0]}: start it without (--multi_gpu); "
                             "prior.shard: true divides a large prior", field="prior.shard")  # fmt: skip
        alone = not dist.is_initialized()
        if alone:  # whoever trains twice in one process may do it on two devices
            accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)
        if self.device.type == "cuda" and self.device.index is not None:
            torch.cuda.set_device(self.device)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on several CPU processes it chooses the threads, and says so
            state = accelerate.PartialState(cpu=self.device.type == "cpu", timeout=_PATIENCE)
        self.rank: Final[int] = state.process_index
        self.count: Final[int] = state.num_processes
        if self.count > 1:
            self.device = self.device if self.device.type == "cpu" else state.device
            # words between processes go over the CPU, so that no GPU has to be waited for
            self._words = None if dist.get_backend() == "gloo" else dist.new_group(backend="gloo", timeout=_PATIENCE)
            if alone:
                atexit.register(_part)

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes and speaks."""
        return self.rank == 0

    @property
    def launched(self) -> bool:
        """Whether a launcher started this process: it then passes on signals that the terminal sent already."""
        return self.count > 1 or "TORCHELASTIC_RUN_ID" in os.environ

    @property
    def neighbours(self) -> int:
        """Processes on this machine, which share its memory."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", 1)) if self.count > 1 else 1

    def rows(self, part: int = 0, parts: int = 1) -> slice:
        """The rows of a global batch that this process computes, or a part of them.

        Every n-th and not n in a row: masks are stratified along the batch, so each part gets few and many.
        """
        return slice(self.rank + self.count * part, None, self.count * parts)

    def most(self, value: float) -> float:
        """The largest `value` of all processes, which is then the same in all."""
        if self.count == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64)
        dist.all_reduce(shared, dist.ReduceOp.MAX, group=self._words)
        return float(shared)

    def same(self, value: float) -> bool:
        """Whether all processes have the same `value`."""
        return self.most(value) == -self.most(-value)

    def total(self, values: Tensor) -> Tensor:
        """The sum of `values` over all processes; the tensor itself is left alone."""
        if self.count == 1:
            return values
        total = values.detach().clone()
        dist.all_reduce(total)
        return total

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes: of what each averaged over its rows."""
        return values if self.count == 1 else self.total(values) / self.count

    def gathered(self, rows: Tensor) -> Tensor:
        """The global batch `(n, ...)` in its order, from the rows `(n / count, ...)` of each process."""
        if self.count == 1:
            return rows
        everybodys = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(self.count)]
        dist.all_gather(everybodys, rows.contiguous())
        return interleave(*everybodys)

    def alike(self, *networks: nn.Module) -> None:
        """Give all processes the first one's weights and buffers: equal arithmetic need not round equally."""
        if self.count > 1:
            for network in networks:
                for value in network.state_dict().values():
                    dist.broadcast(value, 0)

    @contextmanager
    def first(self) -> Iterator[None]:
        """Work that one process does for all: the others begin when it is done (and find it done, on a shared disk)."""
        if self.count == 1:
            yield
            return
        if not self.leads:
            dist.barrier(group=self._words)
        try:
            yield
        finally:
            if self.leads:
                dist.barrier(group=self._words)

    def shard(self, networks: Sequence[Net], layers: str, methods: Sequence[str]) -> None:
        """Divide the weights of `networks` among the processes (FSDP2); layer by layer they are put together for use.

        layers: the attribute that holds what is put together at a time; methods: how they are called besides
        `forward`. PyTorch's `fully_shard` and not Accelerate's plugin, which calls the same but never on a CPU, where
        it can be tested.
        """
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

        mesh = init_device_mesh(self.device.type, (self.count,))
        for network in networks:
            for layer in getattr(network, layers):
                fully_shard(layer, mesh=mesh)
                for method in methods:
                    register_fsdp_forward_method(layer, method)
            # also after a forward pass without a backward one, or the average would lie about whole
            fully_shard(network, mesh=mesh, reshard_after_forward=True)

    def whole(self, state: State) -> State:
        """`state` with divided tensors put together on the CPU; all processes have to ask."""
        whole: State = state if self.count == 1 else _whole(state)
        return whole


def check_precision(precision: Precision, device: torch.device) -> None:
    """Raise UsageError for a number format that the device lacks."""
    if precision == "float16" and device.type == "cpu":
        raise UsageError("float16 is for GPUs: choose bfloat16 or float32", field="precision")


class Gradients:
    """How a stage computes its gradients: number format, parts of a batch, processes, clipping. One per stage."""

    def __init__(self, processes: Processes, precision: Precision, parts: int) -> None:
        """parts: how many calls of `part` make one step. Raises UsageError for a format that the device lacks."""
        accelerate, device = _accelerate(), processes.device
        dtype = fastest_dtype(device) if precision == "auto" else getattr(torch, precision)
        check_precision(precision, device)
        accelerate.state.AcceleratorState._reset_state()  # the stage before may have had another format
        self._accelerator = accelerate.Accelerator(
            cpu=device.type == "cpu",
            mixed_precision=_FORMATS[dtype],
            gradient_accumulation_plugin=accelerate.utils.GradientAccumulationPlugin(num_steps=parts),
            kwargs_handlers=[
                # buffers are equal anyway; sent at each forward pass they would break a critic that is asked twice
                accelerate.DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True)
            ],
        )

    def learner(self, network: nn.Module) -> nn.Module:
        """`network` to be called in training: its gradients are averaged over the processes."""
        with warnings.catch_warnings():
            # `broadcast_buffers` has another name since torch 2.13, which Accelerate does not know yet
            warnings.simplefilter("ignore", FutureWarning)
            learner: nn.Module = self._accelerator.prepare_model(network, device_placement=False)
        return learner

    def optimizer(self, optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
        """`optimizer`, which in float16 skips a step that overflowed."""
        return self._accelerator.prepare_optimizer(optimizer, device_placement=False)  # type: ignore[no-any-return]

    def part(self, learner: nn.Module) -> AbstractContextManager[Any]:
        """Around the forward and backward pass of one part; gradients travel with the last part only."""
        return self._accelerator.accumulate(learner)  # type: ignore[no-any-return]

    def autocast(self) -> AbstractContextManager[Any]:
        """Around arithmetic in the stage's number format."""
        return self._accelerator.autocast()  # type: ignore[no-any-return]

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a part's mean loss to that of the batch's."""
        self._accelerator.backward(loss)

    def clip(self, network: nn.Module, optimizer: torch.optim.Optimizer, most: float) -> Tensor:
        """Shorten the gradient to the norm `most`; returns the norm before, 0 for a step that overflowed in float16."""
        self._accelerator.unscale_gradients(optimizer)
        norm = nn.utils.clip_grad_norm_(network.parameters(), most)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm
        return norm if self._accelerator.scaler is None else norm.nan_to_num(0.0, posinf=0.0)

    def state(self) -> State | None:
        """What a resumed run needs: the loss scale of float16."""
        scaler = self._accelerator.scaler
        return None if scaler is None else scaler.state_dict()

    def load(self, state: State | None) -> None:
        if self._accelerator.scaler is not None and state:
            self._accelerator.scaler.load_state_dict(state)


def leads() -> bool:
    """Whether a launcher made this process the first, or there is none; known before anything is set up."""
    return os.environ.get("RANK", "0") == "0"


def processes_planned() -> int:
    """How many processes a launcher says there will be."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _accelerate() -> ModuleType:
    try:
        import accelerate
    except ImportError:
        raise UsageError("training needs Accelerate: pip install 'smalti[train]'") from None
    module: ModuleType = accelerate
    return module


def _whole(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.full_tensor().cpu() if hasattr(value, "full_tensor") else value
    if isinstance(value, dict):
        return {key: _whole(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_whole(item) for item in value)
    return value


def _part() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()

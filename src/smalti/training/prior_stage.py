"""The second stage: codes to a prior. One loop; what it minimises lives in `smalti.prior.objectives`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti.files import sha256_bytes
from smalti.prior import (
    AbsorbingTransformer,
    LossTerms,
    Masked,
    ObjectiveOptions,
    PriorConfig,
    draw_masks,
    masked_loss,
    stratified_elbo,
)
from smalti.sampling import SamplerOptions, fill
from smalti.tokenizer import VQGAN
from smalti.training.batches import Batches, check_batch, derived_seed
from smalti.training.checkpoints import State, load_optimizer
from smalti.training.ema import Ema
from smalti.training.estimate import bytes_of, explained_memory, moments_of, plan_parts, release_memory
from smalti.training.inpaintings import draw_inpaintings
from smalti.training.labels import NO_LABEL, Labels, dropped, resident_labels
from smalti.training.loop import Keeper, Pace, arithmetic, begin_with, check_finite, parts_before, restored
from smalti.training.optimizers import OptimizerName, build_optimizer
from smalti.training.parallel import Gradients, Precision, Processes
from smalti.training.progress import Report
from smalti.training.runs import Interruption, RunFolder, StageFolder
from smalti.training.schedules import Clock, LearningRate, Length
from smalti.types import EMPTY


class PriorOptions(Length):
    """How the prior is trained."""

    size: str = "small"
    """Named size of the network: tiny, mini, small, medium, large, paper."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Fields of the network's configuration that differ from the named size."""
    objective: ObjectiveOptions = ObjectiveOptions()
    """The loss."""
    batch: Annotated[int, Field(ge=1)] = 32
    """Pictures per optimizer step, of all processes together."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts in which each process computes its share of a batch, to save memory; more if memory asks for it."""
    shard: bool = False
    """Divide weights, average and moments among the processes (FSDP2): for a prior too large for one GPU."""
    learning_rate: LearningRate = LearningRate(peak=1e-3, warmup=200)
    """Learning rate and its course."""
    optimizer: OptimizerName = "adamw"
    """What moves the weights: "muon" = Muon for the matrices of the blocks, AdamW for the rest, at the same rate."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.03
    """Decay of matrices; embeddings, norms and biases do not decay."""
    betas: tuple[float, float] = (0.9, 0.98)
    """AdamW's decay rates."""
    condition_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """With `data.labels`: share of pictures whose class is not told, which guidance and pictures of any class need."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the averaged weights, which are the ones that are kept."""
    precision: Precision = "auto"
    """Arithmetic of the network: auto = bfloat16 where the processor has it; float16 is for GPUs without it."""
    log_every: Annotated[int, Field(ge=1)] = 50
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between two checkpoints."""
    validate_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between two estimates of the likelihood of validation pictures."""
    validation_pictures: Annotated[int, Field(ge=1)] = 128
    """Validation pictures for that."""
    sample_every: Annotated[int, Field(ge=1)] = 1000
    """Steps between two grids of samples."""
    samples: Annotated[int, Field(ge=0)] = 16
    """Pictures per grid; 0 = no grids."""

    def check(self) -> None:
        """Raise UsageError for options that contradict each other."""
        if self.shard and self.optimizer != "adamw":
            raise UsageError("prior.shard: Muon needs whole matrices: set prior.optimizer=adamw", field="prior.shard")
        if self.shard and self.precision == "float16":
            raise UsageError("prior.shard: choose bfloat16 or float32", field="prior.precision")


def train_prior(
    codes: npt.NDArray[np.integer[Any]] | Tensor,
    config: PriorConfig,
    options: PriorOptions,
    run: RunFolder,
    *,
    labels: Labels | None = None,
    validation: npt.NDArray[np.integer[Any]] | Tensor | None = None,
    validation_labels: Labels | None = None,
    tokenizer: VQGAN | None = None,
    start: AbsorbingTransformer | None = None,
    seed: int = 0,
    resume: bool = False,
    device: torch.device | str = "cpu",
) -> AbsorbingTransformer:
    """Train a prior on `codes` `(count, h, w)` and return its averaged weights, in evaluation mode.

    codes: any integers 0..K-1; they are kept on `device` as a whole. labels: `(count,)`, the class of each, for a
    configuration with classes; None = classes are never told. validation, validation_labels: codes whose likelihood is
    estimated now and then. tokenizer: draws the sample grids; None = no grids. start: weights to begin with, of the
    same configuration. resume: go on from the run's newest checkpoint.
    Raises UsageError for codes and configuration that do not fit together; see `StageFolder.restore` for the rest.
    """
    processes = Processes(device)
    device, timed = processes.device, options.budget_minutes is not None
    table, held = resident(codes, config, device), None
    if validation is not None and len(validation):
        held = resident(validation[: options.validation_pictures], config, device)
    told = held_told = None
    if labels is not None:
        told = resident_labels(labels, len(table), config.n_classes, device)
        if held is not None and validation_labels is not None:
            held_told = resident_labels(validation_labels[: len(held)], len(held), config.n_classes, device)
    check_batch("prior", options.batch, options.accumulate, processes.count, len(table))
    options.check()
    divided = options.shard and processes.count > 1
    stage = run.stage("prior")
    digest = sha256_bytes(b"".join(t.cpu().numpy().tobytes() for t in (table, told) if t is not None))
    state = restored(stage, resume, processes, model=config.model_dump_json(), data=digest)
    batches = Batches(len(table), options.batch, seed)

    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        Interruption(launched=processes.launched) as wish,
        explained_memory("prior"),
    ):
        torch.manual_seed(derived_seed(seed, "prior"))
        network = AbsorbingTransformer(config).to(device).train()
        ema = Ema(network, options.ema)
        weights = network.parameter_count
        step, tally = 0, Tally()
        if state is not None:
            network.load_state_dict(state["network"])
            ema.model.load_state_dict(state["ema"])
            step = int(state["step"])
        elif start is not None:
            begin_with(start, config, network, ema.model)
        if divided:
            processes.shard([network, ema.model], "blocks", ("at_cells", "at_rows"))
        optimizer = build_optimizer(network, options.optimizer, weight_decay=options.weight_decay, betas=options.betas)
        parts = plan_parts(
            "prior",
            lambda n: rehearse(network, table, n, options),
            processes,
            options,
            batch=options.batch,
            parts=parts_before(state, options.accumulate, options.batch // processes.count),
            progress=options.progress(step, 0.0 if state is None else state["elapsed"]),
            weights=weights,
            standing=bytes_of([network, ema.model]),
            moments=moments_of([optimizer]),
            message=run.progress.message,
        )
        gradients = Gradients(processes, options.precision, parts)
        learner = network if divided else gradients.learner(network)
        if state is not None:
            load_optimizer(optimizer, state["optimizer"])
            gradients.load(state.get("scaler"))
            tally.terms = [LossTerms(*(t.to(device) for t in terms)) for terms in state.get("tally", [])]
        optimizer = gradients.optimizer(optimizer)
        keeper = Keeper(
            stage,
            options.checkpoint_every,
            lambda: snapshot(network, ema, optimizer, clock)
            | {"scaler": gradients.state(), "parts": parts, "tally": tally.terms},
            wish,
            None if state is None else step,
            processes,
        )
        loss: Tensor | None = None
        clock, pace = Clock(0.0 if state is None else state["elapsed"]), Pace(step * options.batch)
        elapsed = processes.most(clock.elapsed)

        while (progress := options.progress(step, elapsed)) < 1:
            rate = options.learning_rate.at(step, progress)
            for group in optimizer.param_groups:
                group["lr"] = rate
            at = torch.from_numpy(batches.at(step)).to(device)  # of the batch of all processes
            label = None
            if told is not None:
                label = dropped(told[at], options.condition_dropout, derived_seed(seed, "classes", step))
            elif config.n_classes:  # as if not given; but several processes wait for a gradient of every weight
                label = torch.full_like(at, NO_LABEL)
            torch.manual_seed(derived_seed(seed, "prior", step) + processes.rank)  # dropout, if any
            generator = torch.Generator().manual_seed(derived_seed(seed, "masks", step))
            masked = draw_masks(table[at].long(), options.objective, generator=generator, label=label)
            for part in range(parts):
                with gradients.part(learner):
                    with gradients.autocast():
                        terms = masked_loss(learner, masked.rows(processes.rows(part, parts)), options.objective)
                    gradients.backward(terms.loss)
                tally.add(terms)
            loss = terms.loss.detach()
            norm = gradients.clip(network, optimizer, options.clip)
            optimizer.step()
            optimizer.zero_grad()
            ema.update(network, step)
            step += 1
            elapsed = processes.most(clock.elapsed) if timed else clock.elapsed
            last = options.progress(step, elapsed) >= 1

            values: dict[str, float] = {}
            if held is not None and (last or step % options.validate_every == 0):
                values["validation_bits_per_token"] = validate(ema.model, held, options.precision, seed, held_told)
            if last or step % options.log_every == 0 or values:
                values |= tally.flush(processes) | {"gradient_norm": float(norm), "learning_rate": rate}
                check_finite(values, stage, step)
                done = options.progress(step, elapsed)
                values["epoch"] = batches.epoch(step)
                stage.report(Report("prior", step, done, elapsed, pace.now(step * options.batch), values))
                release_memory()
            if tokenizer is not None and options.samples and (last or step % options.sample_every == 0):
                draw_samples(stage, step, ema.model, tokenizer, options, seed, labelled=told is not None)
                if held is not None:
                    draw_inpaintings(
                        stage, step, ema.model, tokenizer, held.long(), options.precision, seed, held_told
                    )
            keeper.after(step, loss)
        keeper.finish(step, loss, timed=timed)
    if not divided:
        return ema.model
    averaged = AbsorbingTransformer(config).to(device).eval().requires_grad_(False)
    averaged.load_state_dict(processes.whole(ema.model.state_dict()))
    return averaged


# --- parts of the loop ------------------------------------------------------------------------------------------------


def resident(codes: npt.NDArray[np.integer[Any]] | Tensor, config: PriorConfig, device: torch.device) -> Tensor:
    """Codes `(count, h, w)` on the device, in the smallest type that torch can index with: 512 bytes per 16x16."""
    array = codes.cpu().numpy() if isinstance(codes, Tensor) else np.asarray(codes)
    if array.ndim != 3 or not len(array):
        raise UsageError(f"codes must have the shape (count, height, width), not {array.shape}")
    if array.shape[1] > config.height or array.shape[2] > config.width:
        raise UsageError(
            f"pictures of {array.shape[1]}x{array.shape[2]} cells do not fit the prior's window of "
            f"{config.height}x{config.width}"
        )
    if int(array.min()) < 0 or int(array.max()) >= config.codebook_size:
        raise UsageError(
            f"codes reach from {int(array.min())} to {int(array.max())}; the prior knows 0..{config.codebook_size - 1}"
        )
    small = np.int16 if config.codebook_size <= 2**15 else np.int32
    return torch.from_numpy(array.astype(small)).to(device)


def rehearse(network: AbsorbingTransformer, table: Tensor, count: int, options: PriorOptions) -> None:
    """A forward and backward pass over `count` pictures with every second cell hidden: half of them, as on average."""
    codes = table[torch.arange(count, device=table.device) % len(table)].long()
    hidden = (torch.arange(codes.numel()) % 2 == 0).view(codes.shape)
    steps = torch.full((count,), max(1, options.objective.total_steps // 2))
    with arithmetic(options.precision, table.device):
        loss = masked_loss(network, Masked(codes, hidden, steps), options.objective).loss
    torch.autograd.backward(loss)
    network.zero_grad(set_to_none=True)


def snapshot(network: nn.Module, ema: Ema[Any], optimizer: torch.optim.Optimizer, clock: Clock) -> State:
    """Everything a run needs to go on; batches, masks and dropout follow from the seed and the step."""
    return {
        "network": network.state_dict(),
        "ema": ema.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "elapsed": clock.elapsed,
    }


def validate(
    network: AbsorbingTransformer,
    codes: Tensor,
    precision: Precision,
    seed: int,
    labels: Tensor | None = None,
    part: int = 64,
) -> float:
    """Bound on the bits per token of `codes`; the same masks each time, so that two values can be compared."""
    generator = torch.Generator().manual_seed(derived_seed(seed, "validation"))
    parts = torch.split(codes, part)
    told: Sequence[Tensor | None] = [None] * len(parts) if labels is None else torch.split(labels, part)
    with torch.no_grad(), arithmetic(precision, codes.device):
        bits = [
            stratified_elbo(network, c.long(), strata=4, generator=generator, label=label)
            for c, label in zip(parts, told, strict=True)
        ]
    return float(torch.cat(bits).mean())


def draw_samples(
    stage: StageFolder,
    step: int,
    network: AbsorbingTransformer,
    tokenizer: VQGAN,
    options: PriorOptions,
    seed: int,
    *,
    labelled: bool = False,
) -> None:
    """A grid of new pictures, one class after the other; the same seeds each time, so that one sees what training
    changes."""
    empty = torch.full((options.samples, *network.window), EMPTY)
    seeds = [seed + i for i in range(options.samples)]
    label = torch.arange(options.samples) % network.config.n_classes if labelled else None
    with torch.no_grad(), arithmetic(options.precision, network.device):
        codes = fill(network, empty, seeds=seeds, options=SamplerOptions(num_inference_steps=16), label=label)
    stage.show(step, "samples", tokenizer.decode(codes))


class Tally:
    """Losses since the last line of metrics, kept on the device until then: no wait per step."""

    def __init__(self) -> None:
        self.terms: list[LossTerms] = []

    def add(self, terms: LossTerms) -> None:
        self.terms.append(LossTerms(*(t.detach() for t in terms)))

    def flush(self, processes: Processes) -> dict[str, float]:
        """Means since the last call: the loss, nats per masked cell, and the same in quarters of the masked share."""
        nats, ratio = (torch.cat([getattr(t, name) for t in self.terms]).float() for name in ("nats", "ratio"))
        quarter = (ratio * 4).long().clamp(0, 3)
        named = {"loss": torch.stack([t.loss for t in self.terms]).float(), "nats_per_masked": nats}
        named |= {f"nats_masked_{25 * i}_{25 * (i + 1)}": nats[quarter == i] for i in range(4)}
        sums = torch.stack([torch.stack([v.sum(), v.new_tensor(len(v))]) for v in named.values()])
        self.terms.clear()
        return {
            name: total / count
            for name, (total, count) in zip(named, processes.total(sums).tolist(), strict=True)
            if count
        }

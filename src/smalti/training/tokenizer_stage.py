"""The first stage: pictures to a tokenizer. One loop; the losses live in losses, perceptual and discriminator."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from smalti.data import Pictures, as_images
from smalti.errors import UsageError
from smalti.tokenizer import VQGAN, TokenizerConfig
from smalti.tokenizer.quantizer import GumbelQuantizer, NearestQuantizer, revive
from smalti.tokenizer.vqgan import Reconstruction
from smalti.training.adversary import Adversary, Term
from smalti.training.augment import Augmentation, DiffAugment, mirrored
from smalti.training.batches import Batches, check_batch, derived_seed
from smalti.training.checkpoints import State, load_optimizer
from smalti.training.codebook import start_from_features
from smalti.training.ema import Ema
from smalti.training.estimate import bytes_of, explained_memory, moments_of, plan_parts, release_memory
from smalti.training.grids import interleave
from smalti.training.loop import Keeper, Pace, arithmetic, begin_with, check_finite, parts_before, restored
from smalti.training.losses import Losses, Weight, gradient_loss, perplexity
from smalti.training.lpips import Lpips
from smalti.training.optimizers import OptimizerName, build_optimizer
from smalti.training.parallel import Gradients, Precision, Processes
from smalti.training.perceptual import PerceptualLoss
from smalti.training.progress import Report
from smalti.training.reconstructions import draw_reconstructions, validate
from smalti.training.runs import Interruption, RunFolder
from smalti.training.schedules import Clock, LearningRate, Length
from smalti.types import Images


class TokenizerOptions(Length):
    """How the tokenizer is trained."""

    size: str = "vqgan_lean"
    """Named size of the network: vqgan_tiny, vqgan_lean, vqgan_lean_large, vqgan_official."""
    model: dict[str, Any] = Field(default_factory=dict)
    """Fields of the network's configuration that differ from the named size."""
    losses: Losses = Losses()
    """What is minimised."""
    batch: Annotated[int, Field(ge=1)] = 16
    """Pictures per optimizer step, of all processes together."""
    accumulate: Annotated[int, Field(ge=1)] = 1
    """Parts in which each process computes its share of a batch, to save memory; more if memory asks for it."""
    learning_rate: LearningRate = LearningRate(peak=1e-3, warmup=100)
    """Learning rate and its course."""
    optimizer: OptimizerName = "adamw"
    """What moves the weights: "muon" = Muon for the kernels of the convolutions, seen as matrices, AdamW for the rest
    and for the critic, at the same rate."""
    weight_decay: Weight = 1e-4
    """Decay of kernels and matrices; embeddings, norms and biases do not decay."""
    betas: tuple[float, float] = (0.9, 0.99)
    """AdamW's decay rates."""
    clip: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.999
    """Decay of the averaged weights, which are the ones that are kept."""
    codebook_init: Literal["random", "kmeans"] = "random"
    """Where codes begin: "kmeans" = at the centres of the untrained encoder's features of the first pictures."""
    revive_every: Annotated[int, Field(ge=1)] = 100
    """Steps between two looks for dead codes, which move onto features of current pictures."""
    revive_until: Annotated[float, Field(ge=0, le=1)] = 0.6
    """Share of the run after which codes stay where they are."""
    dead_below: Weight = 0.02
    """A code is dead if it was used less than this share of the mean."""
    critic_channels: Annotated[int, Field(ge=8, multiple_of=8)] = 64
    """Width of the critic."""
    precision: Precision = "auto"
    """Arithmetic of the network: auto = bfloat16 where the processor has it; float16 is for GPUs without it."""
    keep: Annotated[str, Field(pattern="^(last|best)$")] = "last"
    """Which averaged weights the stage returns: the last, or those of the best validation PSNR (a critic lowers the
    PSNR while pictures become sharper). Both stay in the run's folder, and a resumed run goes on from the last."""
    log_every: Annotated[int, Field(ge=1)] = 50
    """Steps between two lines of metrics.jsonl."""
    checkpoint_every: Annotated[int, Field(ge=1)] = 500
    """Steps between two checkpoints."""
    validate_every: Annotated[int, Field(ge=1)] = 500
    """Steps between two measurements on validation pictures, with a grid of reconstructions."""
    validation_pictures: Annotated[int, Field(ge=1)] = 200
    """Validation pictures for that."""


def train_tokenizer(
    pictures: Pictures,
    config: TokenizerConfig,
    options: TokenizerOptions,
    run: RunFolder,
    *,
    validation: Pictures | None = None,
    start: VQGAN | None = None,
    decoder_only: bool = False,
    flip: bool = False,
    seed: int = 0,
    resume: bool = False,
    device: torch.device | str = "cpu",
) -> VQGAN:
    """Train a tokenizer on `pictures` and return its averaged weights, in evaluation mode.

    start: weights to begin with, of the same configuration. decoder_only: encoder and codebook stay as they are.
    flip: mirror half of the pictures. resume: go on from the run's newest checkpoint. Raises UsageError if the
    pictures' sides are not multiples of the cell, ModelError if training diverges.
    """
    processes = Processes(device)
    device, timed = processes.device, options.budget_minutes is not None
    if any(side % config.cell for side in pictures.size):
        raise UsageError(f"pictures of {pictures.size} pixels do not consist of whole cells of {config.cell}: "
                         "choose another data.size")  # fmt: skip
    if options.codebook_init == "kmeans" and config.quantizer == "gumbel":
        raise UsageError("a gumbel quantizer's codes are no features: codebook_init must be random",
                         field="tokenizer.codebook_init")  # fmt: skip
    if decoder_only and config.quantizer == "gumbel":
        raise UsageError("a gumbel quantizer draws its codes while training: its decoder cannot be trained alone",
                         field="stage")  # fmt: skip
    check_batch("tokenizer", options.batch, options.accumulate, processes.count, len(pictures))
    stage = run.stage("tokenizer")
    state = restored(stage, resume, processes, model=config.model_dump_json(), data=pictures.fingerprint)
    batches = Batches(len(pictures), options.batch, seed)

    with (
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        Interruption(launched=processes.launched) as wish,
        explained_memory("tokenizer"),
    ):
        torch.manual_seed(derived_seed(seed, "tokenizer"))
        trainer = _Trainer(config, options, processes, decoder_only)
        if state is not None:
            trainer.load(state)
        elif start is not None:
            begin_with(start, config, trainer.network, trainer.ema.model)
        elif options.codebook_init == "kmeans":
            start_from_features(
                trainer.network, pictures, device, seed=derived_seed(seed, "codebook"), batch=options.batch
            )
            trainer.ema.model.load_state_dict(trainer.network.state_dict())
        trainer.begin(pictures.size, state, run.progress.message)
        keeper = Keeper(
            stage, options.checkpoint_every, trainer.snapshot, wish, None if state is None else trainer.step, processes
        )
        loss: Tensor | None = None
        pace, elapsed = Pace(trainer.step * options.batch), processes.most(trainer.clock.elapsed)
        mine = processes.rows()  # of a batch, what this process computes

        while (progress := options.progress(trainer.step, elapsed)) < 1:
            step_seed = derived_seed(seed, "tokenizer", trainer.step)
            torch.manual_seed(step_seed + processes.rank)  # noise of a Gumbel quantiser
            draws = torch.Generator().manual_seed(step_seed)  # for the whole batch: alike in all processes
            images = as_images(pictures.batch(np.sort(batches.at(trainer.step))[mine]), device)
            if flip:
                images = mirrored(images, torch.rand(options.batch, generator=draws)[mine] < 0.5)
            loss = trainer.learn(images, progress, draws)
            step = trainer.step
            if int(batches.epoch(step)) > int(batches.epoch(step - 1)):
                trainer.end_epoch()
            elapsed = processes.most(trainer.clock.elapsed) if timed else trainer.clock.elapsed
            last = options.progress(step, elapsed) >= 1

            values: dict[str, float] = {}
            if validation is not None and (last or step % options.validate_every == 0):
                count = options.validation_pictures
                values = validate(trainer.ema.model, validation, count, options.precision, device, options.batch)
                if values["validation_psnr"] > trainer.best_psnr:
                    trainer.best_psnr = values["validation_psnr"]
                    stage.save_best(step, {"ema": trainer.ema.model.state_dict(), "psnr": trainer.best_psnr})
                draw_reconstructions(stage, step, trainer.ema.model, validation, device)
            if last or step % options.log_every == 0 or values:
                values = trainer.flush() | values | {"epoch": batches.epoch(step)}
                check_finite(values, stage, step)
                done = options.progress(step, elapsed)
                stage.report(Report("tokenizer", step, done, elapsed, pace.now(step * options.batch), values))
                release_memory()
            keeper.after(step, loss)
        keeper.finish(trainer.step, loss, timed=timed)
    if options.keep == "best" and (best := stage.best()) is not None:
        trainer.ema.model.load_state_dict(best["ema"])
    averaged: VQGAN = trainer.ema.model
    return averaged


# --- the state of the loop, and one step ------------------------------------------------------------------------------


class _Trainer:
    """Networks, optimizers and counters of a run, and what one batch does to them."""

    def __init__(
        self, config: TokenizerConfig, options: TokenizerOptions, processes: Processes, decoder_only: bool = False
    ) -> None:
        device = processes.device
        self.options, self.device, self.decoder_only, self.processes = options, device, decoder_only, processes
        self.network = VQGAN(config).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if decoder_only:
            for part in (self.network.encoder, self.network.quant_conv, self.network.quantizer):
                part.requires_grad_(False)
        self.ema = Ema(self.network, options.ema)
        optimizer = partial(build_optimizer, weight_decay=options.weight_decay, betas=options.betas)
        self.optimizer = optimizer(self.network, options.optimizer)
        losses = options.losses
        if isinstance(self.network.quantizer, NearestQuantizer):
            self.network.quantizer.legacy_beta = losses.legacy_beta
        self.lpips = Lpips(losses.lpips_files).to(device) if losses.lpips else None
        self.perceptual = PerceptualLoss().to(device) if losses.perceptual or losses.logits else None
        self.adversary = Adversary(losses, options.critic_channels, processes, optimizer) if losses.critic else None
        self.step, self.clock = 0, Clock()
        self.best_psnr = 0.0
        self.usage = torch.zeros(config.codebook_size, dtype=torch.int64, device=device)  # since the last revival
        self._sums: dict[str, Tensor] = {}
        self._seen = 0
        self.epoch_usage = torch.zeros_like(self.usage)  # in the current pass over the pictures
        self.epoch_values: dict[str, float] = {}  # of the last whole pass
        self._used = torch.zeros_like(self.usage)  # since the last line of metrics
        self._revived = 0

    def begin(self, size: tuple[int, int], state: State | None, message: Callable[[str], None]) -> None:
        """Find the parts in which a batch of pictures of `size` pixels is computed, and get ready for the first."""
        options, processes = self.options, self.processes
        networks, optimizers = [self.network, self.ema.model], [self.optimizer]
        if self.adversary is not None:
            networks, optimizers = [*networks, self.adversary.critic], [*optimizers, self.adversary.optimizer]
        processes.alike(*networks)
        self.parts = plan_parts(
            "tokenizer",
            lambda count: self.rehearse(count, size),
            processes,
            options,
            batch=options.batch,
            parts=parts_before(state, options.accumulate, options.batch // processes.count),
            progress=options.progress(self.step, 0.0 if state is None else state["elapsed"]),
            weights=sum(p.numel() for p in self.network.parameters()),
            standing=bytes_of(networks),
            moments=moments_of(optimizers),
            message=message,
        )
        self.clock = Clock(0.0 if state is None else state["elapsed"])
        self.gradients = Gradients(processes, options.precision, self.parts)
        self.gradients.load(None if state is None else state.get("scaler"))
        self.learner = self.gradients.learner(self.network)
        self.optimizer = self.gradients.optimizer(self.optimizer)
        if self.adversary is not None:
            self.adversary.begin(self.gradients)

    def rehearse(self, count: int, size: tuple[int, int]) -> None:
        """The passes of `learn` over `count` pictures of noise, with the critic if there will be one."""
        images = torch.rand(count, 3, *size, device=self.device).contiguous(memory_format=torch.channels_last) * 2 - 1
        view = DiffAugment(self._policy, count, size)
        with arithmetic(self.options.precision, self.device):
            result = self.network(images)
            loss, _ = self._loss(result, images, view if self.adversary is not None else None)
        torch.autograd.backward(loss)
        self.network.zero_grad(set_to_none=True)
        if self.adversary is not None:
            with arithmetic(self.options.precision, self.device):
                loss, _ = self.adversary.loss(images, result.images.detach().float(), view)
            torch.autograd.backward(loss)
            self.adversary.critic.zero_grad(set_to_none=True)

    def learn(self, images: Images, progress: float, draws: torch.Generator) -> Tensor:
        """One step on this process's `images` of a batch, at `progress` 0..1 of the run; returns the loss.

        draws: random numbers that are alike in all processes.
        """
        options, losses = self.options, self.options.losses
        rate = options.learning_rate.at(self.step, progress)
        for optimizer in (self.optimizer, self.adversary.optimizer if self.adversary is not None else None):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = rate
        if isinstance(self.network.quantizer, GumbelQuantizer):
            self.network.quantizer.temperature = max(1 / 16, 1 - progress)
        heard = self.adversary is not None and self.step >= losses.gan_start
        whole_view = DiffAugment(self._policy, options.batch, images.shape[-2:], draws)
        views = [whole_view.rows(self.processes.rows(part, self.parts)) for part in range(self.parts)]
        parts = [images[part :: self.parts].contiguous(memory_format=torch.channels_last) for part in range(self.parts)]

        restored: list[Images] = []
        counts = torch.zeros_like(self.usage)
        for part, view in zip(parts, views, strict=True):
            with self.gradients.part(self.learner):
                with self.gradients.autocast():
                    result = self.learner(part)
                    loss, seen = self._loss(result, part, view if heard else None)
                self.gradients.backward(loss)
            self._note(seen)
            restored.append(result.images.detach().float())
            counts += torch.bincount(result.quantized.codes.flatten(), minlength=self.network.codebook_size)
        norm = self.gradients.clip(self.network, self.optimizer, options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self._note({"gradient_norm": norm * self.parts})
        if self.adversary is not None and self.step >= losses.gan_start - losses.gan_warmup:
            self._note({"critic": self.adversary.learn(parts, restored, views, self.step, options.clip)})

        counts = self.processes.total(counts)
        for total in (self.usage, self.epoch_usage, self._used):
            total += counts
        self._revive(parts, progress, draws)
        self.ema.update(self.network, self.step)
        self.step += 1
        self._seen += self.parts
        return loss.detach()

    @property
    def _policy(self) -> tuple[Augmentation, ...]:
        return self.options.losses.augment if self.adversary is not None else ()

    def _note(self, values: dict[str, Tensor]) -> None:
        """Add to the sums of which `flush` makes means: one value per part of a batch."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()

    def _loss(
        self, result: Reconstruction, images: Images, view: DiffAugment | None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(what is minimised, what the metrics show). view: what the critic sees of pictures; None = no critic."""
        terms = self._terms(result.images.float(), images, result.quantized.loss, view)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        seen = {"loss": loss} | {name: value for name, (_, value) in terms.items()}
        if view is not None and self.options.losses.adaptive:
            seen["adversarial_weight"] = torch.as_tensor(terms["adversarial"][0])
        return loss, seen

    def _terms(
        self, restored: Images, images: Images, quantizer_loss: Tensor, view: DiffAugment | None
    ) -> dict[str, Term]:
        """(weight, value) of each loss in use, by name."""
        losses, difference = self.options.losses, restored - images
        terms: dict[str, Term] = {
            "l1": (losses.l1, difference.abs().mean()),
            "l2": (losses.l2, difference.square().mean()),
            "gradient": (losses.gradient, gradient_loss(difference)),
        }
        if self.lpips is not None:
            terms["lpips"] = (losses.lpips, self.lpips(restored, images))
        if self.perceptual is not None:
            features, logits = self.perceptual(restored, images, logits=losses.logits > 0)
            terms |= {"perceptual": (losses.perceptual, features), "logits": (losses.logits, logits)}
        terms = {name: term for name, term in terms.items() if term[0] > 0}
        near = list(terms.values())
        # even at weight 0: several processes wait for a gradient of every weight
        terms["quantizer"] = (losses.quantizer, quantizer_loss.float())
        if view is not None:
            assert self.adversary is not None
            terms |= self.adversary.opinion(view(restored), view(images), near, self.network.decoder.last_kernel)
        return terms

    def _revive(self, images: list[Images], progress: float, draws: torch.Generator) -> None:
        """Dead codes move onto features of current pictures: early twice, then every `revive_every` steps."""
        due = self.step in (10, 30) or self.step % self.options.revive_every == self.options.revive_every - 1
        if not due:
            return
        quantizer = self.network.quantizer
        if isinstance(quantizer, GumbelQuantizer) or self.decoder_only:
            return
        if progress < self.options.revive_until:
            dead = self.usage < self.options.dead_below * self.usage.float().mean()
            with torch.no_grad(), self.gradients.autocast():
                features = interleave(*[self.network.features(part) for part in images])
            if not bool(torch.isfinite(features).all()):
                return  # the run has diverged: the next report says so
            self._revived += revive(quantizer, dead, self.processes.gathered(features), draws)
            self.processes.alike(quantizer)
        self.usage.zero_()

    def end_epoch(self) -> None:
        """Note which codes the pass over the pictures used that ends now."""
        self.epoch_values = {
            "epoch_codes_used": float((self.epoch_usage > 0).float().mean()),
            "epoch_perplexity": perplexity(self.epoch_usage),
        }
        self.epoch_usage.zero_()

    def flush(self) -> dict[str, float]:
        """Means since the last call, codes used and their perplexity; the same two over the last whole pass."""
        means = self.processes.mean(torch.stack([total.float() for total in self._sums.values()])) / self._seen
        values = dict(zip(self._sums, means.tolist(), strict=True))
        values |= {
            "codes_used": float((self._used > 0).sum()) / len(self._used),
            "perplexity": perplexity(self._used),
            "codes_revived": float(self._revived),
            "learning_rate": self.optimizer.param_groups[0]["lr"],
        }
        values |= self.epoch_values
        self._sums.clear()
        self._used.zero_()
        self._seen = self._revived = 0
        return values

    def snapshot(self) -> State:
        """Everything a run needs to go on; order of pictures and draws follow from the seed and the step."""
        return {
            "network": self.network.state_dict(),
            "ema": self.ema.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            **(self.adversary.snapshot() if self.adversary is not None else {}),
            "usage": self.usage,
            "epoch_usage": self.epoch_usage,
            "epoch_values": self.epoch_values,
            "since_report": {"sums": self._sums, "seen": self._seen, "used": self._used, "revived": self._revived},
            "scaler": self.gradients.state(),
            "parts": self.parts,
            "best_psnr": self.best_psnr,
            "elapsed": self.clock.elapsed,
        }

    def load(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        self.ema.model.load_state_dict(state["ema"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.adversary is not None:
            self.adversary.load(state)
        self.usage.copy_(state["usage"])
        self.epoch_usage.copy_(state["epoch_usage"])
        self.epoch_values = dict(state["epoch_values"])
        if (since := state.get("since_report")) is not None:
            self._sums = {name: value.to(self.device) for name, value in since["sums"].items()}
            self._used.copy_(since["used"])
            self._seen, self._revived = since["seen"], since["revived"]
        self.best_psnr = float(state["best_psnr"])
        self.step = int(state["step"])

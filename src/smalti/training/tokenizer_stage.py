"""The first stage: pictures to a tokenizer. One loop; the losses live in losses, perceptual and discriminator."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from smalti.data import Pictures, as_images
from smalti.errors import UsageError
from smalti.tokenizer import VQGAN, TokenizerConfig
from smalti.tokenizer.quantizer import GumbelQuantizer, NearestQuantizer, revive
from smalti.training.augment import DiffAugment, mirrored
from smalti.training.batches import Batches, derived_seed
from smalti.training.checkpoints import State, load_optimizer
from smalti.training.codebook import start_from_features
from smalti.training.discriminator import (
    LeCam,
    PatchDiscriminator,
    adaptive_weight,
    critic_loss,
    fooling_loss,
    matching_loss,
)
from smalti.training.ema import Ema
from smalti.training.grids import interleave
from smalti.training.loop import Keeper, Pace, Precision, arithmetic, begin_with, check_finite
from smalti.training.losses import Losses, Weight, gradient_loss, perplexity, psnr
from smalti.training.lpips import Lpips
from smalti.training.optimizers import OptimizerName, build_optimizer
from smalti.training.perceptual import PerceptualLoss
from smalti.training.progress import Report
from smalti.training.runs import Interruption, RunFolder, StageFolder
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
    """Pictures per optimizer step."""
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
    """Arithmetic of the network: auto = bfloat16 where the processor has it."""
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
    device = torch.device(device)
    if any(side % config.cell for side in pictures.size):
        raise UsageError(f"pictures of {pictures.size} pixels do not consist of whole cells of {config.cell}: "
                         "choose another data.size")  # fmt: skip
    if options.codebook_init == "kmeans" and config.quantizer == "gumbel":
        raise UsageError("a gumbel quantizer's codes are no features: codebook_init must be random",
                         field="tokenizer.codebook_init")  # fmt: skip
    if decoder_only and config.quantizer == "gumbel":
        raise UsageError("a gumbel quantizer draws its codes while training: its decoder cannot be trained alone",
                         field="stage")  # fmt: skip
    stage = run.stage("tokenizer")
    state = stage.restore(resume, model=config.model_dump_json(), data=pictures.fingerprint)
    batches = Batches(len(pictures), options.batch, seed)

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), Interruption() as wish:
        torch.manual_seed(derived_seed(seed, "tokenizer"))
        trainer = _Trainer(config, options, device, decoder_only)
        if state is not None:
            trainer.load(state)
        elif start is not None:
            begin_with(start, config, trainer.network, trainer.ema.model)
        elif options.codebook_init == "kmeans":
            start_from_features(
                trainer.network, pictures, device, seed=derived_seed(seed, "codebook"), batch=options.batch
            )
            trainer.ema.model.load_state_dict(trainer.network.state_dict())
        keeper = Keeper(
            stage, options.checkpoint_every, trainer.snapshot, wish, None if state is None else trainer.step
        )
        loss: Tensor | None = None
        pace = Pace(trainer.step * options.batch)

        while (progress := options.progress(trainer.step, trainer.clock.elapsed)) < 1:
            step_seed = derived_seed(seed, "tokenizer", trainer.step)
            torch.manual_seed(step_seed)  # noise of a Gumbel quantiser, revived codes, what the critic's view changes
            images = as_images(pictures.batch(np.sort(batches.at(trainer.step))), device)
            if flip:
                images = mirrored(images, torch.Generator().manual_seed(step_seed))
            loss = trainer.learn(images, progress)
            step = trainer.step
            if int(batches.epoch(step)) > int(batches.epoch(step - 1)):
                trainer.end_epoch()
            last = options.progress(step, trainer.clock.elapsed) >= 1

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
                elapsed = trainer.clock.elapsed
                done = options.progress(step, elapsed)
                stage.report(Report("tokenizer", step, done, elapsed, pace.now(step * options.batch), values))
            keeper.after(step, loss)
        keeper.finish(trainer.step, loss, timed=options.budget_minutes is not None)
    if options.keep == "best" and (best := stage.best()) is not None:
        trainer.ema.model.load_state_dict(best["ema"])
    averaged: VQGAN = trainer.ema.model
    return averaged


# --- the state of the loop, and one step ------------------------------------------------------------------------------


class _Trainer:
    """Networks, optimizers and counters of a run, and what one batch does to them."""

    def __init__(
        self, config: TokenizerConfig, options: TokenizerOptions, device: torch.device, decoder_only: bool = False
    ) -> None:
        self.options, self.device, self.decoder_only = options, device, decoder_only
        self.network = VQGAN(config).to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        if decoder_only:
            for part in (self.network.encoder, self.network.quant_conv, self.network.quantizer):
                part.requires_grad_(False)
        self.ema = Ema(self.network, options.ema)
        self.optimizer = self._optimizer(self.network, options.optimizer)
        losses = options.losses
        if isinstance(self.network.quantizer, NearestQuantizer):
            self.network.quantizer.legacy_beta = losses.legacy_beta
        self.lpips = Lpips(losses.lpips_files).to(device) if losses.lpips else None
        self.perceptual = PerceptualLoss().to(device) if losses.perceptual or losses.logits else None
        self.critic = PatchDiscriminator(options.critic_channels).to(device) if losses.critic else None
        self.critic_optimizer = self._optimizer(self.critic, "adamw") if self.critic is not None else None
        self.lecam = LeCam(device)
        self.step, self.clock = 0, Clock()
        self.best_psnr = 0.0
        self.usage = torch.zeros(config.codebook_size, dtype=torch.int64, device=device)  # since the last revival
        self._sums: dict[str, Tensor] = {}
        self._seen = 0
        self.epoch_usage = torch.zeros_like(self.usage)  # in the current pass over the pictures
        self.epoch_values: dict[str, float] = {}  # of the last whole pass
        self._used = torch.zeros_like(self.usage)  # since the last line of metrics
        self._revived = 0

    def _optimizer(self, network: nn.Module, name: OptimizerName) -> torch.optim.Optimizer:
        options = self.options
        return build_optimizer(network, name, weight_decay=options.weight_decay, betas=options.betas)

    def learn(self, images: Images, progress: float) -> Tensor:
        """One step on `images` at `progress` 0..1 of the run; returns the loss."""
        options, losses = self.options, self.options.losses
        rate = options.learning_rate.at(self.step, progress)
        for optimizer in (self.optimizer, self.critic_optimizer):
            for group in optimizer.param_groups if optimizer is not None else ():
                group["lr"] = rate
        if isinstance(self.network.quantizer, GumbelQuantizer):
            self.network.quantizer.temperature = max(1 / 16, 1 - progress)
        heard = self.critic is not None and self.step >= losses.gan_start
        view = DiffAugment(losses.augment if self.critic is not None else (), len(images), images.shape[-2:])

        with arithmetic(options.precision, self.device):
            result = self.network(images)
            restored = result.images.float()
            terms = self._terms(restored, images, result.quantized.loss, view if heard else None)
        loss = torch.stack([weight * value for weight, value in terms.values()]).sum()
        torch.autograd.backward(loss)
        norm = nn.utils.clip_grad_norm_(self.network.parameters(), options.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        seen = {"loss": loss, "gradient_norm": norm} | {name: value for name, (_, value) in terms.items()}
        if heard and losses.adaptive:
            seen["adversarial_weight"] = torch.as_tensor(terms["adversarial"][0])
        if self.critic is not None and self.step >= losses.gan_start - losses.gan_warmup:
            seen["critic"] = self._teach_critic(view(images), view(restored.detach()))

        counts = torch.bincount(result.quantized.codes.flatten(), minlength=self.network.codebook_size)
        for total in (self.usage, self.epoch_usage, self._used):
            total += counts
        self._revive(images, progress)
        self.ema.update(self.network, self.step)
        self.step += 1
        for name, value in seen.items():
            self._sums[name] = self._sums.get(name, torch.zeros_like(value)) + value.detach()
        self._seen += 1
        return loss.detach()

    def _terms(
        self, restored: Images, images: Images, quantizer_loss: Tensor, view: DiffAugment | None
    ) -> dict[str, tuple[float | Tensor, Tensor]]:
        """(weight, value) of each loss in use, by name. view: what the critic sees of pictures; None = no critic."""
        losses, difference = self.options.losses, restored - images
        terms: dict[str, tuple[float | Tensor, Tensor]] = {
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
        if losses.quantizer:
            terms["quantizer"] = (losses.quantizer, quantizer_loss.float())
        if view is not None:
            terms |= self._opinion(view(restored), view(images), near)
        return terms

    def _opinion(
        self, restored: Images, images: Images, near: list[tuple[float | Tensor, Tensor]]
    ) -> dict[str, tuple[float | Tensor, Tensor]]:
        """(weight, value) of what the critic says. near: the losses that the adaptive weight looks at."""
        losses, terms = self.options.losses, {}
        assert self.critic is not None
        self.critic.requires_grad_(False)
        scores, ours = self.critic(restored)
        if losses.adversarial:
            weight: float | Tensor = losses.adversarial
            fooling = fooling_loss(scores)
            if losses.adaptive:
                reconstruction = torch.stack([w * value for w, value in near]).sum()
                last = self.network.decoder.last_kernel
                weight = weight * adaptive_weight(reconstruction, fooling, last, losses.adaptive_limit)
            terms["adversarial"] = (weight, fooling)
        if losses.matching:
            with torch.no_grad():
                theirs = self.critic(images)[1]
            terms["matching"] = (losses.matching, matching_loss(ours, theirs))
        self.critic.requires_grad_(True)
        return terms

    def _teach_critic(self, images: Images, restored: Images) -> Tensor:
        assert self.critic is not None
        assert self.critic_optimizer is not None
        losses = self.options.losses
        with arithmetic(self.options.precision, self.device):
            real, fake = self.critic(images)[0], self.critic(restored)[0]
            loss = critic_loss(real, fake)
        if losses.lecam:
            loss = loss + losses.lecam * self.lecam.penalty(real, fake)
            self.lecam.update(real, fake, self.step - max(0, losses.gan_start - losses.gan_warmup))
        torch.autograd.backward(loss)
        nn.utils.clip_grad_norm_(self.critic.parameters(), self.options.clip)
        self.critic_optimizer.step()
        self.critic_optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    def _revive(self, images: Images, progress: float) -> None:
        """Dead codes move onto features of current pictures: early twice, then every `revive_every` steps."""
        due = self.step in (10, 30) or self.step % self.options.revive_every == self.options.revive_every - 1
        if not due:
            return
        quantizer = self.network.quantizer
        if isinstance(quantizer, GumbelQuantizer) or self.decoder_only:
            return
        if progress < self.options.revive_until:
            dead = self.usage < self.options.dead_below * self.usage.float().mean()
            with torch.no_grad(), arithmetic(self.options.precision, self.device):
                features = self.network.features(images)
            self._revived += revive(quantizer, dead, features)
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
        values = {name: float(total) / self._seen for name, total in self._sums.items()}
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
            "critic": None if self.critic is None else self.critic.state_dict(),
            "critic_optimizer": None if self.critic_optimizer is None else self.critic_optimizer.state_dict(),
            "lecam": self.lecam.means,
            "usage": self.usage,
            "epoch_usage": self.epoch_usage,
            "epoch_values": self.epoch_values,
            "best_psnr": self.best_psnr,
            "elapsed": self.clock.elapsed,
        }

    def load(self, state: State) -> None:
        self.network.load_state_dict(state["network"])
        self.ema.model.load_state_dict(state["ema"])
        load_optimizer(self.optimizer, state["optimizer"])
        if self.critic is not None and self.critic_optimizer is not None and state["critic"] is not None:
            self.critic.load_state_dict(state["critic"])
            load_optimizer(self.critic_optimizer, state["critic_optimizer"])
        self.lecam.means.copy_(state["lecam"])
        self.usage.copy_(state["usage"])
        self.epoch_usage.copy_(state["epoch_usage"])
        self.epoch_values = dict(state["epoch_values"])
        self.best_psnr = float(state["best_psnr"])
        self.step, self.clock = int(state["step"]), Clock(state["elapsed"])


# --- looking at the result --------------------------------------------------------------------------------------------


def validate(
    network: VQGAN, pictures: Pictures, count: int, precision: Precision, device: torch.device, batch: int = 16
) -> dict[str, float]:
    """PSNR of reconstructions of the first `count` pictures, and the share of codes that occur in them."""
    ratios, codes = [], []
    count = min(len(pictures), count)
    for start in range(0, count, batch):
        images = as_images(pictures.batch(np.arange(start, min(start + batch, count))), device)
        with torch.inference_mode(), arithmetic(precision, device):
            codes.append(network.encode(images))
            ratios.append(psnr(network.decode(codes[-1]), images))
    used = torch.unique(torch.cat(codes)).numel() / network.codebook_size
    return {"validation_psnr": float(torch.cat(ratios).mean()), "validation_codes_used": used}


def measure(network: VQGAN, pictures: Pictures, device: torch.device, most: int = 1000) -> dict[str, str]:
    """The tokenizer's numbers for the model card, in float32."""
    values, count = validate(network, pictures, most, "float32", device), min(len(pictures), most)
    return {
        "reconstruction PSNR": f"{values['validation_psnr']:.2f} dB on {count} validation pictures",
        "codes in use": f"{values['validation_codes_used']:.1%} on the same",
    }


def draw_reconstructions(
    stage: StageFolder, step: int, network: VQGAN, pictures: Pictures, device: torch.device, count: int = 8
) -> None:
    """Pictures beside what is left of them after encoding and decoding."""
    images = as_images(pictures.batch(np.arange(min(count, len(pictures)))), device)
    restored = network.decode(network.encode(images))
    stage.show(step, "reconstructions", interleave(images.cpu(), restored.cpu()))

"""The critic of a run: what it says of the tokenizer's pictures, and how it learns itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from smalti.training.augment import DiffAugment
from smalti.training.checkpoints import State, load_optimizer
from smalti.training.discriminator import (
    LeCam,
    PatchDiscriminator,
    adaptive_weight,
    critic_loss,
    fooling_loss,
    matching_loss,
)
from smalti.training.losses import Losses
from smalti.training.parallel import Gradients, Processes
from smalti.types import Images

Term = tuple[float | Tensor, Tensor]
"""(weight, value) of a loss."""


class Adversary:
    """A critic, its optimizer and its averages."""

    def __init__(
        self,
        losses: Losses,
        channels: int,
        processes: Processes,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
    ) -> None:
        self.losses, self.processes = losses, processes
        self.critic = PatchDiscriminator(channels).to(processes.device)
        self.optimizer = optimizer(self.critic)
        self.lecam = LeCam(processes.device)
        self.learner: nn.Module = self.critic

    def begin(self, gradients: Gradients) -> None:
        """Get ready for the first step."""
        self.gradients = gradients
        self.learner, self.optimizer = gradients.learner(self.critic), gradients.optimizer(self.optimizer)

    def opinion(self, restored: Images, images: Images, near: Sequence[Term], last: Tensor) -> dict[str, Term]:
        """What the tokenizer minimises, by name, for pictures as the critic sees them.

        near: the losses that the adaptive weight looks at; last: the kernel that writes the pixels.
        """
        losses, terms = self.losses, {}
        self.critic.requires_grad_(False)
        scores, ours = self.critic(restored)
        if losses.adversarial:
            weight: float | Tensor = losses.adversarial
            fooling = fooling_loss(scores)
            if losses.adaptive:
                reconstruction = torch.stack([w * value for w, value in near]).sum()
                limit = losses.adaptive_limit
                weight = weight * adaptive_weight(reconstruction, fooling, last, limit, mean=self.processes.mean)
            terms["adversarial"] = (weight, fooling)
        if losses.matching:
            with torch.no_grad():
                theirs = self.critic(images)[1]
            terms["matching"] = (losses.matching, matching_loss(ours, theirs))
        self.critic.requires_grad_(True)
        return terms

    def loss(self, images: Images, restored: Images, view: DiffAugment) -> tuple[Tensor, Tensor]:
        """(what the critic minimises, its mean scores (real, fake))."""
        real, fake = self.learner(view(images))[0], self.learner(view(restored))[0]
        loss = critic_loss(real, fake)
        if self.losses.lecam:
            loss = loss + self.losses.lecam * self.lecam.penalty(real, fake)
        return loss, torch.stack([real.detach().float().mean(), fake.detach().float().mean()])

    def learn(
        self, images: Sequence[Images], restored: Sequence[Images], views: Sequence[DiffAugment], step: int, clip: float
    ) -> Tensor:
        """One step on the parts of a batch, at step `step` of the run; returns the sum of their losses."""
        total, means = torch.zeros_like(self.lecam.means[0]), torch.zeros_like(self.lecam.means)
        for part, fake, view in zip(images, restored, views, strict=True):
            with self.gradients.part(self.learner):
                with self.gradients.autocast():
                    loss, scores = self.loss(part, fake, view)
                self.gradients.backward(loss)
            total += loss.detach()
            means += scores / len(images)
        if self.losses.lecam:
            first = max(0, self.losses.gan_start - self.losses.gan_warmup)
            self.lecam.update(self.processes.mean(means), step - first)
        self.gradients.clip(self.critic, self.optimizer, clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def snapshot(self) -> State:
        return {
            "critic": self.critic.state_dict(),
            "critic_optimizer": self.optimizer.state_dict(),
            "lecam": self.lecam.means,
        }

    def load(self, state: State) -> None:
        """Go on as in `state`; from the beginning if the run had no critic then."""
        if state.get("critic") is not None:
            self.critic.load_state_dict(state["critic"])
            load_optimizer(self.optimizer, state["critic_optimizer"])
            self.lecam.means.copy_(state["lecam"])

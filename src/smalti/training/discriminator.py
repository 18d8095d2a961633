"""A critic of patches, for the adversarial loss of the tokenizer, and what keeps the two in balance.

PatchGAN (Isola et al., CVPR 2017) with blurred downsampling (Zhang, ICML 2019), as in VQGAN+ (MaskBit, Weber et al.,
2024): a stride never aliases, so the critic's opinion does not depend on where the grid of a stride falls.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.types import Images


class BlurPool(nn.Module):
    """Halve the resolution after a 4x4 binomial blur (1 3 3 1)."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", (torch.outer(line, line) / 64)[None, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        channels = x.shape[1]
        padded = F.pad(x, (1, 1, 1, 1), mode="reflect")
        return F.conv2d(padded, self.kernel.to(x.dtype).expand(channels, 1, 4, 4), stride=2, groups=channels)


class PatchDiscriminator(nn.Module):
    """Images `(n, 3, H, W)` in [-1, 1] -> one score per patch `(n, 1, h, w)`; positive = looks real."""

    def __init__(self, channels: int = 64, stages: int = 3) -> None:
        """channels: after the first convolution, doubled per stage up to 8 times; stages: halvings."""
        super().__init__()
        self.first = nn.Conv2d(3, channels, 5, padding=2)
        widths = [min(channels * 2**i, channels * 8) for i in range(stages + 1)]
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(a, b, 3, padding=1), BlurPool(), nn.GroupNorm(min(32, b // 4), b), nn.LeakyReLU(0.1)
            )
            for a, b in itertools.pairwise(widths)
        )
        self.last = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, images: Images) -> tuple[Tensor, list[Tensor]]:
        """(scores, what each stage saw): the latter for feature matching."""
        x = F.leaky_relu(self.first(images), 0.1)
        seen = []
        for stage in self.stages:
            x = stage(x)
            seen.append(x)
        return self.last(x), seen


def critic_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Hinge loss of the critic (Lim & Ye, 2017): real scores above 1, fake ones below -1."""
    return 0.5 * (F.relu(1 - real.float()).mean() + F.relu(1 + fake.float()).mean())


def fooling_loss(fake: Tensor) -> Tensor:
    """What the tokenizer minimises: the critic's score of its pictures, negated."""
    return -fake.float().mean()


def matching_loss(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Mean absolute difference of what the critic's stages see (Wang et al., pix2pixHD, 2018)."""
    pairs = zip(fake, real, strict=True)
    return torch.stack([(a.float() - b.detach().float()).abs().mean() for a, b in pairs]).mean()


def adaptive_weight(
    near: Tensor,
    adversarial: Tensor,
    last: Tensor,
    most: float = 1e4,
    mean: Callable[[Tensor], Tensor] = lambda pull: pull,
) -> Tensor:
    """The factor, in 0..`most`, at which the critic pulls the last kernel as strongly as the reconstruction does.

    |d near / d last| / (|d adversarial / d last| + 1e-4), without gradient (Esser et al., taming-transformers, CVPR
    2021, eq. 7, with the code's constants). near: the reconstruction losses; last: the kernel that writes the pixels;
    mean: of a gradient over the processes that share the batch.
    """
    pulls = [mean(torch.autograd.grad(loss, last, retain_graph=True)[0].float()) for loss in (near, adversarial)]
    ratio: Tensor = torch.linalg.vector_norm(pulls[0]) / (torch.linalg.vector_norm(pulls[1]) + 1e-4)
    return ratio.clamp(max=most)


class LeCam:
    """Keeps a critic that has few pictures from being too sure (Tseng et al., CVPR 2021).

    E (D(real) - a_fake)^2 + E (D(fake) - a_real)^2, where a_real and a_fake are moving averages of its mean scores.
    """

    def __init__(self, device: torch.device, decay: float = 0.999) -> None:
        """decay: share of the old averages kept per step (VQGAN+); less in the first steps, as in `Ema`."""
        self.means = torch.zeros(2, device=device)  # (real, fake)
        self.decay = decay

    def penalty(self, real: Tensor, fake: Tensor) -> Tensor:
        """What is added to the critic's loss for its scores of `real` and `fake` pictures."""
        of_real, of_fake = self.means
        penalty: Tensor = (real.float() - of_fake).square().mean() + (fake.float() - of_real).square().mean()
        return penalty

    @torch.no_grad()
    def update(self, scores: Tensor, step: int) -> None:
        """Move the averages towards the mean scores `(2,)` (real, fake) of the critic's step `step` (from 0)."""
        self.means.lerp_(scores, 1 - min(self.decay, (1 + step) / (10 + step)))

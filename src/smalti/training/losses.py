"""How far a reconstruction is from its picture, and how much each way of measuring it weighs."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor

from smalti.training.augment import Augmentation
from smalti.types import Images

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Losses(BaseModel):
    """Weights of what the tokenizer minimises; 0 = not computed."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    l1: Weight = 1.0
    """Mean absolute difference of pixels in [-1, 1]."""
    l2: Weight = 2.0
    """Mean squared difference."""
    gradient: Weight = 0.5
    """Mean absolute difference of slopes: line work."""
    quantizer: Weight = 0.25
    """What pulls encoder and codebook together."""
    legacy_beta: bool = False
    """For a nearest quantizer: the smaller weight (beta = 0.25) on the codebook's side instead of the encoder's, as
    both original codebases do by accident."""
    perceptual: Weight = 0.0
    """Features of EfficientNet-Lite0 (extra `train`)."""
    logits: Weight = 0.0
    """Class logits of the same network (VQGAN+ does this with a ResNet-50)."""
    lpips: Weight = 0.0
    """LPIPS with VGG-16, from `lpips_files`."""
    lpips_files: tuple[str, ...] = ()
    """VGG-16 as torchvision saves it, and the linear weights of LPIPS 0.1; you bring them, nothing is downloaded."""
    adversarial: Weight = 0.0
    """A critic's opinion (hinge), from step `gan_start` on."""
    adaptive: bool = False
    """Multiply `adversarial` by what makes the critic's gradient at the last kernel as large as that of the pixel and
    perceptual losses (taming-transformers; then 0.5 to 1 is usual); false = a fixed weight (VQGAN+; 0.02 to 0.1)."""
    adaptive_limit: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e4
    """Largest factor of `adaptive` (unleashing-transformers: 1)."""
    matching: Weight = 0.0
    """The same critic's features, from `gan_start` on."""
    gan_start: Annotated[int, Field(ge=0)] = 5_000
    """First step with the critic's losses."""
    gan_warmup: Annotated[int, Field(ge=0)] = 500
    """Steps before `gan_start` in which the critic learns already, unheard."""
    lecam: Weight = 0.0
    """LeCam regularisation of the critic, for few pictures (VQGAN+: 0.001)."""
    augment: tuple[Augmentation, ...] = ()
    """DiffAugment: what the critic sees is changed at random, for few pictures: colour, translation, cutout."""

    @model_validator(mode="after")
    def _has_two_sides(self) -> Losses:
        near = (self.l1, self.l2, self.gradient, self.perceptual, self.logits, self.lpips)
        if self.adaptive and not (self.adversarial and any(near)):
            raise ValueError("adaptive balances adversarial against the pixel and perceptual losses: give both")
        return self

    @property
    def critic(self) -> bool:
        """Whether a critic is needed at all."""
        return self.adversarial > 0 or self.matching > 0



def gradient_loss(difference: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels' slopes, along rows plus along columns: keeps edges sharp.

    difference: reconstruction - picture, `(n, 3, H, W)`.
    """
    across = difference[..., 1:] - difference[..., :-1]
    down = difference[..., 1:, :] - difference[..., :-1, :]
    return across.abs().mean() + down.abs().mean()


def psnr(images: Images, targets: Images) -> Tensor:
    """Peak signal-to-noise ratio in dB per picture `(n,)`, on 8-bit values as they would be saved."""
    ours = ((images.float().clamp(-1, 1) + 1) * 127.5).round()
    theirs = ((targets.float() + 1) * 127.5).round()
    error = (ours - theirs).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)
    return 10 * torch.log10(255.0**2 / error)


def perplexity(counts: Tensor) -> float:
    """exp(entropy) of code counts `(K,)`: as many equally used codes would be as varied. 1 = one code only."""
    p = counts.double() / counts.sum().clamp(min=1)
    return float(torch.exp(-(p * torch.log(p.clamp(min=1e-30))).sum()))

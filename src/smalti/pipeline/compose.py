"""Pixels of an edit: the original's where it is kept, byte for byte; the decoder's where it is remade."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from smalti.types import Images, PixelMask

RING = 4  # pixels of the kept area along the joint, from which colour differences are measured


def paste(
    original: Image.Image,
    decoded: Image.Image,
    regenerate: PixelMask,
    *,
    feather: int = 6,
    correct: bool = True,
) -> Image.Image:
    """`decoded` where `regenerate` bool `(H, W)` is True, the bytes of `original` elsewhere; both RGB of one size.

    Feather and colour correction happen inside the regenerated area only. `feather`: pixels over which the new
    content fades in; narrow areas fade faster, so that their middle is always new. `correct` spreads the decoder's
    colour offset along the joint over the area (a membrane, as in mean-value cloning), which hides the joint.
    """
    kept = ~regenerate
    old = torch.from_numpy(np.array(original, dtype=np.uint8)).permute(2, 0, 1)
    if not bool(regenerate.any()):
        return _picture(old)
    new = torch.from_numpy(np.array(decoded, dtype=np.uint8)).permute(2, 0, 1).float()
    if bool(kept.any()):
        if correct:
            new = new + _membrane(old.float() - new, regenerate)
        alpha = _fade(regenerate, feather)
        new = alpha * new + (1 - alpha) * old.float()
    return _picture(torch.where(regenerate, (new + 0.5).floor().clamp(0, 255).to(torch.uint8), old))


def prefill(images: Images, hidden: PixelMask) -> Images:
    """Images `(n, 3, H, W)` with the pixels of `hidden` `(H, W)` replaced by what their surroundings suggest.

    The encoder sees beyond a cell: without this, content that is about to be remade would leak into kept codes.
    """
    if not bool(hidden.any()) or bool(hidden.all()):
        return images
    return torch.where(hidden, pull_push(images, ~hidden), images)


def pull_push(images: Tensor, known: PixelMask) -> Tensor:
    """Fill the unknown pixels of `(n, c, H, W)` from the known ones: averages at coarser and coarser resolution, then
    back (Gortler et al., "The Lumigraph", 1996, section 3.4). Known pixels are returned as they are."""
    weight = known.to(images.dtype).expand(images.shape[0], 1, *known.shape)
    return _pull_push(images * weight, weight)


def _pull_push(weighted: Tensor, weight: Tensor) -> Tensor:
    values = weighted / weight.clamp(min=1e-6)
    if min(weight.shape[-2:]) <= 1 or bool((weight > 0).all()):
        return values
    size = weight.shape[-2:]
    pad = (0, size[1] % 2, 0, size[0] % 2)
    coarse_weight = 4 * F.avg_pool2d(F.pad(weight, pad), 2)
    coarse = _pull_push(
        4 * F.avg_pool2d(F.pad(weighted, pad), 2) / coarse_weight.clamp(min=1), coarse_weight.clamp(max=1)
    )
    smooth = F.interpolate(coarse, scale_factor=2.0, mode="bilinear", align_corners=False)[..., : size[0], : size[1]]
    share = weight.clamp(max=1)
    return share * values + (1 - share) * smooth


def _membrane(difference: Tensor, regenerate: PixelMask) -> Tensor:
    """The difference `(3, H, W)` on the kept side of the joint, spread smoothly over the regenerated area."""
    near = _dilate(regenerate, RING) & ~regenerate
    return pull_push(difference[None], near)[0].clamp(-48, 48)


def _fade(area: PixelMask, feather: int) -> Tensor:
    """How much of the new content shows, 0..1 float `(H, W)`: rises from the area's rim to 1 at `feather` pixels."""
    if feather <= 0:
        return area.float()
    depth = torch.zeros(area.shape)
    inside = area
    for step in range(feather + 1):
        depth += inside
        inside = ~_dilate(~inside, 1, square=step % 2 == 1)
    # a narrow area never gets `feather` pixels deep: it fades over the depth it has
    deepest = F.max_pool2d(depth[None], 2 * feather + 1, stride=1, padding=feather)[0]
    t = (depth / deepest.clamp(min=1)).clamp(max=1)
    return t * t * (3 - 2 * t)


def _dilate(mask: PixelMask, pixels: int, *, square: bool = True) -> PixelMask:
    """Grow a mask by a square, or by one pixel in the four directions; beyond the picture's edge nothing is marked."""
    x = mask.float()[None]
    if square:
        return F.max_pool2d(x, 2 * pixels + 1, stride=1, padding=pixels)[0].bool()
    row = F.max_pool2d(x, (1, 3), stride=1, padding=(0, 1))
    column = F.max_pool2d(x, (3, 1), stride=1, padding=(1, 0))
    return torch.maximum(row, column)[0].bool()


def _picture(pixels: Tensor) -> Image.Image:
    return Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy(), "RGB")

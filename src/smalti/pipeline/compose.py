"""Pixels of an edit: the original's where they are kept, byte for byte; the decoder's where they are remade.

Three rules, each a property test:

- a kept pixel is the original's byte, always;
- a remade pixel depends on the decoder and on kept pixels only, never on what the original hid there;
- blending happens inside the remade area, near its border with kept pixels.

The decoder does not give kept surroundings back exactly: along the border its picture is off by e = original -
decoded. The slow part of e is continued into the remade area as smoothly as possible, which removes steps of colour (a
membrane: Laplace's equation with e on the border, "seamless cloning" of Perez et al., Poisson Image Editing, 2003).
What is left of e, texture that the decoder lost, is continued the same way but fades out over `feather` pixels. Fading
from the original's own pixels instead would let removed content shine through, and an extended picture has none there.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from smalti.errors import UsageError
from smalti.images import to_pil
from smalti.types import Images, PixelMask

_BLUR = 3  # pixels to each side over which the border's offset is averaged to find its slow part
_MOST_OFFSET = 40.0  # grey levels: more is content, not colour, as in a cell that the mask cuts, and must not spread
_SWEEPS = 4  # relaxation sweeps at the finest level, doubled at each coarser one ...
_MOST_SWEEPS = 48  # ... up to this many; together within about 0.3 of 255 of the exact solution on real offsets
_SMALL = 1 << 20  # pixels up to which the channels are solved together
_MARGIN = 16  # pixels of surroundings that a regenerated area needs to see


def paste(
    original: Image.Image,
    decoded: Image.Image | Images,
    regenerate: PixelMask,
    *,
    feather: int = 8,
    correct: bool = True,
) -> Image.Image:
    """The decoder's pixels where `regenerate` bool `(H, W)` is True, the original's bytes everywhere else.

    `decoded` is a picture of the original's size, or one image float `(1, 3, H, W)` in [-1, 1]. `feather` is in
    pixels; 0 = a hard edge. `correct=False` leaves the decoder's colours as they are (beyond the feather).
    Returns a new RGB picture that has the original's colour profile and nothing else of its `.info`. Raises UsageError
    for different sizes.
    """
    kept = np.asarray(original.convert("RGB"))
    mask = regenerate.detach().to("cpu", torch.bool)
    size = kept.shape[:2]
    if tuple(mask.shape) != size:
        raise UsageError(f"the mask has shape {tuple(mask.shape)}, the picture {size}", field="regenerate")
    if isinstance(decoded, Tensor):
        decoded = to_pil(decoded.reshape(-1, *decoded.shape[-3:]))[0]
    new = np.asarray(decoded.convert("RGB"))
    if new.shape[:2] != size:
        raise UsageError(f"the decoded picture has shape {new.shape[:2]}, the original {size}", field="decoded")

    out = kept.copy()
    box = _surroundings(mask)
    if box is not None:
        inside = mask[box]
        old_area, new_area = torch.from_numpy(kept[box].copy()), torch.from_numpy(new[box].copy())
        blended = _blend(old_area, new_area, inside, feather, correct)
        out[box] = np.where(inside.numpy()[..., None], blended.numpy(), kept[box])
    picture = Image.fromarray(out)
    if "icc_profile" in original.info:  # without it the kept bytes would mean other colours
        picture.info["icc_profile"] = original.info["icc_profile"]
    return picture


def prefill(images: Images, mask: PixelMask) -> Images:
    """Images float `(n, 3, H, W)`, the pixels under `mask` bool `(H, W)` replaced by a smooth continuation of the rest.

    For encoding: what is about to be removed then cannot leak into the codes of its neighbours. The other pixels come
    back unchanged; a picture that is all mask becomes mid-grey. Returns a new tensor.
    """
    size = tuple(images.shape[-2:])
    if tuple(mask.shape) != size:
        raise UsageError(f"the mask has shape {tuple(mask.shape)}, the picture {size}", field="mask")
    out = images.clone()
    hidden = mask.to(images.device)
    box = _surroundings(hidden)
    if box is None:
        return out
    if bool(hidden.all()):
        return out.zero_()
    area = (slice(None), slice(None), *box)
    n, channels, height, width = out[area].shape
    smooth = membrane(out[area].reshape(n * channels, height, width), ~hidden[box])
    out[area] = torch.where(hidden[box], smooth.view(n, channels, height, width), out[area])
    return out


def membrane(values: Tensor, known: PixelMask) -> Tensor:
    """The smoothest continuation of `values` float `(c, H, W)` from `known` bool `(H, W)` to all other pixels.

    Solves Laplace's equation with the known pixels as boundary and free edges of the picture, approximately: from
    coarse to fine, each level starting from the coarser one (cascadic multigrid, Bornemann & Deuflhard 1996). Known
    pixels come back unchanged, unknown ones of the input are not looked at; all are 0 if none is known.
    """
    values = torch.where(known, values.float(), 0.0)
    pyramid = [(values, known)]
    while max(known.shape) > 1 and not bool(known.all()):
        values, known = _halved(values, known)
        pyramid.append((values, known))
    solution = pyramid[-1][0]
    for level, (values, known) in reversed(list(enumerate(pyramid[:-1]))):
        height, width = known.shape
        guess = F.interpolate(solution[None], scale_factor=2, mode="bilinear")[0, :, :height, :width]
        solution = torch.where(known, values, guess)
        for _ in range(min(_SWEEPS << level, _MOST_SWEEPS, height + width)):
            solution = torch.where(known, values, _neighbours(solution))
    return solution


def inside_distance(mask: PixelMask, limit: int) -> npt.NDArray[np.float32]:
    """Euclidean distance in pixels of every True pixel to the nearest False one, exact up to `limit`, then limit + 1.

    The picture's edge is no border; False pixels have distance 0. Separable (Felzenszwalb & Huttenlocher 2012), with a
    plain minimum over the few offsets that matter instead of lower envelopes.
    """
    far = limit + 1
    selected = mask.numpy()
    rows = np.arange(selected.shape[0], dtype=np.int64)[:, None]
    above = np.maximum.accumulate(np.where(selected, -far, rows), axis=0)
    below = np.minimum.accumulate(np.where(selected, rows[-1] + far, rows)[::-1], axis=0)[::-1]
    column = np.minimum(np.minimum(rows - above, below - rows), far).astype(np.int32)
    squared = column * column
    nearest = squared.copy()
    for offset in range(1, min(far, squared.shape[1])):
        step = offset * offset
        np.minimum(nearest[:, offset:], squared[:, :-offset] + step, out=nearest[:, offset:])
        np.minimum(nearest[:, :-offset], squared[:, offset:] + step, out=nearest[:, :-offset])
    distance: npt.NDArray[np.float32] = np.sqrt(np.minimum(nearest, far * far), dtype=np.float32)
    return distance


def _blend(kept: Tensor, new: Tensor, inside: PixelMask, feather: int, correct: bool) -> Tensor:
    """uint8 `(H, W, 3)`: the decoder's pixels, corrected and faded in; meaningful under `inside` only."""
    if bool(inside.all()) or not (feather or correct):
        return new
    border = _grown(inside) & ~inside
    t = torch.from_numpy(inside_distance(inside, feather)) / (feather + 1)
    fades = 1 - t * t * (3 - 2 * t)  # smoothstep: 1 on the border, 0 beyond the feather
    plain = new.permute(2, 0, 1).float()
    offset = kept.permute(2, 0, 1).float() - plain
    slow = _known_mean(offset, ~inside).clamp(-_MOST_OFFSET, _MOST_OFFSET)
    together = 3 if inside.numel() <= _SMALL else 1  # channels at a time: many small steps, or little memory
    for part in range(0, 3, together):
        now = slice(part, part + together)
        if feather:
            continued = membrane(torch.cat([slow[now], offset[now] - slow[now]]), border)
            slow_in, fast_in = continued.chunk(2)
            plain[now] += slow_in + fades * fast_in if correct else fades * (slow_in + fast_in)
        else:
            plain[now] += membrane(slow[now], border)
    return plain.add_(0.5).floor_().clamp_(0, 255).to(torch.uint8).permute(1, 2, 0)


def _surroundings(mask: PixelMask) -> tuple[slice, slice] | None:
    """The box around all True pixels with a margin, within the picture; None if there are none."""
    rows, cols = mask.any(1).nonzero(), mask.any(0).nonzero()
    if not len(rows):
        return None
    return (
        slice(max(0, int(rows[0]) - _MARGIN), int(rows[-1]) + 1 + _MARGIN),
        slice(max(0, int(cols[0]) - _MARGIN), int(cols[-1]) + 1 + _MARGIN),
    )


def _known_mean(values: Tensor, known: PixelMask) -> Tensor:
    """Mean of the known values of `(c, H, W)` around each pixel; unknown ones do not count."""
    weight = known.float()[None]
    size = 2 * _BLUR + 1
    both = torch.cat([values * weight, weight])
    across = F.avg_pool2d(both, (1, size), stride=1, padding=(0, _BLUR))
    means = F.avg_pool2d(across, (size, 1), stride=1, padding=(_BLUR, 0))
    return means[:-1] / means[-1:].clamp_min(0.5 / size**2)  # at least one known pixel, or nobody looks


def _grown(mask: PixelMask) -> PixelMask:
    return F.max_pool2d(mask.float()[None], 3, stride=1, padding=1)[0].bool()


def _halved(values: Tensor, known: PixelMask) -> tuple[Tensor, PixelMask]:
    """Means of the known values in 2x2 blocks; a block is known if any of it is."""
    height, width = known.shape
    pad = (0, width % 2, 0, height % 2)
    weight = F.avg_pool2d(F.pad(known.float()[None], pad), 2)[0]
    total = F.avg_pool2d(F.pad(values, pad), 2)
    return total / weight.clamp_min(0.25), weight > 0


def _neighbours(values: Tensor) -> Tensor:
    """Mean of the four neighbours; at the picture's edge the pixel stands in for the missing one."""
    out = torch.empty_like(values)
    out[:, :-1], out[:, -1:] = values[:, 1:], values[:, -1:]
    out[:, 1:] += values[:, :-1]
    out[:, :1] += values[:, :1]
    out[..., :-1] += values[..., 1:]
    out[..., -1:] += values[..., -1:]
    out[..., 1:] += values[..., :-1]
    out[..., :1] += values[..., :1]
    return out.mul_(0.25)

"""Decode a canvas piece by piece, so that memory depends on the tile and not on the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from smalti.types import Codes, Images

_BLEND = 4  # cells over which tiles of a global decoder (attention, group norm) fade into each other


def decode_tiled(decode: Callable[[Codes], Images], codes: Codes, *, cell: int, halo: int | None, tile: int) -> Images:
    """`(n, h, w)` codes -> `(n, 3, h*cell, w*cell)` on the CPU, calling `decode` on at most (tile + 2 halo)^2 cells.

    With a finite receptive field `halo` (in cells) every tile is decoded with all the cells that can reach it and
    cropped: the pixels are those of one big decode. With `halo=None` (the decoder sees everything) neighbouring
    tiles overlap and are blended with linear ramps.
    """
    _, h, w = codes.shape
    if h <= tile and w <= tile:
        return decode(codes).cpu()
    if halo is None:
        return _blended(decode, codes, cell, tile)
    out = torch.empty(codes.shape[0], 3, h * cell, w * cell)
    for r0, c0 in _grid(h, w, tile):
        r1, c1 = min(h, r0 + tile), min(w, c0 + tile)
        top, left = max(0, r0 - halo), max(0, c0 - halo)
        piece = decode(codes[:, top : min(h, r1 + halo), left : min(w, c1 + halo)])
        inner = piece[:, :, (r0 - top) * cell : (r1 - top) * cell, (c0 - left) * cell : (c1 - left) * cell]
        out[:, :, r0 * cell : r1 * cell, c0 * cell : c1 * cell] = inner
    return out


def _grid(h: int, w: int, step: int) -> Iterator[tuple[int, int]]:
    return ((r, c) for r in range(0, h, step) for c in range(0, w, step))


def _blended(decode: Callable[[Codes], Images], codes: Codes, cell: int, tile: int) -> Images:
    n, h, w = codes.shape
    overlap = min(_BLEND, tile - 1)
    total = torch.zeros(n, 3, h * cell, w * cell)
    weight = torch.zeros(1, 1, h * cell, w * cell)
    for r0, c0 in _grid(max(1, h - overlap), max(1, w - overlap), tile - overlap):
        r1, c1 = min(h, r0 + tile), min(w, c0 + tile)
        ramp = torch.outer(_ramp(r0, r1, h, overlap, cell), _ramp(c0, c1, w, overlap, cell))
        area = (..., slice(r0 * cell, r1 * cell), slice(c0 * cell, c1 * cell))
        total[area] += decode(codes[:, r0:r1, c0:c1]).cpu() * ramp
        weight[area] += ramp
    return total / weight


def _ramp(start: int, stop: int, size: int, overlap: int, cell: int) -> Tensor:
    """Weights of a tile's pixels along one side: 1 inside, falling towards edges that another tile shares."""
    length, fade = (stop - start) * cell, overlap * cell
    at = torch.arange(length) + 0.5
    rise = (at / fade).clamp(max=1) if start > 0 else torch.ones(length)
    fall = ((length - at) / fade).clamp(max=1) if stop < size else torch.ones(length)
    return rise * fall

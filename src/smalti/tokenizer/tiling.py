"""Decode a canvas piece by piece, so that memory depends on the tile and not on the picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from smalti.types import Codes, Images

# Tiles of a decoder that sees everything (attention, group norm), in cells:
_CONTEXT = 8  # decoded around a tile and thrown away: the padding's influence fades within them
_BLEND = 8  # at least so many over which tiles fade into each other


def decode_tiled(decode: Callable[[Codes], Images], codes: Codes, *, cell: int, halo: int | None, tile: int) -> Images:
    """`(n, h, w)` codes -> `(n, 3, h*cell, w*cell)` on the CPU, calling `decode` on at most (tile + 2 halo)^2 cells.

    With a finite receptive field `halo` (in cells) every tile is decoded with all the cells that can reach it and
    cropped: the pixels are those of one big decode. With `halo=None` (the decoder sees everything) they cannot be;
    there tiles are decoded with context that is thrown away, and fade into each other over a broad overlap.
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
    _, h, w = codes.shape
    out = torch.zeros(codes.shape[0], 3, h * cell, w * cell)
    columns = _windows(w, tile, cell)
    for r0, r1, row_weights in _windows(h, tile, cell):
        for c0, c1, column_weights in columns:
            piece = decode(codes[:, r0:r1, c0:c1]).cpu()
            area = out[:, :, r0 * cell : r1 * cell, c0 * cell : c1 * cell]
            area += piece * torch.outer(row_weights, column_weights)
    return out


def _windows(size: int, tile: int, cell: int) -> list[tuple[int, int, Tensor]]:
    """(start, stop, weight of each pixel) of the windows along a side of `size` cells.

    All have `tile` cells, so that their statistics are alike, and lie evenly. The weights of all windows add up to 1
    at every pixel; they are 0 on the context, which is decoded for its neighbours' sake only.
    """
    if size <= tile:
        return [(0, size, torch.ones(size * cell))]
    context = min(_CONTEXT, (tile - 1) // 4)
    shared = 2 * context + min(_BLEND, (tile - 1) // 2)
    count = math.ceil((size - shared) / (tile - shared))
    starts = [round(i * (size - tile) / (count - 1)) for i in range(count)]
    rows = torch.zeros(count, size * cell)
    at = torch.arange(tile * cell) + 0.5
    for i, start in enumerate(starts):
        left = torch.full_like(at, math.inf)
        right = left.clone()
        if i > 0:
            fade = starts[i - 1] + tile - start - 2 * context  # cells in which two windows are more than context
            left = (at / cell - context) / max(fade, 1 / cell)
        if i < count - 1:
            fade = start + tile - starts[i + 1] - 2 * context
            right = (tile - context - at / cell) / max(fade, 1 / cell)
        rows[i, start * cell : (start + tile) * cell] = _smooth(left) * _smooth(right)
    rows /= rows.sum(0)
    pixels = [slice(start * cell, (start + tile) * cell) for start in starts]
    return [(start, start + tile, rows[i, pixels[i]]) for i, start in enumerate(starts)]


def _smooth(x: Tensor) -> Tensor:
    """0 up to 0, 1 from 1 on, without a kink between: a kink in a blend can be seen as a line."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)

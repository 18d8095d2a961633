"""Pictures laid out in one PNG: samples and reconstructions of a run."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from smalti.files import write_bytes
from smalti.images import png_bytes
from smalti.types import Images


def grid(images: Images, columns: int) -> Image.Image:
    """Images `(n, 3, H, W)` in [-1, 1], row by row in `columns` columns, with a gap of 2 pixels."""
    pixels = ((images.float().cpu() + 1) * 127.5 + 0.5).clamp(0, 255).to(torch.uint8)  # (n, 3, H, W)
    n, _, h, w = pixels.shape
    columns = min(columns, n)
    rows, gap = -(-n // columns), 2
    sheet = torch.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, dtype=torch.uint8)
    for i in range(n):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = pixels[i].permute(1, 2, 0)
    return Image.fromarray(sheet.numpy())


def save_grid(images: Images, path: Path, columns: int = 8) -> None:
    """`grid` as a PNG at `path`."""
    write_bytes(path, png_bytes(grid(images, columns)), force=True)


def interleave(*rows: Tensor) -> Tensor:
    """Pictures a0 b0 a1 b1 ... of equally long batches, so that what belongs together stands together."""
    return torch.stack(rows, dim=1).flatten(0, 1)

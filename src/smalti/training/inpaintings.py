"""A grid that shows whether a prior heeds what it is given: the middle of pictures remade, the rest kept."""

from __future__ import annotations

import torch
from torch import Tensor

from smalti.prior import AbsorbingTransformer
from smalti.sampling import SamplerOptions, fill
from smalti.tokenizer import VQGAN
from smalti.training.grids import interleave
from smalti.training.loop import arithmetic
from smalti.training.parallel import Precision
from smalti.training.runs import StageFolder
from smalti.types import EMPTY, Codes

PICTURES = 4
RESULTS = 3


def middle(height: int, width: int) -> tuple[slice, slice]:
    """Rows and columns of the middle quarter of a grid of cells, at least one cell."""
    rows, columns = max(1, height // 2), max(1, width // 2)
    top, left = (height - rows) // 2, (width - columns) // 2
    return slice(top, top + rows), slice(left, left + columns)


def draw_inpaintings(
    stage: StageFolder,
    step: int,
    network: AbsorbingTransformer,
    tokenizer: VQGAN,
    codes: Codes,
    precision: Precision,
    seed: int,
    labels: Tensor | None = None,
) -> None:
    """One row per picture of `codes` `(n, h, w)`, at most 4: decoded | its middle masked | remade in 3 ways, as what it
    is if `labels` `(n,)` say so.

    The kept codes are the same in all columns, and the seeds the same each time, so that one sees what training
    changes.
    """
    given = codes[:PICTURES].cpu()
    n, height, width = given.shape
    rows, columns = middle(height, width)
    open_ = given.clone()
    open_[:, rows, columns] = EMPTY
    seeds = [seed + i for i in range(n * RESULTS)]
    with torch.no_grad(), arithmetic(precision, network.device):
        filled = fill(
            network,
            open_.repeat_interleave(RESULTS, 0),
            seeds=seeds,
            options=SamplerOptions(num_inference_steps=16),
            label=None if labels is None else labels[:PICTURES].repeat_interleave(RESULTS),
        )
    whole = tokenizer.decode(given).cpu()  # (n, 3, H, W)
    masked, cell = whole.clone(), tokenizer.cell
    masked[:, :, rows.start * cell : rows.stop * cell, columns.start * cell : columns.stop * cell] = 0
    made = tokenizer.decode(filled.cpu()).cpu()  # (n RESULTS, 3, H, W)
    results = [made[i::RESULTS] for i in range(RESULTS)]
    stage.show(step, "inpaintings", interleave(whole, masked, *results), columns=2 + RESULTS)

"""Spreading one base pattern over a canvas of any size."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from smalti.randomness import Purpose, uniforms
from smalti.sampling.orders.base import Cells
from smalti.sampling.orders.random import canvas_counters

PERIOD: Final = 64
"""Largest side, in cells, of a base pattern; larger canvases repeat it. Cells that far apart hardly matter to each
other, and a pattern for each canvas size would cost quadratic time."""

# counters of the draws below: beyond any cell of a canvas
_SHIFT = 1 << 50


def period(height: int, width: int) -> tuple[int, int]:
    """Size of the base pattern for a canvas."""
    return min(height, PERIOD), min(width, PERIOD)


def coins(seed: int, n: int) -> npt.NDArray[np.float64]:
    """`n` uniforms for choices about a whole pattern (shift, flip), none shared with a cell's."""
    return uniforms(seed, Purpose.ORDER, _SHIFT + np.arange(n))


def spread(base: Cells, height: int, width: int, seed: int) -> npt.NDArray[np.float64]:
    """Priorities `(height, width)`: the pattern `base` of ranks, repeated, shifted on its torus by a random offset.
    Cells of equal rank (repeats) come in random sequence."""
    at = coins(seed, 2) * base.shape
    rows = (np.arange(height) + int(at[0])) % base.shape[0]
    cols = (np.arange(width) + int(at[1])) % base.shape[1]
    ranks = base[np.ix_(rows, cols)].astype(np.float64)
    if base.shape == (height, width):
        return ranks
    return ranks + uniforms(seed, Purpose.ORDER, canvas_counters(height, width))

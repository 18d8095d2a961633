"""Counter-based random numbers: a uniform is a pure function of (seed, purpose, step, counter).

Nothing here has a state, so image 7 of a batch draws what it would draw alone, on any device, in any order of
evaluation, and a run that was interrupted continues with the numbers it would have seen.

The mixing function is the finaliser of SplitMix64 (Steele, Lea & Flood, "Fast splittable pseudorandom number
generators", OOPSLA 2014; constants of Stafford's variant 13), applied once per key and twice per counter.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np
import numpy.typing as npt

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15  # odd, 2^64 / golden ratio: spreads adjacent keys before they are mixed
_OTHER = 0xD1B54A32D192ED03
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB


class Purpose(IntEnum):
    """What a number is for: two purposes never share numbers, whatever their counters."""

    ORDER = 1
    """Where and when cells are revealed."""
    DRAW = 2
    """The code of a cell."""
    WINDOWS = 3
    """Offsets of the tiles that cover a large canvas."""
    CHOOSE = 4
    """Which cells a verb empties (variations)."""
    GUMBEL = 5
    """Noise on confidences."""
    MASK = 6
    """Masks for likelihood estimates and training."""


def uniforms(
    seed: int, purpose: Purpose, counters: npt.NDArray[Any] | range | int, step: int = 0
) -> npt.NDArray[np.float64]:
    """Uniforms in [0, 1) with 53 random bits, one per counter, in the shape of `counters`.

    `seed` any Python int (taken modulo 2^64); `counters` non-negative integers, for example `cell_counters`.
    """
    cells = np.asarray(counters)
    flat = cells.reshape(-1).astype(np.uint64)  # 1-d: numpy warns of overflow in scalars, not in arrays
    key = _mix(_mix(_mix(seed + _GAMMA) + int(purpose) * _GAMMA) + step * _GAMMA)
    # the second key must not be one that `counter * gamma + key` reaches, or one counter would always draw 0
    bits = _mix_array(_mix_array(flat * np.uint64(_GAMMA) + np.uint64(key)) ^ np.uint64(_mix(key ^ _OTHER)))
    return ((bits >> np.uint64(11)).astype(np.float64) * 2.0**-53).reshape(cells.shape)


def permutation(seed: int, purpose: Purpose, n: int, step: int = 0) -> npt.NDArray[np.int64]:
    """A uniformly random permutation of `0..n-1`: the argsort of `n` uniforms."""
    return np.argsort(uniforms(seed, purpose, np.arange(n), step), kind="stable").astype(np.int64)


def cell_counters(rows: npt.NDArray[Any], cols: npt.NDArray[Any]) -> npt.NDArray[np.uint64]:
    """The counter of a cell, `row * 2^20 + col`: the same number on a canvas of any width."""
    return (rows.astype(np.uint64) << np.uint64(20)) + cols.astype(np.uint64)


def _mix(value: int) -> int:
    value &= _MASK
    value = ((value ^ (value >> 30)) * _MIX_1) & _MASK
    value = ((value ^ (value >> 27)) * _MIX_2) & _MASK
    return value ^ (value >> 31)


def _mix_array(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """`_mix` for 1-d arrays, whose unsigned products wrap around silently."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(_MIX_1)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(_MIX_2)
    return values ^ (values >> np.uint64(31))

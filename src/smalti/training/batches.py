"""Which pictures a step sees, as a pure function of (seed, step): a resumed run needs no state to go on.

A batch is global: several processes each take rows of it (`Processes.rows`), so it does not depend on their number.
"""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

from smalti.errors import UsageError
from smalti.randomness import Purpose, permutation


def derived_seed(seed: int, *names: str | int) -> int:
    """A seed in 0..2^63-1 for one use of `seed`: different names give unrelated numbers."""
    text = "/".join(str(part) for part in (seed, *names))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def check_batch(stage: str, batch: int, parts: int, processes: int, pictures: int | None = None) -> None:
    """Raise UsageError, naming the field, for a global batch that cannot be had.

    parts: in which each process computes its share (`accumulate`). pictures: in the data set, where known already.
    """
    field, whole = f"{stage}.batch", processes * parts
    if batch < processes:
        raise UsageError(f"{field} {batch} is less than a picture for each of {processes} processes: "
                         f"raise it to a multiple of {whole}, or start fewer", field=field)  # fmt: skip
    if batch % whole:
        among = f"among {processes} processes " if processes > 1 else ""
        raise UsageError(f"{field} {batch} cannot be divided {among}in {parts} equal part(s): "
                         f"make it a multiple of {whole}", field=field)  # fmt: skip
    if pictures is not None and batch > pictures:
        raise UsageError(f"{field} {batch} is larger than the data set of {pictures} picture(s): "
                         f"--set {field}={max(1, pictures // whole) * whole}", field=field)  # fmt: skip


class Batches:
    """Shuffled passes over `count` items in batches of `size`; a batch may reach into the next pass."""

    def __init__(self, count: int, size: int, seed: int) -> None:
        self.count, self.size = count, size
        self._seed = derived_seed(seed, "order")
        self._pass = (-1, np.empty(0, np.int64))  # the one permutation in use

    def at(self, step: int) -> npt.NDArray[np.int64]:
        """int64 `(size,)` indices of step `step` (from 0)."""
        places = np.arange(step * self.size, (step + 1) * self.size)
        epochs = places // self.count
        return np.concatenate([self._shuffled(int(e))[places[epochs == e] % self.count] for e in np.unique(epochs)])

    def epoch(self, step: int) -> float:
        """Passes over the data after `step` steps."""
        return step * self.size / self.count

    def _shuffled(self, epoch: int) -> npt.NDArray[np.int64]:
        if self._pass[0] != epoch:
            self._pass = (epoch, permutation(self._seed, Purpose.MASK, self.count, step=epoch))
        return self._pass[1]

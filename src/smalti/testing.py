"""Test doubles, public: a prior in closed form, a prior that knows nothing, and a tokenizer of flat colours.

They follow the contracts of the real ones, need no weights and run in microseconds, so that tests of what is
built on smalti need neither.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from smalti.errors import UsageError
from smalti.types import EMPTY, Codes, Images, Logits

_LARGEST_TABLE = 1 << 20


class ToyPrior:
    """A `Denoiser` that knows the exact joint distribution of a tiny window, and so every conditional exactly.

    `joint` holds the probabilities of all `K^(h*w)` windows (normalised here), the code of the first cell varying
    slowest: entry `[a, b, c, d]` of `joint.reshape(K, K, K, K)` is the window `[[a, b], [c, d]]`.
    """

    def __init__(self, joint: Tensor, window: tuple[int, int], codebook_size: int) -> None:
        n = window[0] * window[1]
        _check_table(n, codebook_size)
        if joint.numel() != codebook_size**n:
            raise UsageError(f"the joint needs {codebook_size}^{n} = {codebook_size**n} entries, not {joint.numel()}")
        self.window = window
        self.codebook_size = codebook_size
        self.device = torch.device("cpu")
        self.joint = joint.detach().double().reshape(-1) / joint.sum()
        """float64 `(K^(h*w),)`, sum 1."""
        self.grids = torch.tensor(list(itertools.product(range(codebook_size), repeat=n))).view(-1, *window)
        """int64 `(K^(h*w), h, w)`: the windows in the sequence of `joint`."""
        self.windows_seen = 0
        """Windows evaluated so far."""

    @classmethod
    def random(cls, height: int, width: int, codebook_size: int, seed: int = 0, sharpness: float = 1.5) -> ToyPrior:
        """A joint without any structure: log-probabilities normal with standard deviation `sharpness`."""
        _check_table(height * width, codebook_size)
        noise = torch.randn(codebook_size ** (height * width), generator=torch.Generator().manual_seed(seed))
        return cls((noise.double() * sharpness).exp(), (height, width), codebook_size)

    def __call__(self, codes: Codes, positions: Tensor | None = None, label: Tensor | None = None) -> Logits:
        """Logits `(n, m, K)`, float32: log-probabilities given the cells that are known, -inf where impossible."""
        _check_window(codes, self.window)
        self.windows_seen += len(codes)
        logits = self.conditionals(codes).log().float()
        return logits if positions is None else _select(logits, positions)

    def conditionals(self, codes: Codes) -> Tensor:
        """Exact `p(x_i | known cells)` of windows `(n, h, w)`, float64 `(n, h*w, K)`; known cells are one-hot."""
        patterns, which = torch.unique(codes.flatten(1), dim=0, return_inverse=True)
        grids = self.grids.flatten(1)
        one_hot = F.one_hot(grids, self.codebook_size).double().flatten(1)  # (K^N, N*K)
        fits = ((patterns[:, None] == grids) | (patterns[:, None] == EMPTY)).all(-1)  # (n, K^N)
        table = (fits * self.joint) @ one_hot
        table = table.view(len(patterns), -1, self.codebook_size)
        exact: Tensor = (table / table.sum(-1, keepdim=True))[which]
        return exact

    def number(self, codes: Codes) -> Tensor:
        """Index into `joint` of full windows `(n, h, w)`: int64 `(n,)`."""
        place = self.codebook_size ** torch.arange(self.grids[0].numel() - 1, -1, -1)
        number: Tensor = (codes.flatten(1) * place).sum(1)
        return number


class ToyClasses:
    """A `Denoiser` with classes, exact with and without a label: a `ToyPrior` for each class, and for none of them
    their mixture with weights `shares` (equal by default)."""

    def __init__(self, priors: Sequence[ToyPrior], shares: Sequence[float] | None = None) -> None:
        self.priors = list(priors)
        first = self.priors[0]
        self.window, self.codebook_size, self.device = first.window, first.codebook_size, first.device
        weights = torch.tensor(shares or [1.0] * len(self.priors), dtype=torch.float64)
        joint = torch.stack([prior.joint for prior in self.priors]).mul(weights[:, None]).sum(0)
        self.mixture = ToyPrior(joint, self.window, self.codebook_size)
        """What is known of a picture of unknown class."""
        self.windows_seen = 0

    def __call__(self, codes: Codes, positions: Tensor | None = None, label: Tensor | None = None) -> Logits:
        """Logits `(n, m, K)` as of `ToyPrior`; `label` int64 `(n,)`, -1 = none."""
        self.windows_seen += len(codes)
        labels = torch.full((len(codes),), -1) if label is None else label
        everyone = torch.stack([prior(codes, positions) for prior in (*self.priors, self.mixture)])  # -1 is the last
        return everyone[labels, torch.arange(len(codes))]


class UniformPrior:
    """A `Denoiser` to which all codes are equally likely, whatever is known. Any window, no cost."""

    def __init__(self, codebook_size: int, window: tuple[int, int] = (16, 16)) -> None:
        self.window = window
        self.codebook_size = codebook_size
        self.device = torch.device("cpu")
        self.windows_seen = 0

    def __call__(self, codes: Codes, positions: Tensor | None = None, label: Tensor | None = None) -> Logits:
        """Zeros `(n, m, K)`."""
        _check_window(codes, self.window)
        self.windows_seen += len(codes)
        m = codes.shape[1] * codes.shape[2] if positions is None else positions.shape[1]
        return torch.zeros(len(codes), m, self.codebook_size)


class ToyTokenizer:
    """A tokenizer in which code k is a cell of one flat colour: `encode(decode(codes)) == codes`, also after 8 bits.

    The methods are those of `smalti.tokenizer.VQGAN`; there is nothing to train.
    """

    def __init__(self, codebook_size: int = 64, cell: int = 8) -> None:
        self.codebook_size = codebook_size
        self.cell = cell
        self.device = torch.device("cpu")
        self.config = SimpleNamespace(codebook_size=codebook_size, cell=cell, value_range=(-1.0, 1.0))
        self.palette = _palette(codebook_size)
        """`(K, 3)` in [-1, 1]: all different, each a whole number of 1/255."""

    def encode(self, images: Images) -> Codes:
        """Code of the nearest colour to each cell's mean; `(n, ceil(H/cell), ceil(W/cell))`, padded by reflection."""
        height, width = images.shape[-2:]
        bottom, right = -height % self.cell, -width % self.cell
        mode = "reflect" if bottom < height and right < width else "replicate"
        padded = F.pad(images.float(), (0, right, 0, bottom), mode=mode)
        means = F.avg_pool2d(padded, self.cell).movedim(1, -1)  # (n, h, w, 3)
        return torch.cdist(means.flatten(0, 2), self.palette).argmin(-1).view(means.shape[:-1])

    def decode(self, codes: Codes) -> Images:
        """Flat cells, float32 `(n, 3, h*cell, w*cell)`. Raises ValueError for codes outside `0..K-1`."""
        if ((codes < 0) | (codes >= self.codebook_size)).any():
            raise ValueError(f"codes must be 0..{self.codebook_size - 1} to be decoded")
        small = self.palette[codes].movedim(-1, 1)
        return small.repeat_interleave(self.cell, -1).repeat_interleave(self.cell, -2)

    def decode_tiled(self, codes: Codes, tile: int = 96) -> Images:
        """The same as `decode`."""
        return self.decode(codes)

    def to(self, *args: object, **kwargs: object) -> ToyTokenizer:
        """Itself: there is nothing to move."""
        return self

    def eval(self) -> ToyTokenizer:
        """Itself: there is no training mode."""
        return self


def _check_table(n: int, codebook_size: int) -> None:
    if codebook_size**n > _LARGEST_TABLE:
        raise UsageError(f"a table of {codebook_size}^{n} windows is too large; use a smaller window or codebook")


def _select(logits: Logits, positions: Tensor) -> Logits:
    return logits.gather(1, positions.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))


def _check_window(codes: Codes, window: tuple[int, int]) -> None:
    assert tuple(codes.shape[1:]) == window, f"the engine asked for {tuple(codes.shape[1:])}, the window is {window}"


def _palette(codebook_size: int) -> Tensor:
    levels = 2
    while levels**3 < codebook_size:
        levels += 1
    if levels > 256:
        raise UsageError("8-bit colours distinguish at most 256^3 codes")
    digits = torch.arange(codebook_size).unsqueeze(1) // torch.tensor([levels**2, levels, 1]) % levels
    return (digits * 255 / (levels - 1)).round() / 255 * 2 - 1

"""`CodeGrid`: the codes of one picture as a value, with empty cells and the identity of the model they belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from smalti.errors import UsageError
from smalti.types import EMPTY, CellMask

_EMPTY_U16 = 0xFFFF


@dataclass(frozen=True, eq=False)
class CodeGrid:
    """Codes of one picture. Operations return new grids; the tensor is never written to."""

    codes: torch.Tensor
    """int64 `(h, w)`, `0..K-1` or `EMPTY`."""
    codebook_size: int
    """K."""
    model: str | None = None
    """Identity of the tokenizer; None = not known."""

    def __post_init__(self) -> None:
        """Raises UsageError for a wrong shape, type, or a code out of range (naming the cell)."""
        codes = self.codes
        if not 1 <= self.codebook_size <= _EMPTY_U16:
            raise UsageError(f"a codebook has 1 to {_EMPTY_U16} codes, not {self.codebook_size}", field="codebook_size")
        if codes.ndim != 2 or 0 in codes.shape:
            raise UsageError(f"a grid of codes has rows and columns, not shape {tuple(codes.shape)}", field="codes")
        if codes.dtype.is_floating_point or codes.dtype == torch.bool:
            raise UsageError(f"codes are integers, not {codes.dtype}", field="codes")
        wrong = ((codes < EMPTY) | (codes >= self.codebook_size)).nonzero()
        if len(wrong):
            row, col = wrong[0].tolist()
            raise UsageError(
                f"code {int(codes[row, col])} at row {row}, column {col} is outside 0..{self.codebook_size - 1} "
                f"({EMPTY} = empty)",
                field="codes",
            )
        object.__setattr__(self, "codes", codes.detach().to("cpu", torch.int64, copy=True))

    @property
    def height(self) -> int:
        return self.codes.shape[0]

    @property
    def width(self) -> int:
        return self.codes.shape[1]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows, columns."""
        return self.height, self.width

    @property
    def empty(self) -> CellMask:
        """bool `(h, w)`: cells still to be filled."""
        return self.codes == EMPTY

    def __getitem__(self, area: tuple[slice, slice]) -> CodeGrid:
        """`grid[5:8, 3:13]`: rows and columns, half-open."""
        return self._with(self.codes[area])

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, CodeGrid):
            return NotImplemented
        same = self.codebook_size == other.codebook_size and self.model == other.model
        return same and torch.equal(self.codes, other.codes)

    def __hash__(self) -> int:
        return hash((self.codebook_size, self.model, self.to_bytes()))

    def __repr__(self) -> str:
        return f"CodeGrid({self.height}x{self.width}, {int(self.empty.sum())} empty, K={self.codebook_size})"

    def paste(self, other: CodeGrid, row: int, col: int) -> CodeGrid:
        """`other` laid on this grid with its top left cell at (row, col). Raises UsageError if it does not fit."""
        if row < 0 or col < 0 or row + other.height > self.height or col + other.width > self.width:
            raise UsageError(f"{other.height}x{other.width} cells at ({row}, {col}) leave the {self.shape} grid")
        codes = self.codes.clone()
        codes[row : row + other.height, col : col + other.width] = other.codes
        return self._with(codes)

    def pad(self, top: int = 0, right: int = 0, bottom: int = 0, left: int = 0) -> CodeGrid:
        """A larger grid with empty cells around this one. Raises UsageError for negative numbers."""
        if min(top, right, bottom, left) < 0:
            raise UsageError("a grid is padded by 0 or more cells; take a part of it with grid[rows, columns]")
        return self._with(torch.nn.functional.pad(self.codes, (left, right, top, bottom), value=EMPTY))

    def masked(self, cells: CellMask) -> CodeGrid:
        """Empty where `cells` bool `(h, w)` is True. Raises UsageError for a mask of another shape."""
        if tuple(cells.shape) != self.shape:
            raise UsageError(f"a mask of shape {tuple(cells.shape)} does not fit a {self.shape} grid")
        return self._with(self.codes.masked_fill(cells, EMPTY))

    def count_different(self, other: CodeGrid) -> int:
        """How many cells differ. Raises UsageError for another shape."""
        if self.shape != other.shape:
            raise UsageError(f"a {self.shape} grid cannot be compared with a {other.shape} one")
        return int((self.codes != other.codes).sum())

    def to_bytes(self) -> bytes:
        """uint16 little-endian, row by row; 0xFFFF = empty."""
        return self.codes.numpy().astype(np.int64).astype("<u2").tobytes()

    @classmethod
    def from_bytes(cls, data: bytes, height: int, width: int, codebook_size: int, model: str | None = None) -> CodeGrid:
        """The inverse of `to_bytes`. Raises UsageError if the length is not height * width."""
        if len(data) != 2 * height * width:
            raise UsageError(f"{len(data)} bytes are not {height}x{width} codes", field="codes")
        codes = np.frombuffer(data, "<u2").astype(np.int64).reshape(height, width)
        codes[codes == _EMPTY_U16] = EMPTY
        return cls(torch.from_numpy(codes), codebook_size, model)

    def _with(self, codes: torch.Tensor) -> CodeGrid:
        return CodeGrid(codes, self.codebook_size, self.model)

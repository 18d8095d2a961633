"""`AbsorbingTransformer`: logits of every code at the empty cells of a window, given the codes that are known.

The denoiser of absorbing diffusion (Bond-Taylor et al., 2022, section 3.2): bidirectional, pre-norm, and without any
time input, because the number of empty cells already tells the time. Only what is asked for is computed: the last
block's queries, attention, projection and MLP, the final norm and the head run at the chosen cells alone, which
changes no number (the keys and values of that block still come from all cells).
"""

from __future__ import annotations

import math
from typing import NamedTuple, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from smalti.prior.attention import Attention, axial_phases
from smalti.prior.config import PriorConfig
from smalti.types import EMPTY, Codes, Logits

Phases = tuple[Tensor, Tensor]


class Layout(NamedTuple):
    """Where the cells of one shape of codes stand in the window."""

    cells: Tensor
    """int64 `(L,)` row-major cell indices in the window."""
    phases: Phases | None
    """Rotary tables of those cells and of the tokens without a cell, two `(L + extra, head_dim / 2)`."""


class Norm(nn.Module):
    """Layer normalisation, or root-mean-square normalisation, over the channels."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.centred = config.norm == "layernorm"
        self.eps = config.norm_eps
        self.weight = nn.Parameter(torch.ones(config.d_model))
        self.bias = nn.Parameter(torch.zeros(config.d_model)) if config.bias and self.centred else None

    def forward(self, x: Tensor) -> Tensor:
        if self.centred:
            return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)
        return F.rms_norm(x, list(self.weight.shape), self.weight, self.eps)


class GeluMLP(nn.Module):
    """Two layers with an exact GELU between."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.up = nn.Linear(config.d_model, config.hidden, bias=config.bias)
        self.down = nn.Linear(config.hidden, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.gelu(self.up(x)))
        return out


class SwigluMLP(nn.Module):
    """Two layers with a SiLU gate between (Shazeer, 2020)."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.gate = nn.Linear(config.d_model, config.hidden, bias=config.bias)
        self.up = nn.Linear(config.d_model, config.hidden, bias=config.bias)
        self.down = nn.Linear(config.hidden, config.d_model, bias=config.bias)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(F.silu(self.gate(x)) * self.up(x))
        return out


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)); optionally for some tokens only."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.attention_norm = Norm(config)
        self.attention = Attention(
            config.d_model,
            config.n_heads,
            bias=config.bias,
            qk_norm=config.qk_norm,
            dropout=config.dropout,
            eps=config.norm_eps,
        )
        self.mlp_norm = Norm(config)
        self.mlp = GeluMLP(config) if config.activation == "gelu" else SwigluMLP(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, phases: Phases | None) -> Tensor:
        """All tokens: `(n, N, d)` -> `(n, N, d)`."""
        h = self.attention_norm(x)
        return self._finish(x, self.attention(h, h, phases, phases))

    def at_cells(self, x: Tensor, phases: Phases | None, positions: Tensor) -> Tensor:
        """The chosen tokens of `forward`: x `(n, N, d)`, positions `(n, m)` -> `(n, m, d)`."""
        h = self.attention_norm(x)
        asking_phases = None if phases is None else (phases[0][positions][:, None], phases[1][positions][:, None])
        index = positions[..., None].expand(-1, -1, x.shape[-1])  # (n, m, d)
        mixed = self.attention(h.gather(1, index), h, asking_phases, phases)
        return self._finish(x.gather(1, index), mixed)

    def at_rows(self, x: Tensor, phases: Phases | None, cells: int, rows: Tensor) -> Tensor:
        """The chosen cells of a ragged batch: rows `(total,)` count through all n * cells cells -> `(total, d)`.

        Queries are computed for every cell, because a batched product cannot be ragged; all that follows is not.
        """
        h = self.attention_norm(x)
        asking_phases = None if phases is None else (phases[0][:cells], phases[1][:cells])
        mixed = self.attention(h[:, :cells], h, asking_phases, phases)  # (n, cells, d)
        x = x[:, :cells].flatten(0, 1).index_select(0, rows)
        return self._finish(x, mixed.flatten(0, 1).index_select(0, rows))

    def _finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.dropout(self.attention.output(mixed))
        out: Tensor = x + self.dropout(self.mlp(self.mlp_norm(x)))
        return out


def _autocasts_to_bfloat16(device: torch.device) -> bool:
    kind = device.type
    return torch.is_autocast_enabled(kind) and torch.get_autocast_dtype(kind) == torch.bfloat16


@final
class AbsorbingTransformer(nn.Module):
    """Logits of the codes at chosen cells, given the known codes of a window.

    Satisfies the samplers' denoiser protocol: call it with `(codes, positions, label)`; see `forward`.
    """

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.config = config
        d = config.d_model
        self.token_embedding = nn.Embedding(config.codebook_size + 1, d)  # the last row is the mask
        self.position_embedding = nn.Parameter(torch.zeros(1, config.cells, d)) if self._learned else None
        self.registers = nn.Parameter(torch.zeros(1, config.registers, d)) if config.registers else None
        self.class_embedding = nn.Embedding(config.n_classes, d) if config.n_classes else None
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = Norm(config)
        self.head = None if config.tied_head else nn.Linear(d, config.codebook_size, bias=False)
        self._layouts: dict[tuple[tuple[int, ...], torch.device], Layout] = {}
        if config.initialisation == "zero-residual":
            self._initialise()

    @property
    def codebook_size(self) -> int:
        """Number of codes K."""
        return self.config.codebook_size

    @property
    def window(self) -> tuple[int, int]:
        """Largest (height, width) in cells that one call can see."""
        return self.config.height, self.config.width

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.token_embedding.weight.device

    @property
    def stream_dtype(self) -> torch.dtype:
        """Arithmetic of the blocks; kernels.py may make it another than that of the embeddings and the head."""
        return self.blocks[0].attention.query.weight.dtype  # type: ignore[return-value, union-attr]

    @property
    def parameter_count(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())

    def forward(
        self,
        codes: Codes,
        positions: Tensor | None = None,
        label: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        placed: Tensor | None = None,
    ) -> Logits:
        """Logits at all cells, at some cells of each window, or at some cells of the whole batch.

        codes: int64 `(n, h, w)` with `EMPTY` (-1) at unknown cells, h and w up to the window (a smaller one sees the
            top left part of the position table); or `(n, L)`, the first L cells of the window in row-major order.
        positions: int64 `(n, m)`, row-major cell indices within `codes`; logits `(n, m, K)`. None = every cell.
        label: int64 `(n,)`, -1 = none; only for a model with classes.
        rows: instead of positions, int64 `(total,)` indices into the `n * cells` cells of the batch; logits
            `(total, K)`. This is what training needs, where each sample has another number of masked cells.
        placed: bool `(n,)`, False = without the learned position table: the window is a cut-out, not a whole picture.

        Returns float32 logits (bfloat16 under autocast). Raises ValueError for codes larger than the window.
        """
        if positions is not None and rows is not None:
            raise ValueError("give positions or rows, not both")
        layout = self._layout(codes.shape[1:])
        cells, phases = len(layout.cells), layout.phases
        x = self._embed(codes.flatten(1), layout.cells, label, placed)
        for block in self.blocks[:-1]:
            x = block(x, phases)
        last = self.blocks[-1]
        assert isinstance(last, Block)
        if rows is not None:
            x = last.at_rows(x, phases, cells, rows)  # (total, d)
        elif positions is not None:
            x = last.at_cells(x, phases, positions)  # (n, m, d)
        else:
            x = last(x, phases)[:, :cells]  # (n, cells, d)
        return self._head(x)

    def _embed(self, codes: Tensor, at: Tensor, label: Tensor | None, placed: Tensor | None) -> Tensor:
        """codes `(n, L)` at window cells `(L,)` -> tokens `(n, L + extra, d)`."""
        config = self.config
        x = self.token_embedding(codes.masked_fill(codes == EMPTY, config.codebook_size))  # (n, L, d)
        if self.position_embedding is not None:
            table: Tensor = self.position_embedding
            if codes.shape[1] != config.cells:
                table = table[:, at]
            if placed is not None:
                table = table * placed[:, None, None].to(table.dtype)
            x = x + table
        extras = self._extras(len(codes), label)
        if extras is not None:
            x = torch.cat([x, extras], dim=1)
        if _autocasts_to_bfloat16(x.device):
            # Autocast would keep the residual stream in float32 and convert it before each product: a fifth of the
            # training time on a CPU.
            x = x.bfloat16()
        else:
            x = x.to(self.stream_dtype)
        out: Tensor = self.dropout(x)
        return out

    def _extras(self, n: int, label: Tensor | None) -> Tensor | None:
        """Tokens that belong to no cell: the class, then the registers, `(n, extra, d)`."""
        extras = []
        if self.class_embedding is not None:
            absent = self.token_embedding.weight[-1].expand(n, -1)
            if label is None:
                chosen = absent
            else:
                chosen = torch.where(label[:, None] < 0, absent, self.class_embedding(label.clamp(min=0)))
            extras.append(chosen[:, None])
        elif label is not None:
            raise ValueError("this model has no classes, so it takes no label")
        if self.registers is not None:
            extras.append(self.registers.expand(n, -1, -1))
        return torch.cat(extras, dim=1) if extras else None

    def _head(self, x: Tensor) -> Logits:
        # The head may be of a finer type than the blocks, see kernels.py.
        weight = self.token_embedding.weight[:-1] if self.head is None else self.head.weight
        if not torch.is_autocast_enabled(x.device.type):
            x = x.to(weight.dtype)
        return F.linear(self.norm(x), weight)

    def _layout(self, shape: torch.Size) -> Layout:
        """Where cells of codes shaped `(h, w)` or `(L,)` stand in the window; remembered, as only a few occur."""
        key = (tuple(shape), self.device)
        if key not in self._layouts:
            with torch.inference_mode(False):  # the tables may be first made in sampling and then used in training
                self._layouts[key] = self._make_layout(tuple(shape))
        return self._layouts[key]

    def _make_layout(self, shape: tuple[int, ...]) -> Layout:
        config = self.config
        h, w = shape if len(shape) == 2 else (-(-shape[0] // config.width), config.width)
        if h > config.height or w > config.width:
            raise ValueError(f"codes {shape} do not fit the model's window {self.window}")
        at = (torch.arange(h)[:, None] * config.width + torch.arange(w)).flatten()[: math.prod(shape)]  # (L,)
        phases = None
        if "rope" in config.position:
            cos, sin = axial_phases(at // config.width, at % config.width, config.head_dim, config.rope_theta)
            extra = config.registers + (config.n_classes > 0)
            cos, sin = F.pad(cos, (0, 0, 0, extra), value=1.0), F.pad(sin, (0, 0, 0, extra))  # extras do not turn
            phases = (cos.to(self.device), sin.to(self.device))
        return Layout(at.to(self.device), phases)

    @property
    def _learned(self) -> bool:
        return "learned" in self.config.position

    @torch.no_grad()
    def _initialise(self) -> None:
        """Small normal weights; zero output projections, so that each block starts as the identity."""
        for name, parameter in self.named_parameters():
            if name.endswith(("attention.output.weight", "mlp.down.weight", ".bias")):
                parameter.zero_()
            elif name.endswith("norm.weight"):
                parameter.fill_(1.0)
            elif "embedding" in name or name in ("registers", "head.weight"):
                parameter.normal_(std=0.02)
            else:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)

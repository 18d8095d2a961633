"""What shape a prior has: `PriorConfig`, frozen and complete, and a table of named sizes.

The defaults are smalti's own layout (ALGORITHMS: pre-norm, no biases, 2-D rotary positions beside a learned table,
zero-initialised output projections). `SIZES["paper"]` is the Transformer of Bond-Taylor et al., "Unleashing
Transformers" (ECCV 2022), section 4 and appendix: its released weights load after renaming keys, nothing else.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Position = Literal["learned", "rope", "rope+learned"]
Norm = Literal["layernorm", "rmsnorm"]
Activation = Literal["gelu", "swiglu"]
Initialisation = Literal["zero-residual", "torch"]


class PriorConfig(BaseModel):
    """The architecture of an `AbsorbingTransformer`; nothing about training, sampling or files."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    codebook_size: Annotated[int, Field(ge=2, le=65535)] = 1024
    """Number of codes K; the network has one more input, the mask, and never predicts it."""
    height: Annotated[int, Field(ge=1, le=1024)] = 16
    """Height of the window the network sees, in cells."""
    width: Annotated[int, Field(ge=1, le=1024)] = 16
    """Width of the window the network sees, in cells."""
    d_model: Annotated[int, Field(ge=4)] = 320
    """Width of the residual stream, in channels."""
    n_layers: Annotated[int, Field(ge=1)] = 4
    """Number of blocks (attention, then MLP)."""
    n_heads: Annotated[int, Field(ge=1)] = 5
    """Attention heads per block; each gets d_model / n_heads channels (64 to 128 is fastest)."""
    n_classes: Annotated[int, Field(ge=0)] = 0
    """Number of class labels; 0 = unconditional. An absent label is the mask token."""
    mlp_ratio: Annotated[float, Field(gt=0)] = 4.0
    """Hidden channels of the MLP as a multiple of d_model (with "swiglu", 8/3 costs what 4 costs with "gelu")."""
    activation: Activation = "gelu"
    """Between the MLP's layers: "gelu" = exact (erf) GELU, as
    the tanh form is several times slower on a CPU; "swiglu" = gated SiLU."""
    norm: Norm = "layernorm"
    """Normalisation before each attention, each MLP and the head."""
    norm_eps: Annotated[float, Field(gt=0)] = 1e-5
    """Added to the variance in each normalisation."""
    bias: bool = False
    """Biases in the linear layers and normalisations of the blocks (the head never has one)."""
    qk_norm: bool = False
    """Normalise queries and keys per head before their product; steadies large learning rates."""
    position: Position = "rope+learned"
    """How cells know where they are: "learned" = one added vector per cell; "rope" = axial rotary
    phases, half by row and half by column."""
    position_optional: bool = False
    """Trained also without the learned table (objective option `roll`): canvases wider than the window, where a window
    is no longer the whole picture, are then filled without it. Needs "rope+learned"."""
    rope_theta: Annotated[float, Field(gt=1)] = 100.0
    """Slowest rotary phase turns once per about 2 pi theta cells; 100 is enough for windows of 16 to 64 cells."""
    registers: Annotated[int, Field(ge=0)] = 0
    """Learned tokens that belong to no cell, as scratch space for the attention."""
    tied_head: bool = False
    """Use the token embedding as the head's matrix instead of a second one."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout of embeddings, attention weights and branch outputs while training, 0..1."""
    initialisation: Initialisation = "zero-residual"
    """Weights before training: "zero-residual" = small and normal, every branch starts at 0; "torch" = the library's
    own for each layer, as in the paper."""

    @model_validator(mode="after")
    def _fits_together(self) -> PriorConfig:
        if self.d_model % self.n_heads:
            raise ValueError(f"d_model {self.d_model} is not a multiple of n_heads {self.n_heads}")
        if self.position_optional and self.position != "rope+learned":
            raise ValueError(f'position_optional needs position "rope+learned", not "{self.position}"')
        if "rope" in self.position and self.head_dim % 4:
            raise ValueError(f"rotary positions need a head dimension divisible by 4, not {self.head_dim}")
        return self

    @property
    def head_dim(self) -> int:
        """Channels per attention head."""
        return self.d_model // self.n_heads

    @property
    def cells(self) -> int:
        """Cells N = height * width of the window."""
        return self.height * self.width

    @property
    def hidden(self) -> int:
        """Hidden channels of the MLP, rounded to a multiple of 32 where the ratio is not whole."""
        exact = self.d_model * self.mlp_ratio
        return int(exact) if exact == int(exact) else round(exact / 32) * 32


# Weights for K = 1024 and 16x16 cells; training speed with the "beta" objective in bfloat16 autocast, batch 32, on one
# busy core of a server CPU with AVX512-bf16. Fewer, wider layers are faster per weight (384 x 3 trains as fast as
# 320 x 4 with 10% more weights), but a picture needs some depth.
#   tiny      0.2 M   for tests and the first minutes of a recipe
#   mini      3.7 M   27 pictures/s
#   small     5.7 M   19 pictures/s; the default, made for an hour or a few on a CPU
#   medium   11.5 M   10 pictures/s
#   large    80 M     for GPUs
#   paper    76.8 M   the original's, also its initialisation
SIZES: Final[MappingProxyType[str, dict[str, Any]]] = MappingProxyType(
    {
        "tiny": {"d_model": 64, "n_layers": 2, "n_heads": 1},
        "mini": {"d_model": 256, "n_layers": 4, "n_heads": 4},
        "small": {"d_model": 320, "n_layers": 4, "n_heads": 5},
        "medium": {"d_model": 384, "n_layers": 6, "n_heads": 3},
        "large": {"d_model": 768, "n_layers": 11, "n_heads": 6, "qk_norm": True, "registers": 4},
        "paper": {
            "d_model": 512,
            "n_layers": 24,
            "n_heads": 8,
            "position": "learned",
            "bias": True,
            "initialisation": "torch",
        },
    }
)


def named_size(name: str, **overrides: Any) -> PriorConfig:
    """The configuration called `name` in `SIZES`, with some fields replaced.

    Raises: KeyError for an unknown name (with the known ones), pydantic's ValidationError for a wrong field.
    """
    if name not in SIZES:
        raise KeyError(f"no prior size called {name!r}; there are {', '.join(SIZES)}")
    return PriorConfig(**{**SIZES[name], **overrides})

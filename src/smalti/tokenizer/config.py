"""What a tokenizer is made of: one architecture, one quantiser, one value range."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(ge=1)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LeanArchitecture(_Frozen):
    """smalti's own: normalisation- and attention-free residual convolutions.

    The receptive field is finite, so a canvas of any size decodes tile by tile with the same pixels.
    Levels go from fine to coarse; the first is at half the picture's resolution.
    """

    kind: Literal["lean"] = "lean"
    encoder_channels: tuple[Positive, ...] = Field((32, 64, 128), description="channels per level, fine to coarse")
    encoder_blocks: tuple[Positive, ...] = Field((1, 2, 3), description="residual blocks per level, fine to coarse")
    decoder_channels: tuple[Positive, ...] = Field((48, 96, 192), description="channels per level, fine to coarse")
    decoder_blocks: tuple[Positive, ...] = Field((2, 2, 3), description="residual blocks per level, fine to coarse")

    @model_validator(mode="after")
    def _same_depth(self) -> LeanArchitecture:
        depths = {
            len(self.encoder_channels),
            len(self.encoder_blocks),
            len(self.decoder_channels),
            len(self.decoder_blocks),
        }
        if len(depths) != 1:
            raise ValueError("encoder_channels, encoder_blocks, decoder_channels and decoder_blocks need equal lengths")
        return self

    @property
    def cell(self) -> int:
        """Pixels per side of a cell."""
        return int(2 ** len(self.encoder_channels))


class ClassicArchitecture(_Frozen):
    """The VQGAN of Esser et al. (taming-transformers) and its descendants, switch by switch.

    The defaults are those of unleashing-transformers; taming-transformers and diffusers add an activation
    before the last convolution, a block per decoder level and 1x1 convolutions around the quantiser.
    """

    kind: Literal["classic"] = "classic"
    base_channels: Positive = Field(128, description="channels of a level whose multiplier is 1")
    channel_multipliers: tuple[Positive, ...] = Field(
        (1, 1, 2, 2, 4), min_length=1, description="per level, fine to coarse"
    )
    stem_channels: Positive | None = Field(
        None, description="channels after the encoder's first convolution; None = base_channels"
    )
    norm_groups: Positive = Field(32, description="groups of every group norm; all channel counts are its multiples")
    res_blocks: Positive = Field(2, description="residual blocks per encoder level")
    extra_decoder_blocks: int = Field(0, ge=0, description="more blocks per decoder level than res_blocks (taming: 1)")
    attention_levels: tuple[int, ...] = Field((4,), description="levels whose blocks are followed by attention")
    mid_attention: bool = Field(True, description="attention between the two coarsest middle blocks")
    final_activation: bool = Field(False, description="swish between the last norm and the last convolution")
    quant_conv: bool = Field(False, description="1x1 convolutions before and after the quantiser")
    z_channels: Positive = Field(256, description="channels that the encoder writes and the decoder reads")
    logsigma_head: bool = Field(False, description="a second head for likelihoods: log standard deviation per value")

    @model_validator(mode="after")
    def _divides(self) -> ClassicArchitecture:
        for channels in (self.stem, *(self.base_channels * m for m in self.channel_multipliers)):
            if channels % self.norm_groups:
                raise ValueError(f"{channels} channels do not divide into norm_groups = {self.norm_groups}")
        return self

    @property
    def stem(self) -> int:
        """Channels after the encoder's first convolution."""
        return self.stem_channels or self.base_channels

    @property
    def cell(self) -> int:
        """Pixels per side of a cell."""
        return int(2 ** (len(self.channel_multipliers) - 1))


class TokenizerConfig(_Frozen):
    """Everything needed to rebuild a `VQGAN` before its weights are loaded."""

    architecture: LeanArchitecture | ClassicArchitecture = Field(LeanArchitecture(), discriminator="kind")
    quantizer: Literal["cosine", "nearest", "gumbel"] = Field(
        "cosine", description="cosine: l2-normalised codes; nearest: Euclidean look-up; gumbel: code logits"
    )
    codebook_size: Annotated[int, Field(ge=2, le=65535)] = Field(1024, description="K, number of codes")
    code_dim: Positive = Field(16, description="dimensions of a code vector")
    value_range: tuple[float, float] = Field((-1.0, 1.0), description="pixel values the network sees for black, white")

    @model_validator(mode="after")
    def _fits(self) -> TokenizerConfig:
        low, high = self.value_range
        if not low < high:
            raise ValueError(f"value_range must grow from black to white, not {low}..{high}")
        arch = self.architecture
        if isinstance(arch, ClassicArchitecture) and not arch.quant_conv and arch.z_channels != self.code_dim:
            raise ValueError(f"without quant_conv z_channels ({arch.z_channels}) must equal code_dim ({self.code_dim})")
        return self

    @property
    def cell(self) -> int:
        """Pixels per side of a cell."""
        return self.architecture.cell


OFFICIAL = TokenizerConfig(
    architecture=ClassicArchitecture(), quantizer="nearest", codebook_size=1024, code_dim=256, value_range=(0.0, 1.0)
)
"""The released 256x256 models of unleashing-transformers (`hparams/defaults/vqgan_defaults.py`)."""

SIZES: dict[str, TokenizerConfig] = {
    "vqgan_tiny": TokenizerConfig(
        architecture=LeanArchitecture(
            encoder_channels=(16, 32, 64),
            encoder_blocks=(1, 1, 1),
            decoder_channels=(16, 32, 64),
            decoder_blocks=(1, 1, 1),
        ),
        codebook_size=256,
    ),
    "vqgan_lean": TokenizerConfig(),
    "vqgan_lean_large": TokenizerConfig(
        architecture=LeanArchitecture(
            encoder_channels=(64, 128, 256),
            encoder_blocks=(2, 2, 4),
            decoder_channels=(64, 128, 256),
            decoder_blocks=(2, 3, 6),
        )
    ),
    "vqgan_official": OFFICIAL,
}
"""Named sizes: `vqgan_lean` is what the built-in models use; README says what each reaches."""

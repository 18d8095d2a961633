"""The tokenizer people use: images to codes, codes to images, any size."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smalti.tokenizer.config import ClassicArchitecture, LeanArchitecture, TokenizerConfig
from smalti.tokenizer.decoder import ClassicDecoder, LeanDecoder
from smalti.tokenizer.encoder import ClassicEncoder, LeanEncoder
from smalti.tokenizer.quantizer import CosineQuantizer, GumbelQuantizer, NearestQuantizer, Quantized, Quantizer
from smalti.tokenizer.tiling import decode_tiled
from smalti.types import Codes, Images


class Reconstruction(NamedTuple):
    """One training pass: the pictures as the codes describe them, and what the quantiser says."""

    images: Images
    quantized: Quantized


class VQGAN(nn.Module):
    """Encoder, quantiser and decoder of one `TokenizerConfig`.

    Images are float `(n, 3, H, W)` in [-1, 1] at every public method, whatever range the network was trained with.
    """

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        arch = config.architecture
        if isinstance(arch, LeanArchitecture):
            self.encoder: nn.Module = LeanEncoder(arch, config.code_dim)
            self.decoder: LeanDecoder | ClassicDecoder = LeanDecoder(arch, config.code_dim)
        else:
            self.encoder, self.decoder = ClassicEncoder(arch), ClassicDecoder(arch)
        has_conv = isinstance(arch, ClassicArchitecture) and arch.quant_conv
        z = arch.z_channels if isinstance(arch, ClassicArchitecture) else config.code_dim
        # a Gumbel quantiser projects the encoder's channels itself, everything else reads code_dim
        into = z if config.quantizer == "gumbel" else config.code_dim
        self.quant_conv: nn.Module = nn.Conv2d(z, into, 1) if has_conv else nn.Identity()
        self.post_quant_conv: nn.Module = nn.Conv2d(config.code_dim, z, 1) if has_conv else nn.Identity()
        self.quantizer: Quantizer = _quantizer(config, into)

    @property
    def cell(self) -> int:
        """Pixels per side of a cell."""
        return self.config.cell

    @property
    def codebook_size(self) -> int:
        """K, the number of codes."""
        return self.config.codebook_size

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def forward(self, images: Images) -> Reconstruction:
        """Reconstruct with gradients. Sides must be multiples of `cell`; the result is not clamped."""
        quantized = self.quantizer(self.features(images))
        return Reconstruction(self.pixels(quantized.vectors), quantized)

    @torch.inference_mode()
    def encode(self, images: Images) -> Codes:
        """Codes `(n, ceil(H/cell), ceil(W/cell))`; sides are padded to whole cells by reflection."""
        return self.quantizer.indices(self.features(pad_to_cells(images.to(self.device), self.cell))).clone()

    @torch.inference_mode()
    def decode(self, codes: Codes) -> Images:
        """Images `(n, 3, h*cell, w*cell)` of a grid without empty cells, in one piece, not clamped.

        Raises ValueError if a code is outside `0..K-1` (an empty cell has no picture).
        """
        check_codes(codes, self.codebook_size)
        return self.pixels(self.quantizer.lookup(codes.to(self.device))).clone()

    def decode_tiled(self, codes: Codes, tile: int = 96) -> Images:
        """`decode` in tiles of `tile` x `tile` cells, result on the CPU; memory does not grow with the canvas
        (beyond the picture itself). Equal to `decode` for lean decoders, blended for classic ones."""
        return decode_tiled(self.decode, codes, cell=self.cell, halo=self.decoder.halo, tile=tile)

    def features(self, images: Images) -> Tensor:
        """What the quantiser sees: `(n, d, h, w)` of images whose sides are multiples of `cell`."""
        low, high = self.config.value_range
        scaled = images if (low, high) == (-1.0, 1.0) else (images + 1) * ((high - low) / 2) + low
        return self.quant_conv(self.encoder(scaled))  # type: ignore[no-any-return]

    def pixels(self, vectors: Tensor) -> Images:
        """Decoder output for code vectors `(n, code_dim, h, w)`, in [-1, 1] terms, not clamped."""
        low, high = self.config.value_range
        out: Tensor = self.decoder(self.post_quant_conv(vectors))
        return out if (low, high) == (-1.0, 1.0) else (out - low) * (2 / (high - low)) - 1


def _quantizer(config: TokenizerConfig, channels: int) -> Quantizer:
    if config.quantizer == "cosine":
        return CosineQuantizer(config.codebook_size, config.code_dim)
    if config.quantizer == "nearest":
        return NearestQuantizer(config.codebook_size, config.code_dim)
    return GumbelQuantizer(channels, config.codebook_size, config.code_dim)


def pad_to_cells(images: Images, cell: int) -> Images:
    """Extend right and bottom to whole cells by reflection (by repetition where a picture is too small to reflect)."""
    height, width = images.shape[-2:]
    bottom, right = -height % cell, -width % cell
    if not bottom and not right:
        return images
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(images, (0, right, 0, bottom), mode=mode)


def check_codes(codes: Codes, codebook_size: int) -> None:
    """Raise ValueError naming the first code that cannot be decoded."""
    wrong = (codes < 0) | (codes >= codebook_size)
    if wrong.any():
        n, row, col = (int(i) for i in wrong.nonzero()[0])
        value = int(codes[n, row, col])
        what = "is empty" if value < 0 else f"is {value}, but codes are 0..{codebook_size - 1}"
        raise ValueError(f"cell (row {row}, col {col}) of grid {n} {what}")

"""Pixels to codes and back (VQGAN). Knows nothing of priors, files, training loops or progress bars."""

from smalti.tokenizer.config import OFFICIAL, SIZES, ClassicArchitecture, LeanArchitecture, TokenizerConfig
from smalti.tokenizer.vqgan import VQGAN, Reconstruction, check_codes, pad_to_cells

__all__ = [
    "OFFICIAL",
    "SIZES",
    "VQGAN",
    "ClassicArchitecture",
    "LeanArchitecture",
    "Reconstruction",
    "TokenizerConfig",
    "check_codes",
    "pad_to_cells",
]

"""Pictures in, codes cached. Knows how data sets are stored and scaled; nothing of losses, priors or training loops."""

from __future__ import annotations

from smalti.data.code_cache import as_images, cached_codes, code_labels, tokenizer_hash
from smalti.data.pictures import Pictures, held_out, load_pictures, split
from smalti.data.sources import Source, exists, open_source

__all__ = [
    "Pictures",
    "Source",
    "as_images",
    "cached_codes",
    "code_labels",
    "exists",
    "held_out",
    "load_pictures",
    "open_source",
    "split",
    "tokenizer_hash",
]

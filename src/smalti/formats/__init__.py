"""Models as files: smalti's own folder, and the checkpoints of others. Knows no pictures, samplers or commands."""

from smalti.formats.diffusers import export_diffusers
from smalti.formats.folder import LoadedModel, load_model, save_model, tokenizer_identity, verify
from smalti.formats.importing import import_checkpoint
from smalti.formats.unleashing import export_unleashing, read_latents

__all__ = [
    "LoadedModel",
    "export_diffusers",
    "export_unleashing",
    "import_checkpoint",
    "load_model",
    "read_latents",
    "save_model",
    "tokenizer_identity",
    "verify",
]

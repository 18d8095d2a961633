"""`smalti import`: recognise a foreign checkpoint by what is in it and hand it to the room's reader for its layout."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from smalti.errors import ModelError, UsageError
from smalti.files import sha256_file
from smalti.formats import diffusers, taming, unleashing
from smalti.formats.folder import INDEX, LoadedModel, tokenizer_identity
from smalti.formats.safe_load import load_tensors, names
from smalti.prior import AbsorbingTransformer
from smalti.tokenizer import VQGAN

LAYOUTS = {
    "unleashing-transformers": ("samb-t/unleashing-transformers", "MIT"),
    "taming-transformers": ("CompVis/taming-transformers", "MIT"),
    "diffusers": ("huggingface/diffusers", "Apache-2.0"),
}
"""Where each layout comes from, and the licence of that code; weights may have another."""
_KNOWN = (
    "a .th file or run folder of unleashing-transformers, a .ckpt file or run folder of taming-transformers, "
    "or a VQModel folder of diffusers"
)


@dataclass
class _Found:
    """A tokenizer and where it came from."""

    tokenizer: VQGAN
    layout: str
    files: list[Path]
    facts: dict[str, Any] = field(default_factory=dict)


def import_checkpoint(
    path: str | Path,
    *,
    prior_path: str | Path | None = None,
    heads: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    config: str | Path | None = None,
    licence: str | None = None,
) -> LoadedModel:
    """Read an original checkpoint as a model, whatever its layout; `save_model` then makes a model folder of it.

    path: a file, a run folder, a folder of one tokenizer run and one sampler run, or a diffusers folder.
    prior_path: the sampler's file or run folder. Without it, a run folder's own sampler is taken, else that of the
        run beside it which is called the same (`vqgan_churches` and `absorbing_churches`), else there is none.
    heads: attention heads of the sampler; files do not say, 8 as in the released models if not given.
    image_size: pixels per side, or (height, width), that the sampler was trained on; needed if not square.
    config: the YAML of a taming-transformers checkpoint; looked for beside it if not given.
    licence: what the card says; the checkpoint itself does not tell.

    Raises ModelError naming the file that is missing, damaged, refused, of an unknown layout, or does not belong to
    the other; UsageError for a parameter that does not fit.
    """
    root = Path(path)
    if not root.exists():
        raise ModelError(f"{root} does not exist")
    if heads is not None and heads < 1:
        raise UsageError(f"heads must be at least 1, not {heads}", field="heads")
    found, beside = _from_folder(root, config) if root.is_dir() else (_from_file(root, config), None)
    prior_file = _prior_file(Path(prior_path)) if prior_path is not None else beside
    prior = None
    if prior_file is not None:
        prior, steps = _read_prior(prior_file, found.tokenizer, heads, image_size)
        if prior.codebook_size != found.tokenizer.codebook_size:
            raise ModelError(
                f"{prior_file} knows {prior.codebook_size} codes, the tokenizer {found.files[0]} has "
                f"{found.tokenizer.codebook_size}: they do not belong together"
            )
        found.files.append(prior_file)
        found.facts |= {"heads": prior.config.n_heads} | ({"diffusion steps T": steps} if steps else {})
    info = _info(root, found, licence)
    return LoadedModel(found.tokenizer, prior, tokenizer_identity(found.tokenizer), {}, info)


# --- finding ----------------------------------------------------------------------------------------------------------


def _from_folder(root: Path, config: str | Path | None) -> tuple[_Found, Path | None]:
    """The tokenizer in a folder, and the file of the sampler that belongs to it, if there is one."""
    if diffusers.is_diffusers(root) and not (root / INDEX).is_file():
        return _from_diffusers(root), None
    own = unleashing.find_checkpoint(root, "vqgan")
    if own is not None:
        return _from_file(own, config), _sampler_of(root)
    runs = [run for place in (root, root / "logs") if place.is_dir() for run in sorted(place.iterdir()) if run.is_dir()]
    tokenizers = [(run, file) for run in runs if (file := unleashing.find_checkpoint(run, "vqgan"))]
    if len(tokenizers) > 1:
        raise UsageError(f"{root} holds several tokenizers: name one of {names(str(run) for run, _ in tokenizers)}")
    if tokenizers:
        run, file = tokenizers[0]
        samplers = [f for r in [root, *runs] if (f := unleashing.find_checkpoint(r, "absorbing"))]
        return _from_file(file, config), samplers[0] if len(samplers) == 1 else _sampler_of(run)
    checkpoint = taming.find_checkpoint(root)
    if checkpoint is not None:
        return _from_file(checkpoint, config), None
    components = [run for run in runs if diffusers.is_diffusers(run) and _class_of(run) == "VQModel"]
    if len(components) == 1:
        return _from_diffusers(components[0]), None
    if (root / INDEX).is_file() and not components:
        raise UsageError(f"{root} is a smalti model folder already: use it as it is")
    if unleashing.find_checkpoint(root, "absorbing"):
        raise UsageError(f"{root} holds a sampler only: give the tokenizer's run first and this one with --prior")
    raise ModelError(f"{root} holds no checkpoint that is known: {_KNOWN} is expected")


def _from_file(file: Path, config: str | Path | None) -> _Found:
    if file.name == diffusers.CONFIG:
        return _from_diffusers(file.parent)
    if file.suffix in (".yaml", ".yml", ".json"):
        raise UsageError(f"{file} is a configuration: give the checkpoint that belongs to it")
    tensors = load_tensors(file)
    if unleashing.is_tokenizer(tensors) or unleashing.is_sampler(tensors):
        return _Found(unleashing.read_tokenizer(file, tensors), "unleashing-transformers", [file])
    if taming.is_taming(tensors):
        place = Path(config) if config is not None else taming.find_config(file)
        params = taming.read_config(place) if place is not None else None
        found = _Found(taming.read_tokenizer(file, tensors, params), "taming-transformers", [file])
        remap = taming.read_remap(file, tensors, params, place.parent if place is not None else None)
        if remap is not None:
            found.facts["remap"] = {"used": remap.used.tolist(), "unknown": remap.unknown}
        return found
    if any(name.startswith("encoder.down_blocks.") for name in tensors):
        if not (file.parent / diffusers.CONFIG).is_file():
            raise ModelError(f"{file} belongs to diffusers, but {file.parent / diffusers.CONFIG} does not exist")
        return _from_diffusers(file.parent)
    raise ModelError(f"{file} is of an unknown layout (it holds {names(tensors, 3)}): {_KNOWN} is expected")


def _from_diffusers(folder: Path) -> _Found:
    tokenizer, weights = diffusers.read_folder(folder)
    return _Found(tokenizer, "diffusers", [weights])


def _class_of(folder: Path) -> Any:
    return json.loads((folder / diffusers.CONFIG).read_text(encoding="utf-8")).get("_class_name")


def _sampler_of(run: Path) -> Path | None:
    """The sampler in a tokenizer's run folder, or in the run beside it with the same name."""
    own = unleashing.find_checkpoint(run, "absorbing")
    folder = run.parent if run.name == "saved_models" else run
    if own is not None or not folder.name.startswith("vqgan"):
        return own
    twin = folder.with_name("absorbing" + folder.name.removeprefix("vqgan"))
    return unleashing.find_checkpoint(twin, "absorbing") if twin.is_dir() else None


def _prior_file(path: Path) -> Path:
    if not path.is_dir():
        return path
    file = unleashing.find_checkpoint(path, "absorbing")
    if file is None:
        raise ModelError(f"{path} holds no sampler: absorbing[_ema]_STEP.th is expected there or in saved_models")
    return file


def _read_prior(
    file: Path, tokenizer: VQGAN, heads: int | None, image_size: int | tuple[int, int] | None
) -> tuple[AbsorbingTransformer, int | None]:
    grid = None
    if image_size is not None:
        height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
        if height % tokenizer.cell or width % tokenizer.cell or height < 1 or width < 1:
            raise UsageError(
                f"image_size {height}x{width} is not a multiple of the tokenizer's {tokenizer.cell} pixels per cell",
                field="image_size",
            )
        grid = (height // tokenizer.cell, width // tokenizer.cell)
    tensors = load_tensors(file)
    return unleashing.read_prior(file, tensors, heads=heads, grid=grid), unleashing.total_steps(tensors)


def _info(root: Path, found: _Found, licence: str | None) -> dict[str, Any]:
    """What the card says: where the weights come from, their hashes, and what is not known about their licence."""
    repository, code_licence = LAYOUTS[found.layout]
    remap = {"remap": found.facts.pop("remap")} if "remap" in found.facts else {}
    files = {f"sha256 of {file.name}": sha256_file(file) for file in found.files}
    return {
        "name": root.resolve().name if root.is_dir() else root.stem,
        "summary": f"Imported from a checkpoint in the layout of {found.layout}; the weights are unchanged.",
        "licence": licence or "other (not stated in the checkpoint)",
        "source": {"layout": f"{found.layout} ({repository})", **files, **found.facts},
        "attribution": [
            f"Licence of the weights: {licence or 'not stated in the checkpoint; ask where it was published'}.",
            f"The code of {repository}, which made the checkpoint, is under {code_licence}; weights and the pictures "
            "they were trained on may be under other terms.",
        ],
        **remap,
    }

"""The model folder: weights as safetensors, everything else as JSON, a card for people. Loading runs no code.

model_index.json      what it is, the sampler's defaults, and the sha256 of every other file
vqgan/                config.json, model.safetensors
prior/                config.json, model.safetensors (absent in a tokenizer-only model)
README.md             the model card
"""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from smalti import __version__
from smalti.errors import ModelError, OutputError
from smalti.files import explained, sha256_file
from smalti.formats.blueprint import blueprint
from smalti.formats.card import model_card
from smalti.prior import AbsorbingTransformer, PriorConfig
from smalti.tokenizer import VQGAN, TokenizerConfig

INDEX, CARD = "model_index.json", "README.md"
TOKENIZER, PRIOR = "vqgan", "prior"
CONFIG, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class LoadedModel:
    """What a model folder holds. Modules are in float32, in evaluation mode, on the CPU."""

    tokenizer: VQGAN
    prior: AbsorbingTransformer | None
    identity: str
    """Hex sha256 that ties codes to this tokenizer."""
    sampler_options: dict[str, Any] = field(default_factory=dict)
    info: dict[str, Any] = field(default_factory=dict)
    """Name, licence, data, metrics ...: free fields of the index, shown on the card."""


def save_model(
    folder: str | Path,
    tokenizer: VQGAN,
    prior: AbsorbingTransformer | None,
    *,
    info: dict[str, Any] | None = None,
    sampler_options: dict[str, Any] | None = None,
    dtype: torch.dtype = torch.float32,
    force: bool = False,
) -> None:
    """Write a model folder, beside its place first and then renamed, so that it is whole or not there.

    `dtype` is how weights are stored: float16 halves the size. Raises OutputError if the folder exists (unless
    `force`, which replaces a model folder but nothing else) or cannot be written, ModelError for a prior that does
    not fit the tokenizer.
    """
    _check_fit(tokenizer, prior)
    with whole_folder(folder, mark=INDEX, force=force) as building:
        _write_part(building / TOKENIZER, tokenizer.config, tokenizer, dtype)
        if prior is not None:
            _write_part(building / PRIOR, prior.config, prior, dtype)
        index: dict[str, Any] = {
            "format": FORMAT,
            "smalti_version": __version__,
            "cell": tokenizer.cell,
            "codebook_size": tokenizer.codebook_size,
            "window": list(prior.window) if prior is not None else None,
            "sampler": sampler_options or {},
            "info": info or {},
        }
        (building / CARD).write_text(model_card(index), encoding="utf-8")
        files = sorted(p for p in building.rglob("*") if p.is_file())
        index["sha256"] = {p.relative_to(building).as_posix(): sha256_file(p) for p in files}
        (building / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")


@contextmanager
def whole_folder(folder: str | Path, *, mark: str, force: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `folder`; on success it takes its name, else nothing is left of it.

    An existing folder is replaced only with `force`, and only if it is empty or holds the file `mark`, so that a
    mistyped name costs nobody's pictures. Raises OutputError otherwise, and when the disk refuses.
    """
    target = Path(folder)
    if target.exists():
        if not force:
            raise OutputError(f"{target} exists already: give another name, or --force to replace it")
        if not target.is_dir() or (not (target / mark).is_file() and any(target.iterdir())):
            raise OutputError(f"{target} is not replaced: it is no folder of this kind (it has no {mark})")
    with explained(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            yield building
            building.chmod(0o755)
            if target.exists():
                # a folder cannot be renamed onto another: the old one steps aside, and back if that fails
                old = target.with_name(f".{target.name}.{secrets.token_hex(4)}.old")
                target.rename(old)
                try:
                    building.rename(target)
                except BaseException:
                    old.rename(target)
                    raise
                shutil.rmtree(old, ignore_errors=True)
            else:
                building.rename(target)
        except BaseException as error:
            shutil.rmtree(building, ignore_errors=True)
            if isinstance(error, SafetensorError):  # what its writer makes of a full disk
                raise OutputError(f"cannot write {target}: {str(error).splitlines()[0]}") from error
            raise


def load_model(folder: str | Path) -> LoadedModel:
    """Load a model folder. Raises ModelError naming the file that is missing, damaged or does not fit."""
    root = Path(folder)
    index = read_index(root)
    tokenizer = _read_part(root / TOKENIZER, TokenizerConfig, VQGAN)
    prior = _read_part(root / PRIOR, PriorConfig, AbsorbingTransformer) if (root / PRIOR).is_dir() else None
    if prior is None and index.get("window"):
        raise ModelError(f"{root / PRIOR} is missing, although {INDEX} speaks of a prior")
    _check_fit(tokenizer, prior)
    _check_weights(root, index)
    return LoadedModel(tokenizer, prior, tokenizer_identity(tokenizer), index.get("sampler", {}), index.get("info", {}))


def read_index(root: Path) -> dict[str, Any]:
    """`model_index.json`. Raises ModelError if it is missing, damaged, or of a newer format."""
    if not root.is_dir():
        raise ModelError(f"{root} is not a folder")
    if not (root / INDEX).exists() and (root / "model" / INDEX).is_file():
        raise ModelError(f"{root} is the folder of a training run: its model is {root / 'model'}")
    index = _read_json(root / INDEX)
    if "format" not in index:
        raise ModelError(f"{root / INDEX} is not one of smalti's: another library calls its own file the same")
    if index.get("format") != FORMAT:
        raise ModelError(f"{root / INDEX} has format {index.get('format')}, this smalti reads {FORMAT}: update smalti")
    return index


def verify(folder: str | Path) -> dict[str, str]:
    """Check every file against its recorded sha256; returns them. Raises ModelError naming the first that differs."""
    root = Path(folder)
    recorded: dict[str, str] = read_index(root).get("sha256", {})
    for name, digest in recorded.items():
        path = root / name
        if not path.is_file():
            raise ModelError(f"{path} is missing")
        if name != CARD and sha256_file(path) != digest:
            raise ModelError(f"{path} is not the file that was saved: its sha256 differs")
    return recorded


def tokenizer_identity(tokenizer: VQGAN) -> str:
    """What codes of this tokenizer are known by: a hex sha256 over its configuration and its weights in float32.

    Storing weights in float16 changes them, and thereby the identity; storing those again in float32 does not.
    """
    digest = hashlib.sha256(tokenizer.config.model_dump_json(exclude_defaults=True).encode())
    for name, value in sorted(tokenizer.state_dict().items()):
        plain = value.detach().to("cpu", torch.float32).contiguous()
        digest.update(f"\n{name} {tuple(plain.shape)}\n".encode())
        digest.update(plain.numpy().astype("<f4", copy=False).data)
    return digest.hexdigest()


def _check_weights(root: Path, index: dict[str, Any]) -> None:
    """Bits that tipped over, and files of another model that happen to fit, load as well as the right ones."""
    for name, digest in index.get("sha256", {}).items():
        path = root / name
        if path.name == WEIGHTS and path.is_file() and sha256_file(path) != digest:
            raise ModelError(f"{path} is not the file that was saved with this model: its sha256 differs")


def _check_fit(tokenizer: VQGAN, prior: AbsorbingTransformer | None) -> None:
    if prior is not None and prior.codebook_size != tokenizer.codebook_size:
        raise ModelError(
            f"the prior knows {prior.codebook_size} codes, the tokenizer has {tokenizer.codebook_size}: "
            "they do not belong together"
        )


def _write_part(folder: Path, config: BaseModel, module: nn.Module, dtype: torch.dtype) -> None:
    folder.mkdir()
    (folder / CONFIG).write_text(config.model_dump_json(indent=2) + "\n", encoding="utf-8")
    stored = {
        name: (value.to(dtype) if value.is_floating_point() else value).contiguous().cpu()
        for name, value in module.state_dict().items()
    }
    for name, value in stored.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{name} of the {folder.name} is NaN, infinite, or too large for {dtype}: not saved")
    save_file(stored, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner only


def _read_part(folder: Path, config_type: type[M], build: Callable[[M], Any]) -> Any:
    config_path, weights_path = folder / CONFIG, folder / WEIGHTS
    try:
        config = config_type.model_validate(_read_json(config_path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{config_path} is not a valid configuration: {where}: {first['msg']}") from None
    weights = read_weights(weights_path)
    module = blueprint(lambda: build(config))
    _check_tensors(weights_path, module.state_dict(), weights)
    module = module.to_empty(device="cpu")
    module.load_state_dict(
        {name: value.to(torch.float32) if value.is_floating_point() else value for name, value in weights.items()}
    )
    return module.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises ModelError if it is missing, damaged, or holds NaN or infinity."""
    if not path.is_file():
        raise ModelError(f"{path} is missing")
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged or incomplete: {str(error).splitlines()[0]}") from None
    for name, value in tensors.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise ModelError(f"{path}: tensor {name} holds NaN or infinity")
    return tensors


def _check_tensors(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unexpected:
        parts = [f"missing {', '.join(missing[:5])}"] * bool(missing) + [f"unknown {', '.join(unexpected[:5])}"] * bool(
            unexpected
        )
        raise ModelError(f"{path} does not fit its configuration: {'; '.join(parts)}")
    for name, value in expected.items():
        if found[name].shape != value.shape:
            raise ModelError(
                f"{path}: tensor {name} has shape {tuple(found[name].shape)}, the configuration asks for "
                f"{tuple(value.shape)}"
            )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{path} is missing") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} is damaged: {str(error).splitlines()[0]}") from None
    if not isinstance(data, dict):
        raise ModelError(f"{path} is damaged: it holds no object")
    return data

"""Foreign checkpoints as plain tensors. Nothing in a file is imported, called or believed before it is checked.

A `.th`, `.ckpt` or `.bin` file is a zip with a pickle in it, and a pickle is a program. So the pickle is read as data
first (`_inspect`): a name on the list of tensor-building functions may be called; a name we do not know becomes an
inert placeholder, which may lie around (Lightning uses a callback's class as a dictionary key) but not be called.
Only then does `torch.load(weights_only=True, mmap=True)` see the file; storages are mapped, not read, until a tensor's
shape has been accepted.
"""

from __future__ import annotations

import pickle
import pickletools
import re
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from smalti.errors import ModelError

MAX_PICKLE = 64 << 20
"""Bytes of a checkpoint's pickle, which holds names and shapes only; real ones stay below 2 MB."""
MAX_TENSORS = 50_000
MAX_DIMENSIONS = 8
MAX_BYTES = 64 << 30
"""Bytes that the tensors we keep may take in float32."""

_FLOATS = {torch.float32, torch.float64, torch.float16, torch.bfloat16}
_BUILDERS = re.compile(
    r"torch\._utils\._rebuild_(tensor|tensor_v2|parameter)"
    r"|torch\.(Float|Double|Half|BFloat16|Long|Int|Short|Char|Byte|Bool)Storage"
    r"|torch\.(float|int|uint)\d+|torch\.bfloat16|torch\.bool|torch\.Size"
    r"|collections\.OrderedDict|_codecs\.encode"
)
"""The names a checkpoint may call. torch itself allows more, among them some that allocate what the file says."""
_OWN_MODULES = ("torch", "collections", "builtins", "__builtin__", "_codecs", "os", "posix", "nt", "sys", "subprocess")
"""Modules whose names torch resolves or blocks by itself, so that a placeholder cannot stand in for them."""
_STRANGE = {"STACK_GLOBAL", "INST", "OBJ", "NEWOBJ_EX", "EXT1", "EXT2", "EXT4", "PERSID"}


class _CalledError(Exception):
    """A pickle tried to call a name that is not on the list."""


def load_checkpoint(path: str | Path) -> Any:
    """What `torch.save` wrote to `path`: dictionaries and memory-mapped CPU tensors, unknown names as inert objects.

    Raises ModelError, in one line that names the file, if it is missing, truncated, of another kind, larger than it
    can be, or asks for anything but tensors to be built.
    """
    file = Path(path)
    unknown = _inspect(file)
    placeholders = [(_placeholder(name), name) for name in sorted(unknown)]
    try:
        with torch.serialization.safe_globals(placeholders):  # type: ignore[arg-type]
            return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except _CalledError as error:
        _refuse(file, str(error))
    except Exception as error:
        # torch's own words here advise to load the file without protection
        reason = "" if isinstance(error, pickle.UnpicklingError) else re.sub(r"\s+", " ", f": {error}")[:160]
        raise ModelError(f"{file} is damaged, or not a checkpoint of tensors{reason}") from None


def load_tensors(path: str | Path) -> dict[str, Tensor]:
    """The tensors by name of a `.safetensors` file or of a pickled state dictionary, bare or under `state_dict`.

    Other entries (optimizers, epochs, callbacks) are dropped. Raises ModelError as `load_checkpoint` does, and for a
    file that holds no state dictionary.
    """
    file = Path(path)
    if file.suffix == ".safetensors":
        return _load_safetensors(file)
    data = load_checkpoint(file)
    state = data.get("state_dict", data) if isinstance(data, dict) else data
    if not isinstance(state, dict) or not any(isinstance(value, Tensor) for value in state.values()):
        raise ModelError(f"{file} holds no state dictionary of tensors, but {_kind(state)}")
    return {name: value for name, value in state.items() if isinstance(name, str) and isinstance(value, Tensor)}


def checked(path: str | Path, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Float32 copies of the tensors a model is made of, which then no longer depend on the file.

    Raises ModelError naming the tensor that is not of floats, not dense, larger than its file, or not finite.
    """
    file = Path(path)
    size = file.stat().st_size
    total = 0
    for name, value in tensors.items():
        if value.layout != torch.strided or value.device.type != "cpu" or value.dtype not in _FLOATS:
            raise ModelError(f"{file}: tensor {name} is not a dense tensor of floats but {value.dtype}")
        if value.dim() > MAX_DIMENSIONS or value.numel() == 0:
            raise ModelError(f"{file}: tensor {name} has the shape {tuple(value.shape)}")
        total += value.numel() * 4
        # an expanded tensor says a large shape over a few bytes; copying it would fill the memory
        if value.numel() * value.element_size() > size:
            raise ModelError(f"{file}: tensor {name} claims the shape {tuple(value.shape)}, more than the whole file")
    if total > min(MAX_BYTES, 8 * size) or len(tensors) > MAX_TENSORS:
        raise ModelError(f"{file} claims {len(tensors)} tensors of {total / 1e9:.1f} GB, more than the file can hold")
    copies = {name: value.detach().to(torch.float32, copy=True).contiguous() for name, value in tensors.items()}
    for name, value in copies.items():
        if not bool(torch.isfinite(value).all()):
            raise ModelError(f"{file}: tensor {name} holds NaN or infinity")
    return copies


def names(keys: Iterable[str], limit: int = 8) -> str:
    """Sorted names for a message, the first few and how many more there are."""
    ordered = sorted(keys)
    more = f" and {len(ordered) - limit} more" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more


def _inspect(file: Path) -> set[str]:
    """Check the zip and read the pickle without running it; returns the names that get placeholders."""
    if not file.is_file():
        raise ModelError(f"{file} does not exist" if not file.exists() else f"{file} is a folder, not a checkpoint")
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
                raise ModelError(f"{file} is a compressed zip, not a checkpoint: torch.save never compresses")
            pickles = [entry for entry in entries if entry.filename.rsplit("/", 1)[-1] == "data.pkl"]
            if len(pickles) != 1 or any("constants.pkl" in entry.filename for entry in entries):
                raise ModelError(f"{file} is a zip, but not a checkpoint written by torch.save")
            if pickles[0].file_size > MAX_PICKLE:
                raise ModelError(f"{file} is refused: its pickle alone has {pickles[0].file_size >> 20} MB")
            program = archive.read(pickles[0])
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, ValueError):
        raise ModelError(_not_a_zip(file)) from None
    return _unknown_names(file, program)


def _unknown_names(file: Path, program: bytes) -> set[str]:
    unknown: set[str] = set()
    try:
        for opcode, argument, _ in pickletools.genops(program):
            if opcode.name in _STRANGE:
                _refuse(file, f"pickle instruction {opcode.name}")
            if opcode.name == "GLOBAL":
                name = str(argument).replace(" ", ".", 1)
                if _BUILDERS.fullmatch(name):
                    continue
                if name.split(".")[0] in _OWN_MODULES:
                    _refuse(file, name)
                unknown.add(name)
    except ModelError:
        raise
    except Exception:
        raise ModelError(f"{file} is damaged: its pickle cannot be read") from None
    return unknown


def _refuse(file: Path, what: str) -> NoReturn:
    raise ModelError(f"{file} is refused: it asks for {what[:120]}, and a checkpoint must hold nothing but tensors")


def _placeholder(name: str) -> type:
    """A class that stands for an unknown name: it can be stored and hashed, never called."""

    def refuse(cls: type, *args: Any, **kwargs: Any) -> NoReturn:
        raise _CalledError(f"a call of {name}")

    return type("Placeholder", (), {"__new__": refuse, "__slots__": (), "__doc__": f"Stands for {name}."})


def _not_a_zip(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            head = stream.read(64)
    except OSError as error:
        return f"{file} cannot be read: {error.strerror or error}"
    if not head:
        return f"{file} is empty"
    if head.startswith(b"PK"):
        return f"{file} is truncated or damaged: download or copy it again"
    if head.startswith(b"version https://git-lfs"):
        return f"{file} is a Git LFS pointer, not the checkpoint itself: fetch it with git lfs pull"
    if head.lstrip()[:1] == b"<":
        return f"{file} is a web page, not a checkpoint: download the file itself"
    if head[:1] == b"\x80" or b"\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19." in head:
        return f"{file} has the format of torch before 1.6 or is a bare pickle: save it again with a newer torch"
    return f"{file} is not a checkpoint written by torch.save"


def _load_safetensors(file: Path) -> dict[str, Tensor]:
    if not file.is_file():
        raise ModelError(f"{file} does not exist")
    try:
        with safe_open(file, "pt") as archive:
            return {name: archive.get_tensor(name) for name in archive.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise ModelError(f"{file} is damaged or incomplete: {str(error).splitlines()[0]}") from None


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"one tensor of shape {tuple(value.shape)}"
    return "none" if value is None else f"a {type(value).__name__}"

"""Foreign files are data: what is not a tensor is not built, and nothing in them is ever imported or called."""

from __future__ import annotations

import io
import os
import pickle
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from formats.models import save
from smalti.errors import ModelError
from smalti.formats import safe_load
from smalti.formats.safe_load import checked, load_checkpoint, load_tensors

STATE = OrderedDict({"a.weight": torch.randn(4, 3), "a.bias": torch.randn(4)})


class Calls:
    """Pickles as a call of `function(*arguments)`."""

    def __init__(self, function: Callable[..., Any], *arguments: Any, state: Any = None) -> None:
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self) -> Any:
        return self.reduced


def envelope(**extra: Any) -> dict[str, Any]:
    """A Lightning checkpoint."""
    return {
        "epoch": 3,
        "pytorch-lightning_version": "1.0.8",
        "optimizer_states": [{"lr": 1e-4}],
        "state_dict": STATE,
    } | extra


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of somebody else's, pickled by name; importing or calling it leaves a mark."""
    mark = tmp_path / "executed"
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "smalti_foreign.py").write_text(
        f"import pathlib\nMARK = {str(mark)!r}\npathlib.Path(MARK).write_text('imported')\n"
        f"class Callback:\n    def __init__(self, *a): pass\n"
        f"def run(*a): return 1\n"
    )
    monkeypatch.syspath_prepend(str(folder))
    import smalti_foreign  # type: ignore[import-not-found]

    yield smalti_foreign
    sys.modules.pop("smalti_foreign", None)


@pytest.fixture
def untouched(tmp_path: Path, foreign: Any) -> Any:
    """Call it after loading: fails if the foreign module was imported again."""
    mark = tmp_path / "executed"

    def forget() -> None:
        mark.unlink()
        sys.modules.pop("smalti_foreign", None)

    def check() -> None:
        assert not mark.exists()
        assert "smalti_foreign" not in sys.modules

    return forget, check


def test_a_state_dictionary(tmp_path: Path) -> None:
    found = load_tensors(save(STATE, tmp_path / "m.th"))
    assert list(found) == list(STATE)
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


def test_an_envelope_keeps_its_tensors_and_loses_its_classes(tmp_path: Path, foreign: Any, untouched: Any) -> None:
    forget, check = untouched
    path = save(envelope(callbacks={foreign.Callback: {"best": torch.tensor(0.5)}}), tmp_path / "last.ckpt")
    forget()
    data = load_checkpoint(path)
    assert torch.equal(load_tensors(path)["a.bias"], STATE["a.bias"])
    (placeholder,) = data["callbacks"]
    with pytest.raises(Exception, match=r"a call of smalti_foreign\.Callback"):
        placeholder()
    check()


EVIL: dict[str, Callable[[Any], Any]] = {
    "os.system": lambda module: Calls(os.system, f"touch {module.MARK}"),
    "eval": lambda _: Calls(eval, "1"),
    "exec": lambda _: Calls(exec, "1"),
    "getattr": lambda _: Calls(getattr, "x", "upper"),
    "a foreign function": lambda module: Calls(module.run, "x"),
    "a foreign object": lambda module: module.Callback(),
    "an object with a state": lambda module: Calls(module.Callback, state={"x": 1}),
    "a pickle in a pickle": lambda _: Calls(pickle.loads, b"N."),
    "torch.load": lambda _: Calls(torch.load, "x"),
    "a large buffer": lambda _: Calls(bytearray, 1 << 50),
    "a large tensor": lambda _: Calls(torch.FloatTensor, 1 << 50),
    "a large storage": lambda _: Calls(torch.UntypedStorage, 1 << 50),
    "a quantised tensor": lambda _: torch.quantize_per_tensor(torch.randn(3), 0.1, 0, torch.qint8),
}


@pytest.mark.filterwarnings("ignore")  # torch calls quantised tensors deprecated
@pytest.mark.parametrize("wrap", [lambda evil: evil, lambda evil: envelope(callbacks=evil)], ids=["bare", "lightning"])
@pytest.mark.parametrize("name", EVIL)
def test_malicious_pickles_are_refused(
    tmp_path: Path, foreign: Any, untouched: Any, name: str, wrap: Callable[[Any], Any]
) -> None:
    forget, check = untouched
    path = save(wrap(EVIL[name](foreign)), tmp_path / "evil.ckpt")
    forget()
    with pytest.raises(ModelError, match=r"evil\.ckpt is refused: it asks for") as caught:
        load_tensors(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    check()


def test_the_refusal_says_what_was_asked_for(tmp_path: Path, foreign: Any) -> None:
    path = save({"x": Calls(foreign.run)}, tmp_path / "evil.th")
    with pytest.raises(
        ModelError, match=r"it asks for a call of smalti_foreign\.run, and a checkpoint must hold nothing"
    ):
        load_tensors(path)


def pickled_by(program: bytes, path: Path) -> Path:
    """A checkpoint with a pickle of our own making."""
    torch.save(STATE, path)
    with zipfile.ZipFile(path) as old:
        entries = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in entries:
            new.writestr(name, program if name.endswith("data.pkl") else data)
    return path


@pytest.mark.parametrize(
    "program",
    [
        pickle.dumps(Calls(os.system, "true"), protocol=4),  # STACK_GLOBAL
        b"(S'true'\nios\nsystem\n.",  # INST
        b"\x80\x02}q\x00.",  # a dictionary without tensors
        b"\x80\x02garbage",
        b"",
        b"\x80\x02" + b"(" * 10_000 + b"t" * 10_000 + b".",
    ],
)
def test_strange_pickles_are_refused(tmp_path: Path, program: bytes) -> None:
    with pytest.raises(ModelError, match=r"m\.th") as caught:
        load_tensors(pickled_by(program, tmp_path / "m.th"))
    assert "\n" not in str(caught.value)
    assert "weights_only" not in str(caught.value)  # nobody is advised to load it without protection


def test_files_of_another_kind_are_named(tmp_path: Path) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr("a/data.pkl", b"\x80\x02}q\x00." * 1000)
    other = io.BytesIO()
    with zipfile.ZipFile(other, "w") as packed:
        packed.writestr("word/document.xml", b"<x/>")
    old = io.BytesIO()
    torch.save(STATE, old, _use_new_zipfile_serialization=False)
    new = io.BytesIO()
    torch.save(STATE, new)
    kinds = {
        b"": "is empty",
        b"<!DOCTYPE html><html>": "is a web page",
        b"version https://git-lfs.github.com/spec/v1\noid": "Git LFS pointer",
        b"hello": "is not a checkpoint",
        new.getvalue()[:-100]: "is truncated or damaged",
        new.getvalue()[:200]: "is truncated or damaged",
        archive.getvalue(): "compressed zip",
        other.getvalue(): "is a zip, but not a checkpoint",
        old.getvalue(): "torch before 1.6",
        pickle.dumps({}): "bare pickle",
    }
    for data, message in kinds.items():
        path = tmp_path / "m.th"
        path.write_bytes(data)
        with pytest.raises(ModelError, match=rf"m\.th .*{message}"):
            load_tensors(path)
    with pytest.raises(ModelError, match="does not exist"):
        load_tensors(tmp_path / "none.th")
    with pytest.raises(ModelError, match="is a folder"):
        load_tensors(tmp_path)
    (tmp_path / "m.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(ModelError, match=r"m\.safetensors is damaged"):
        load_tensors(tmp_path / "m.safetensors")


def test_storages_cut_short_are_refused(tmp_path: Path) -> None:
    """A zip that is whole, with a storage of fewer bytes than the pickle says."""
    path = tmp_path / "m.th"
    torch.save({"w": torch.randn(1000)}, path)
    with zipfile.ZipFile(path) as old:
        entries = [(entry.filename, old.read(entry)) for entry in old.infolist()]
    with zipfile.ZipFile(path, "w") as new:
        for name, data in entries:
            new.writestr(name, data[:40] if "/data/" in name else data)
    with pytest.raises(ModelError, match=r"m\.th"):
        checked(path, load_tensors(path))


def test_a_pickle_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = save(STATE, tmp_path / "m.th")
    monkeypatch.setattr(safe_load, "MAX_PICKLE", 100)
    with pytest.raises(ModelError, match="its pickle alone"):
        load_tensors(path)


def test_shapes_are_checked_before_anything_is_allocated(tmp_path: Path) -> None:
    """One number can be said to be a tensor of a terabyte, and one storage many tensors."""
    path = save({"w": torch.zeros(1).expand(1 << 38)}, tmp_path / "m.th")
    with pytest.raises(ModelError, match=r"tensor w claims the shape \(274877906944,\), more than the whole file"):
        checked(path, load_tensors(path))
    shared = torch.zeros(1000)
    path = save({f"w{i}": shared.view(1000) for i in range(100)}, tmp_path / "n.th")
    with pytest.raises(ModelError, match="claims 100 tensors"):
        checked(path, load_tensors(path))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([1.0, float("nan")]), "w holds NaN or infinity"),
        (torch.tensor([1.0, float("-inf")]), "w holds NaN or infinity"),
        (torch.tensor([1, 2]), "not a dense tensor of floats"),
        (torch.zeros(0, 3), "has the shape"),
        (torch.zeros([1] * 9), "has the shape"),
    ],
)
def test_tensors_that_are_no_weights(tmp_path: Path, value: torch.Tensor, message: str) -> None:
    path = save({"w": value}, tmp_path / "m.th")
    with pytest.raises(ModelError, match=message):
        checked(path, load_tensors(path))


def test_checked_tensors_outlive_the_file(tmp_path: Path) -> None:
    path = save({"w": STATE["a.weight"].half(), "v": STATE["a.weight"].t()}, tmp_path / "m.th")
    tensors = checked(path, load_tensors(path))
    path.unlink()
    assert tensors["w"].dtype == torch.float32
    assert torch.equal(tensors["w"], STATE["a.weight"].half().float())
    assert torch.equal(tensors["v"], STATE["a.weight"].t())
    assert tensors["v"].is_contiguous()

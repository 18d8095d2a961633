"""The model folder: whole or not there, what was saved comes back, and every damage is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from formats.models import lean_tokenizer, official_prior, same_weights, unleashing_tokenizer
from smalti.errors import ModelError, OutputError
from smalti.formats import load_model, save_model, tokenizer_identity, verify
from smalti.formats.folder import INDEX, read_index

INFO: dict[str, Any] = {
    "name": "tiny",
    "licence": "CC0-1.0 (test)",
    "metrics": {"psnr": 12.5},
    "limits": ["none", "all"],
}
FILES = [
    "README.md",
    "model_index.json",
    "prior/config.json",
    "prior/model.safetensors",
    "vqgan/config.json",
    "vqgan/model.safetensors",
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(tmp_path / "m", lean_tokenizer(), official_prior(), info=INFO, sampler_options={"order": "halton"})
    return tmp_path / "m"


def contents(root: Path) -> list[str]:
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_what_was_saved_comes_back(folder: Path) -> None:
    model = load_model(folder)
    assert contents(folder) == FILES
    assert same_weights(model.tokenizer, lean_tokenizer())
    assert model.prior is not None
    assert same_weights(model.prior, official_prior())
    assert model.tokenizer.config == lean_tokenizer().config
    assert model.prior.config == official_prior().config
    assert (model.info, model.sampler_options) == (INFO, {"order": "halton"})
    assert not model.tokenizer.training
    assert not model.prior.training


@pytest.mark.parametrize("build", [lean_tokenizer, unleashing_tokenizer])
def test_a_tokenizer_alone(tmp_path: Path, build: Any) -> None:
    save_model(tmp_path / "m", build(), None)
    assert load_model(tmp_path / "m").prior is None
    assert read_index(tmp_path / "m")["window"] is None
    assert same_weights(load_model(tmp_path / "m").tokenizer, build())


def test_half_precision_takes_half_the_room_and_loads_as_float32(tmp_path: Path, folder: Path) -> None:
    save_model(tmp_path / "half", lean_tokenizer(), official_prior(), dtype=torch.float16)
    path = "prior/model.safetensors"
    assert (tmp_path / "half" / path).stat().st_size < 0.6 * (folder / path).stat().st_size
    model = load_model(tmp_path / "half")
    for name, value in model.tokenizer.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, lean_tokenizer().state_dict()[name].half().float())


def test_the_identity_follows_the_weights_and_the_configuration(tmp_path: Path, folder: Path) -> None:
    identity = load_model(folder).identity
    assert identity == tokenizer_identity(lean_tokenizer())
    assert len(identity) == 64
    save_model(tmp_path / "half", lean_tokenizer(), None, dtype=torch.float16)
    half = load_model(tmp_path / "half")
    assert half.identity != identity  # other weights, so codes may differ
    save_model(tmp_path / "again", half.tokenizer, None)
    assert load_model(tmp_path / "again").identity == half.identity  # the same weights in more bytes
    model = lean_tokenizer()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1e-3
    assert tokenizer_identity(model) != identity
    other = lean_tokenizer()
    other.config = other.config.model_copy(update={"value_range": (0.0, 1.0)})
    assert tokenizer_identity(other) != identity


def test_the_card_says_what_is_known(folder: Path) -> None:
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: smalti\n")
    assert "license: cc0-1.0\n" in card
    for text in ("# tiny", "24 codes, 4 pixels per cell, made for 4x4 cells", "| psnr | 12.5 |", "- none\n- all"):
        assert text in card
    assert "## Training" not in card  # unknown facts are left out


def test_verify_knows_every_file(folder: Path) -> None:
    assert sorted(verify(folder)) == [name for name in FILES if name != INDEX]


@pytest.mark.parametrize("name", [name for name in FILES if name not in ("README.md", INDEX)])
def test_a_changed_byte_is_found(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    data[-3] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ModelError, match=f"{name} is not the file that was saved"):
        verify(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "README.md"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelError, match=rf"{name} is missing"):
        load_model(folder)
    with pytest.raises(ModelError, match=rf"{name} is missing"):
        verify(folder)


def test_a_missing_prior_is_named(folder: Path) -> None:
    shutil.rmtree(folder / "prior")
    with pytest.raises(ModelError, match="prior is missing"):
        load_model(folder)


@pytest.mark.parametrize("name", [name for name in FILES if name != "README.md"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_file_is_named(folder: Path, name: str, share: float) -> None:
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: min(int(len(data) * share), len(data) - 3)])
    with pytest.raises(ModelError, match=rf"{name}.* (damaged|format)") as caught:
        load_model(folder)
    assert "\n" not in str(caught.value)


def test_no_folder_at_all(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a folder"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"model_index\.json is missing"):
        load_model(tmp_path)


def edit_config(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


def edit_weights(path: Path, change: Any) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


def test_damage_that_is_valid_is_explained(folder: Path) -> None:
    original = {name: (folder / name).read_bytes() for name in FILES}

    def restored() -> Path:
        for name, data in original.items():
            (folder / name).write_bytes(data)
        return folder

    weights, config = folder / "vqgan/model.safetensors", folder / "vqgan/config.json"
    cases: list[tuple[Any, str]] = [
        (lambda: edit_config(folder / INDEX, format=2), "has format 2, this smalti reads 1: update smalti"),
        (lambda: edit_config(config, codebook_size=25), r"tensor quantizer.basis has shape \(24, 4\)"),
        (lambda: edit_config(config, codebok=25), "vqgan/config.json is not a valid configuration: codebok"),
        (lambda: config.write_text("[]"), "config.json is damaged: it holds no object"),
        (lambda: edit_weights(weights, lambda t: t.pop("quantizer.basis")), "missing quantizer.basis"),
        (lambda: edit_weights(weights, lambda t: t.update(extra=torch.ones(1))), "unknown extra"),
        (
            lambda: edit_weights(weights, lambda t: t["quantizer.basis"].view(-1)[3:4].fill_(float("nan"))),
            "quantizer.basis holds NaN or infinity",
        ),
    ]
    for damage, message in cases:
        restored()
        damage()
        with pytest.raises(ModelError, match=message):
            load_model(folder)


def test_a_prior_of_another_codebook(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(ModelError, match="knows 32 codes, the tokenizer has 24"):
        save_model(tmp_path / "n", lean_tokenizer(), official_prior(32))
    assert not (tmp_path / "n").exists()
    save_model(tmp_path / "other", unleashing_tokenizer(32), official_prior(32))
    shutil.rmtree(folder / "prior")
    shutil.copytree(tmp_path / "other" / "prior", folder / "prior")
    with pytest.raises(ModelError, match="do not belong together"):
        load_model(folder)


def test_weights_that_cannot_be_stored_are_not(tmp_path: Path) -> None:
    model = lean_tokenizer()
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] = 1e6
    save_model(tmp_path / "full", model, None)
    with pytest.raises(ModelError, match=r"too large for torch\.float16"):
        save_model(tmp_path / "half", model, None, dtype=torch.float16)
    assert contents(tmp_path) == [f"full/{name}" for name in FILES if "prior" not in name]


def test_nothing_is_overwritten_by_accident(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        save_model(folder, lean_tokenizer(), None)
    save_model(folder, lean_tokenizer(), None, force=True)
    assert load_model(folder).prior is None
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "dear.png").write_bytes(b"1")
    with pytest.raises(OutputError, match="is not replaced"):
        save_model(pictures, lean_tokenizer(), None, force=True)
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match="is not replaced"):
        save_model(file, lean_tokenizer(), None, force=True)
    assert contents(pictures) == ["dear.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "m", "pictures"]  # nothing half-written


def test_a_failure_leaves_the_old_model_and_no_rest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any, **kwargs: Any) -> None:
        raise OSError(28, "No space left on device")

    before = {name: (folder / name).read_bytes() for name in FILES}
    monkeypatch.setattr("smalti.formats.folder.save_file", full)
    with pytest.raises(OutputError, match="the disk is full"):
        save_model(folder, lean_tokenizer(), None, force=True)
    monkeypatch.undo()
    rename = Path.rename

    def refuse_new(self: Path, target: Path) -> Path:
        if Path(target) == folder and not self.name.endswith(".old"):
            raise OSError(13, "Permission denied")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse_new)
    with pytest.raises(OutputError, match="no permission"):
        save_model(folder, lean_tokenizer(), None, force=True)
    assert {name: (folder / name).read_bytes() for name in FILES} == before
    assert [p.name for p in folder.parent.iterdir()] == ["m"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot write"):
        save_model(tmp_path / "file" / "m", lean_tokenizer(), None)

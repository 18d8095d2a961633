"""Recognising what lies at a path, and saying so where it is nothing we know."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from formats.models import lean_tokenizer, official_prior, save, unleashing_tokenizer
from smalti.errors import ModelError, UsageError
from smalti.formats import export_unleashing, import_checkpoint, save_model, unleashing, verify
from smalti.formats.card import model_card
from smalti.formats.folder import read_index


def test_unknown_things_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nowhere does not exist"):
        import_checkpoint(tmp_path / "nowhere")
    with pytest.raises(ModelError, match=r"holds no checkpoint that is known: a \.th file"):
        import_checkpoint(tmp_path)
    path = save({"conv.weight": torch.ones(3), "fc.weight": torch.ones(2)}, tmp_path / "resnet.pt")
    with pytest.raises(ModelError, match=r"resnet\.pt is of an unknown layout \(it holds conv\.weight, fc\.weight\)"):
        import_checkpoint(path)
    path = save(torch.ones(3), tmp_path / "tensor.pt")
    with pytest.raises(ModelError, match=r"holds no state dictionary of tensors, but one tensor of shape \(3,\)"):
        import_checkpoint(path)


def test_a_sampler_alone_and_a_model_folder(tmp_path: Path) -> None:
    path = save(unleashing.prior_state(official_prior()), tmp_path / "run" / "saved_models" / "absorbing_ema_5.th")
    with pytest.raises(ModelError, match="a sampler: give it with --prior, and the VQGAN first"):
        import_checkpoint(path)
    with pytest.raises(UsageError, match="holds a sampler only: give the tokenizer's run first"):
        import_checkpoint(tmp_path / "run")
    save_model(tmp_path / "m", lean_tokenizer(), None)
    with pytest.raises(UsageError, match="is a smalti model folder already"):
        import_checkpoint(tmp_path / "m")
    export_unleashing(unleashing_tokenizer(), None, tmp_path / "vqgan")
    with pytest.raises(ModelError, match="m holds no sampler"):
        import_checkpoint(tmp_path / "vqgan", prior_path=tmp_path / "m")
    with pytest.raises(ModelError, match=r"none\.th does not exist"):
        import_checkpoint(tmp_path / "vqgan", prior_path=tmp_path / "none.th")


def test_the_card_names_source_hash_and_licence(tmp_path: Path) -> None:
    export_unleashing(unleashing_tokenizer(), official_prior(), tmp_path / "vqgan_x")
    for licence, front in {None: "license: other\n", "CC-BY-NC-4.0": "license: cc-by-nc-4.0\n"}.items():
        model = import_checkpoint(tmp_path / "vqgan_x", licence=licence)
        save_model(tmp_path / "m", model.tokenizer, model.prior, info=model.info, force=True)
        verify(tmp_path / "m")
        card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
        assert card == model_card(read_index(tmp_path / "m"))
        assert front in card
        for text in (
            "samb-t/unleashing-transformers",
            "sha256 of vqgan_ema_0.th",
            "sha256 of absorbing_ema_0.th",
            "MIT",
        ):
            assert text in card
    assert "Licence of the weights: CC-BY-NC-4.0." in card


def test_truncated_files_are_named(tmp_path: Path) -> None:
    """At any length: no crash, no traceback of somebody else's."""
    export_unleashing(unleashing_tokenizer(), None, tmp_path / "run", step=1)
    data = (tmp_path / "run" / "vqgan_ema_1.th").read_bytes()
    path = tmp_path / "cut.th"
    for share in (0.01, 0.3, 0.7, 0.95, 0.999):
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(ModelError, match=r"cut\.th is truncated or damaged"):
            import_checkpoint(path)
    middle = bytearray(data)
    middle[len(data) // 2] ^= 255
    path.write_bytes(middle)
    import_checkpoint(path)  # one wrong weight cannot be seen; the card's hash is what tells

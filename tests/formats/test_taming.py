"""Checkpoints of taming-transformers: Lightning's envelope, the YAML beside it, renumbered codes."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from formats.models import same_weights, save, taming_tokenizer
from smalti.errors import ModelError, UsageError
from smalti.formats import import_checkpoint
from smalti.formats.classic import key_map
from smalti.formats.taming import NAMING, Remap, find_checkpoint, read_config
from smalti.tokenizer import VQGAN, ClassicArchitecture
from tokenizer.golden import Golden


@pytest.fixture
def golden(originals: Path) -> Golden:
    return Golden(originals / "taming")


@pytest.fixture
def original(originals: Path, tmp_path: Path) -> Path:
    """A run folder as taming-transformers leaves it."""
    return Path(shutil.copytree(originals / "taming" / "gumbelvq", tmp_path / "2021_gumbel"))


def state_of(tokenizer: VQGAN) -> dict[str, Tensor]:
    """Under the names of the original."""
    ours = tokenizer.state_dict()
    return {theirs: ours[name].clone() for name, theirs in key_map(tokenizer.config, NAMING).items()}


def config_of(tokenizer: VQGAN, **network: Any) -> dict[str, Any]:
    arch = cast(ClassicArchitecture, tokenizer.config.architecture)
    return {
        "model": {
            "target": "taming.models.vqgan.VQModel",
            "params": {
                "embed_dim": tokenizer.config.code_dim,
                "n_embed": tokenizer.config.codebook_size,
                "ddconfig": {
                    "double_z": False,
                    "z_channels": arch.z_channels,
                    "in_channels": 3,
                    "out_ch": 3,
                    "ch": arch.base_channels,
                    "ch_mult": list(arch.channel_multipliers),
                    "num_res_blocks": arch.res_blocks,
                    **network,
                },
            },
        }
    }


def run(folder: Path, tokenizer: VQGAN, config: dict[str, Any] | None) -> Path:
    save({"state_dict": state_of(tokenizer)}, folder / "checkpoints" / "last.ckpt")
    if config is not None:
        (folder / "configs").mkdir()
        (folder / "configs" / "model.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return folder


def test_the_originals_file_gives_the_originals_codes_and_pictures(original: Path, golden: Golden) -> None:
    for path in (original, original / "checkpoints" / "last.ckpt"):
        model = import_checkpoint(path)
    images = (golden["gumbelvq.image_u8"].double() / 127.5 - 1).float()
    codes = model.tokenizer.encode(images)
    golden.check("gumbelvq.codes_argmax", codes)
    golden.check("gumbelvq.decoded_from_argmax", model.tokenizer.decode(codes))
    assert model.tokenizer.cell == 1
    assert model.info["name"] == "last"


def test_the_yaml_is_not_needed_but_must_not_disagree(original: Path) -> None:
    whole = import_checkpoint(original).tokenizer
    settings = original / "configs" / "model.yaml"
    text = settings.read_text(encoding="utf-8")
    settings.unlink()
    assert same_weights(import_checkpoint(original).tokenizer, whole)
    for old, new, message in [
        ("n_embed: 64", "n_embed: 32", "its YAML says n_embed = 32, its weights say 64"),
        ("ch_mult: [1]", "ch_mult: [1, 2]", r"ddconfig\.ch_mult = \[1, 2\], its weights say \[1\]"),
        ("double_z: false", "double_z: true", r"ddconfig\.double_z = True, its weights say False"),
        ("vqgan.GumbelVQ", "cond_transformer.Net2NetTransformer", "is of a taming.models.cond_transformer"),
        ("ddconfig:", "other:", "model.params.ddconfig is missing"),
        ("model:", "model: [", "is not a YAML configuration"),
    ]:
        settings.write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ModelError, match=message):
            import_checkpoint(original)
    good = original / "good.yaml"
    good.write_text(text, encoding="utf-8")
    assert same_weights(import_checkpoint(original, config=good).tokenizer, whole)
    with pytest.raises(ModelError, match=r"nothing\.yaml does not exist"):
        import_checkpoint(original, config=original / "nothing.yaml")
    with pytest.raises(UsageError, match="is a configuration: give the checkpoint"):
        import_checkpoint(settings)


def test_yaml_builds_no_objects(tmp_path: Path) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(f"model: !!python/object/apply:os.system ['touch {tmp_path}/executed']", encoding="utf-8")
    with pytest.raises(ModelError, match="is not a YAML configuration"):
        read_config(path)
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"quantizer": "gumbel", "z_channels": 8},
        {"channel_multipliers": (1, 1, 2, 2, 4), "attention_levels": (4,), "res_blocks": 2},
        {"channel_multipliers": (2, 1), "attention_levels": ()},
    ],
)
def test_any_network_of_this_codebase_comes_back(tmp_path: Path, switches: dict[str, Any]) -> None:
    tokenizer = taming_tokenizer(**switches)
    model = import_checkpoint(run(tmp_path / "run", tokenizer, config_of(tokenizer)))
    assert model.tokenizer.config == tokenizer.config
    assert same_weights(model.tokenizer, tokenizer)


def test_a_tokenizer_inside_a_transformers_checkpoint(tmp_path: Path) -> None:
    tokenizer = taming_tokenizer()
    state = {f"first_stage_model.{name}": value for name, value in state_of(tokenizer).items()}
    state |= {
        "transformer.pos_emb": torch.zeros(1, 4, 8),
        "first_stage_model.loss.discriminator.main.0.bias": torch.ones(3),
    }
    inner = config_of(tokenizer)["model"]
    outer = {
        "model": {
            "target": "taming.models.cond_transformer.Net2NetTransformer",
            "params": {"first_stage_config": inner},
        }
    }
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "net2net-project.yaml").write_text(yaml.safe_dump(outer), encoding="utf-8")
    model = import_checkpoint(save({"state_dict": state}, tmp_path / "checkpoints" / "last.ckpt"))
    assert same_weights(model.tokenizer, tokenizer)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.up.0.block.1.conv2.bias"), r"missing: decoder\.up\.0\.block\.1\.conv2\.bias"),
        (lambda s: s.update({"decoder.extra": torch.ones(1)}), r"unknown: decoder\.extra"),
        (
            lambda s: [s.pop(k) for k in list(s) if "downsample" in k],
            r"missing: encoder\.down\.0\.downsample\.conv\.bias",
        ),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("encoder.down.1.block")], "different numbers of blocks"),
        (lambda s: s["quant_conv.weight"].fill_(float("nan")), r"quant_conv\.weight holds NaN"),
    ],
)
def test_a_checkpoint_that_is_not_whole(tmp_path: Path, change: Any, message: str) -> None:
    state = state_of(taming_tokenizer())
    change(state)
    with pytest.raises(ModelError, match=message):
        import_checkpoint(save({"state_dict": state}, tmp_path / "m.ckpt"))


def test_several_checkpoints_and_none_called_last(tmp_path: Path) -> None:
    for name in ("epoch=1.ckpt", "epoch=2.ckpt"):
        save({}, tmp_path / "checkpoints" / name)
    with pytest.raises(ModelError, match=r"holds 2 checkpoints: name one of them, such as epoch=2\.ckpt"):
        find_checkpoint(tmp_path)
    save({}, tmp_path / "checkpoints" / "last.ckpt")
    assert find_checkpoint(tmp_path) == tmp_path / "checkpoints" / "last.ckpt"


# --- renumbered codes -------------------------------------------------------------------------------------------------


def test_renumbering_is_the_originals(golden: Golden) -> None:
    remap = Remap(golden["remap.used"], "extra")
    codes = golden["vqmodel.codes"]
    golden.check("remap.codes_extra", remap.to_used(codes))
    golden.check("remap.known", remap.to_used(codes) < len(remap.used))
    known = golden["remap.known"]
    back = remap.to_codes(remap.to_used(codes))
    assert torch.equal(back[known], codes[known])
    assert bool((back[~known] == remap.used[0]).all())


def test_renumbered_vectors_are_the_originals(golden: Golden, originals: Path) -> None:
    model = import_checkpoint(originals / "taming" / "vqmodel").tokenizer
    codes = Remap(golden["remap.used"]).to_codes(golden["remap.codes_extra"]).view(3, 8, 8)
    with torch.no_grad():
        golden.check("remap.z_q_from_codes_extra", model.quantizer.lookup(codes))


def test_unknown_codes_become_what_the_configuration_says() -> None:
    used, codes = torch.tensor([5, 2, 9]), torch.tensor([[2, 9], [0, 11]])
    assert Remap(used, 7).to_used(codes).tolist() == [[1, 2], [7, 7]]
    draws = Remap(used, "random").to_used(codes, torch.Generator().manual_seed(0))
    assert draws[0].tolist() == [1, 2]
    assert int(draws.max()) < 3


@pytest.mark.parametrize("place", ["buffer", "file"])
def test_renumbering_travels_with_the_model(tmp_path: Path, place: str) -> None:
    tokenizer = taming_tokenizer()
    config, state = config_of(tokenizer), state_of(tokenizer)
    used = torch.tensor([3, 1, 20])
    config["model"]["params"] |= {"remap": "used.npy", "unknown_index": "extra"}
    folder = run(tmp_path / "run", tokenizer, config)
    if place == "buffer":
        save({"state_dict": {**state, "quantize.used": used}}, folder / "checkpoints" / "last.ckpt")
    else:
        np.save(folder / "configs" / "used.npy", used.numpy())
    model = import_checkpoint(folder)
    assert model.info["remap"] == {"used": [3, 1, 20], "unknown": "extra"}
    assert model.tokenizer.codebook_size == 24  # all codes: the renumbering is a transformer's business
    if place == "file":
        np.save(folder / "configs" / "used.npy", np.ones(3))
        with pytest.raises(ModelError, match=r"used\.npy is not a list of used codes"):
            import_checkpoint(folder)
        (folder / "configs" / "used.npy").write_bytes(b"x")
        with pytest.raises(ModelError, match=r"used\.npy is not a list of used codes"):
            import_checkpoint(folder)
        (folder / "configs" / "used.npy").unlink()
        assert "remap" not in import_checkpoint(folder).info

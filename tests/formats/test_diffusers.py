"""`VQModel` folders of diffusers: read, written, and loaded by diffusers itself where it is installed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from formats.models import lean_tokenizer, same_weights, save, taming_tokenizer, unleashing_tokenizer
from smalti.errors import ModelError, OutputError, UsageError
from smalti.formats import export_diffusers, import_checkpoint
from smalti.formats.diffusers import CONFIG, WEIGHTS, diffusers_settings

MODELS: list[dict[str, Any]] = [
    {},
    {"attention_levels": (), "mid_attention": False},
    {
        "channel_multipliers": (2, 3),
        "base_channels": 16,
        "stem_channels": 32,
        "norm_groups": 8,
        "attention_levels": (0,),
    },
]


def edit(folder: Path, **changes: Any) -> Path:
    path = folder / CONFIG
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return export_diffusers(taming_tokenizer(), tmp_path / "vq")


@pytest.mark.parametrize("switches", MODELS)
def test_what_is_written_comes_back(tmp_path: Path, switches: dict[str, Any]) -> None:
    tokenizer = taming_tokenizer(**switches)
    folder = export_diffusers(tokenizer, tmp_path / "vq")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG, WEIGHTS]
    model = import_checkpoint(folder)
    assert same_weights(model.tokenizer, tokenizer)
    assert diffusers_settings(model.tokenizer.config) == diffusers_settings(tokenizer.config)
    images = torch.rand(1, 3, 24, 40) * 2 - 1
    assert torch.equal(model.tokenizer.encode(images), tokenizer.encode(images))
    for other in (folder / CONFIG, folder / WEIGHTS):
        assert import_checkpoint(other).identity == model.identity


@pytest.mark.parametrize("switches", MODELS)
@pytest.mark.filterwarnings("ignore")
def test_diffusers_loads_it_with_equal_outputs(tmp_path: Path, switches: dict[str, Any]) -> None:
    theirs = pytest.importorskip("diffusers").VQModel
    tokenizer = taming_tokenizer(**switches)
    model, report = theirs.from_pretrained(export_diffusers(tokenizer, tmp_path / "vq"), output_loading_info=True)
    assert not any(report.values()), report
    model.eval()
    cell = tokenizer.cell
    images = torch.rand(2, 3, 4 * cell, 6 * cell) * 2 - 1
    with torch.no_grad():
        z = model.encode(images).latents
        quantized, _, (_, _, codes) = model.quantize(z)
        torch.testing.assert_close(tokenizer.features(images), z, atol=2e-5, rtol=0)
        assert torch.equal(tokenizer.encode(images).flatten(), codes)
        pictures = model.decode(quantized, force_not_quantize=True).sample
        torch.testing.assert_close(tokenizer.decode(codes.view(2, 4, 6)), pictures, atol=2e-5, rtol=0)


@pytest.mark.filterwarnings("ignore")
def test_it_writes_what_diffusers_writes(tmp_path: Path) -> None:
    """Names, shapes and settings of diffusers' own `save_pretrained`, there and back."""
    theirs = pytest.importorskip("diffusers").VQModel
    torch.manual_seed(0)
    model = theirs(
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        block_out_channels=(24, 16),
        norm_num_groups=8,
        latent_channels=6,
        num_vq_embeddings=20,
        vq_embed_dim=5,
    )
    model.save_pretrained(tmp_path / "theirs")
    tokenizer = import_checkpoint(tmp_path / "theirs").tokenizer
    export_diffusers(tokenizer, tmp_path / "ours")
    ours, original = (load_file(tmp_path / name / WEIGHTS) for name in ("ours", "theirs"))
    assert ours.keys() == original.keys()
    assert all(torch.equal(ours[name], value) for name, value in original.items())
    settings = json.loads((tmp_path / "theirs" / CONFIG).read_text(encoding="utf-8"))
    for name, value in json.loads((tmp_path / "ours" / CONFIG).read_text(encoding="utf-8")).items():
        assert name in ("_diffusers_version", "sample_size") or settings[name] == value, name


def test_pickled_weights_and_the_names_of_2022(folder: Path) -> None:
    whole = import_checkpoint(folder).tokenizer
    weights = load_file(folder / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in weights.items():
        if ".attentions." in name:
            for new, former in old.items():
                name = name.replace(f".{new}.", f".{former}.")
        renamed[name] = value
    assert renamed.keys() != weights.keys()
    (folder / WEIGHTS).unlink()
    save(renamed, folder / "diffusion_pytorch_model.bin")
    assert same_weights(import_checkpoint(folder).tokenizer, whole)


def test_half_precision_weights(folder: Path) -> None:
    weights = {name: value.half() for name, value in load_file(folder / WEIGHTS).items()}
    (folder / WEIGHTS).unlink()
    save_file(weights, folder / "diffusion_pytorch_model.fp16.safetensors")
    tokenizer = import_checkpoint(folder).tokenizer
    assert next(tokenizer.parameters()).dtype == torch.float32


def test_a_tokenizer_inside_a_pipelines_folder(tmp_path: Path) -> None:
    export_diffusers(taming_tokenizer(), tmp_path / "vqvae")
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / CONFIG).write_text('{"_class_name": "UNet2DModel"}')
    (tmp_path / "model_index.json").write_text('{"_class_name": "LDMPipeline"}')
    assert same_weights(import_checkpoint(tmp_path).tokenizer, taming_tokenizer())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AutoencoderKL"}, "is of a AutoencoderKL, not of a VQModel"),
        ({"norm_type": "spatial"}, "norm_type = 'spatial'; only 'group' can be read"),
        ({"act_fn": "relu"}, "act_fn = 'relu'"),
        ({"in_channels": 4}, "in_channels = 4"),
        ({"block_out_channels": "64"}, "must be lists"),
        ({"down_block_types": ["DownBlock2D"] * 3}, "block types DownBlock2D are unknown"),
        ({"up_block_types": ["UpDecoderBlock2D"] * 3}, "do not mirror"),
        ({"norm_num_groups": 7}, "do not divide into norm_groups = 7"),
        ({"layers_per_block": 2}, r"missing: decoder\.up_blocks\.0"),
        ({"block_out_channels": [32, 32, 32]}, r"unknown: .*conv_shortcut"),
        ({"layers_per_block": "many"}, "res_blocks"),
    ],
)
def test_what_cannot_be_read_is_named(folder: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        import_checkpoint(edit(folder, **changes))
    assert "\n" not in str(caught.value)


def test_a_missing_or_damaged_file_is_named(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-9])
    with pytest.raises(ModelError, match=f"{WEIGHTS} is damaged or incomplete"):
        import_checkpoint(folder)
    (folder / WEIGHTS).unlink()
    with pytest.raises(ModelError, match=f"{WEIGHTS} does not exist"):
        import_checkpoint(folder)
    (folder / WEIGHTS).write_bytes(data)
    (folder / CONFIG).unlink()
    with pytest.raises(ModelError, match=r"belongs to diffusers, but .*config\.json does not exist"):
        import_checkpoint(folder / WEIGHTS)


def test_models_diffusers_cannot_express_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a lean tokenizer is no VQModel"):
        export_diffusers(lean_tokenizer(), tmp_path / "x")
    with pytest.raises(UsageError, match="because of extra_decoder_blocks, final_activation, quant_conv, value_range"):
        export_diffusers(unleashing_tokenizer(), tmp_path / "x")
    with pytest.raises(UsageError, match="because of stem_channels"):
        export_diffusers(taming_tokenizer(channel_multipliers=(2, 1), attention_levels=()), tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_an_export_replaces_only_its_own_kind(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(OutputError, match="exists already"):
        export_diffusers(taming_tokenizer(), folder)
    export_diffusers(taming_tokenizer(), folder, force=True)
    (tmp_path / "dear").mkdir()
    (tmp_path / "dear" / "x.png").touch()
    with pytest.raises(OutputError, match="is not replaced"):
        export_diffusers(taming_tokenizer(), tmp_path / "dear", force=True)


def test_folders_of_the_original(originals: Path, tmp_path: Path) -> None:
    """What we write of an imported model is the imported file again, tensor by tensor."""
    for name in ("vqmodel", "vqmodel_lookup"):
        source = originals / "diffusers" / name
        export_diffusers(import_checkpoint(source).tokenizer, tmp_path / name)
        ours, original = load_file(tmp_path / name / WEIGHTS), load_file(source / WEIGHTS)
        assert ours.keys() == original.keys()
        assert all(torch.equal(ours[key], value) for key, value in original.items())

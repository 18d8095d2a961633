"""Checkpoints of unleashing-transformers: everything read off the tensors, written back as the original reads it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from formats.models import (
    lean_tokenizer,
    official_prior,
    same_weights,
    save,
    taming_tokenizer,
    unleashing_tokenizer,
    with_training_leftovers,
)
from smalti.errors import DataError, ModelError, OutputError, UsageError
from smalti.formats import export_unleashing, import_checkpoint, load_model, read_latents, save_model, unleashing
from smalti.formats.safe_load import load_tensors
from smalti.prior import PriorConfig
from smalti.tokenizer import ClassicArchitecture
from tokenizer.golden import Golden


def shapes(tensors: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in tensors.items()}


def run(folder: Path, *, step: int = 100, tokenizer: Any = None, prior: Any = None) -> Path:
    export_unleashing(tokenizer or unleashing_tokenizer(), prior, folder / "saved_models", step=step)
    return folder


# --- the original's own files -----------------------------------------------------------------------------------------


@pytest.fixture
def original(originals: Path) -> Path:
    return originals / "unleashing" / "logs" / "vqgan_gumbel_tiny" / "saved_models" / "vqgan_500.th"


def test_the_originals_file_gives_the_originals_codes_and_pictures(original: Path, originals: Path) -> None:
    golden = Golden(originals / "unleashing")
    model = import_checkpoint(original)
    assert model.prior is None
    assert (model.tokenizer.config.quantizer, model.tokenizer.config.value_range) == ("gumbel", (0.0, 1.0))
    images = golden["gumbel.image_u8"].float() / 255 * 2 - 1
    codes = model.tokenizer.encode(images)
    golden.check("gumbel.codes_argmax", codes)
    golden.check("gumbel.decoded_from_argmax", (model.tokenizer.decode(codes) + 1) / 2)


def test_it_is_the_same_model_from_a_model_folder(tmp_path: Path, original: Path) -> None:
    model = import_checkpoint(original)
    save_model(tmp_path / "m", model.tokenizer, model.prior, info=model.info)
    again = load_model(tmp_path / "m")
    assert same_weights(model.tokenizer, again.tokenizer)
    assert (again.identity, again.info) == (model.identity, model.info)


def test_what_is_inferred_from_the_originals_file(original: Path) -> None:
    config = unleashing.infer_tokenizer(original, load_tensors(original))
    assert (config.codebook_size, config.code_dim, config.cell) == (64, 16, 2)
    arch = config.architecture
    assert isinstance(arch, ClassicArchitecture)
    assert arch == ClassicArchitecture(
        base_channels=32,
        channel_multipliers=(1, 1),
        res_blocks=1,
        attention_levels=(1,),
        z_channels=16,
        logsigma_head=True,
    )


def test_written_back_it_has_the_originals_names_and_shapes(tmp_path: Path, original: Path) -> None:
    found = {name: value for name, value in load_tensors(original).items() if name.startswith("ae.")}
    export_unleashing(import_checkpoint(original).tokenizer, None, tmp_path / "out")
    written = load_tensors(tmp_path / "out" / "vqgan_ema_0.th")
    assert {name: value.shape for name, value in written.items()} == {
        name: value.shape for name, value in found.items()
    }
    # blocks whose channels do not change have a shortcut that is never applied: its values are anybody's
    idle = {name for name in found if ".conv_out." in name}
    assert len(idle) == 16
    assert all(torch.equal(written[name], found[name]) for name in found.keys() - idle)


@pytest.mark.parametrize("name", ["absorbing_2000.th", "absorbing_ema_2000.th"])
def test_a_sampler_written_back_is_the_same_file(tmp_path: Path, originals: Path, name: str) -> None:
    logs = originals / "unleashing" / "logs"
    model = import_checkpoint(logs / "vqgan_tiny", prior_path=logs / "absorbing_tiny" / "saved_models" / name, heads=4)
    export_unleashing(model.tokenizer, model.prior, tmp_path, total_steps=100)
    written, found = (
        load_tensors(path)
        for path in (tmp_path / "absorbing_ema_0.th", logs / "absorbing_tiny" / "saved_models" / name)
    )
    assert {name: value.shape for name, value in written.items()} == {
        name: value.shape for name, value in found.items()
    }
    assert all(
        torch.equal(written[key], found[key]) for key in found if "blocks" in key or "emb" in key or "head" in key
    )


def test_logits_of_the_originals_sampler(originals: Path) -> None:
    golden = Golden(originals / "unleashing")
    model = import_checkpoint(originals / "unleashing" / "logs" / "vqgan_tiny", heads=4).prior
    assert model is not None  # the run beside it, absorbing_tiny, has the same name; averaged weights are preferred
    tokens = golden["absorbing.tokens"]
    with torch.no_grad():
        golden.check("absorbing.logits", model(tokens.masked_fill(tokens == 64, -1).view(-1, 8, 8)))


def test_the_whole_logs_folder(originals: Path, tmp_path: Path) -> None:
    logs = originals / "unleashing" / "logs"
    with pytest.raises(UsageError, match=r"several tokenizers: name one of .*vqgan_gumbel_tiny, .*vqgan_tiny"):
        import_checkpoint(logs)
    (tmp_path / "logs").mkdir()
    for name in ("vqgan_tiny", "absorbing_tiny"):
        (tmp_path / "logs" / name).symlink_to(logs / name)
    for place in (tmp_path, tmp_path / "logs"):
        model = import_checkpoint(place, heads=4)
        assert model.prior is not None
        assert model.prior.window == (8, 8)
    source = model.info["source"]
    recorded = json.loads((originals / "unleashing" / "manifest.json").read_text(encoding="utf-8"))["files"]
    for name in (
        "logs/vqgan_tiny/saved_models/vqgan_ema_1000.th",
        "logs/absorbing_tiny/saved_models/absorbing_ema_2000.th",
    ):
        assert source[f"sha256 of {Path(name).name}"] == recorded[name]["sha256"]
    assert (source["heads"], source["diffusion steps T"]) == (4, 100)


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"quantizer": "gumbel"},
        {"logsigma_head": True},
        {"channel_multipliers": (1, 2, 2, 3), "attention_levels": (1, 3), "res_blocks": 2},
        {"channel_multipliers": (2,), "attention_levels": ()},
    ],
)
def test_any_network_of_this_codebase_comes_back(tmp_path: Path, switches: dict[str, Any]) -> None:
    tokenizer = unleashing_tokenizer(**switches)
    state = with_training_leftovers(unleashing.tokenizer_state(tokenizer))
    for name, value in state.items():  # an original's idle shortcuts are noise
        if ".conv_out." in name and not value.any():
            state[name] = torch.full_like(value, float("nan"))
    model = import_checkpoint(save(state, tmp_path / "vqgan_1.th"))
    assert model.tokenizer.config == tokenizer.config
    assert same_weights(model.tokenizer, tokenizer)
    images = torch.rand(1, 3, 24, 16) * 2 - 1
    assert torch.equal(model.tokenizer.encode(images), tokenizer.encode(images))


@pytest.mark.parametrize(("height", "width", "heads"), [(4, 4, None), (4, 4, 2), (2, 8, 8)])
def test_any_sampler_comes_back(tmp_path: Path, height: int, width: int, heads: int | None) -> None:
    prior = official_prior(height=height, width=width, heads=heads or 8)
    folder = run(tmp_path / "vqgan_x", prior=prior)
    size = (height * 2, width * 2) if height != width else None
    model = import_checkpoint(folder, heads=heads, image_size=size)
    assert model.prior is not None
    assert model.prior.config == prior.config
    assert same_weights(model.prior, prior)
    codes = torch.randint(-1, 24, (2, height, width))
    assert torch.equal(model.prior(codes), prior(codes))


def test_the_released_shape_is_the_default() -> None:
    """24 layers of 512 channels and 8 heads over 16x16 codes of 1024: nothing needs to be said."""
    shapes = {
        "_denoise_fn.head.weight": (1024, 512),
        "_denoise_fn.pos_emb": (1, 256, 512),
        "_denoise_fn.blocks.0.mlp.0.weight": (2048, 512),
        **{f"_denoise_fn.blocks.{i}.ln1.weight": (512,) for i in range(24)},
    }
    config = unleashing.infer_prior("x.th", {name: torch.empty(shape, device="meta") for name, shape in shapes.items()})
    assert config == PriorConfig(
        d_model=512, n_layers=24, n_heads=8, position="learned", bias=True, initialisation="torch"
    )


# --- which file -------------------------------------------------------------------------------------------------------


def test_the_newest_step_and_the_averaged_weights_are_taken(tmp_path: Path) -> None:
    folder = tmp_path / "saved_models"
    folder.mkdir()
    for name in ("vqgan_900.th", "vqgan_ema_900.th", "vqgan_1000.th", "ae_optim_1000.th", "vqgan_ema_1000.th.bak"):
        (folder / name).touch()
    assert unleashing.find_checkpoint(tmp_path, "vqgan") == folder / "vqgan_1000.th"
    (folder / "vqgan_ema_1000.th").touch()
    assert unleashing.find_checkpoint(tmp_path, "vqgan") == folder / "vqgan_ema_1000.th"
    assert unleashing.find_checkpoint(folder, "vqgan") == folder / "vqgan_ema_1000.th"
    assert unleashing.find_checkpoint(tmp_path, "absorbing") is None


def test_a_sampler_of_another_run_is_not_taken(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    run(logs / "vqgan_ffhq")
    other = run(logs / "absorbing_churches", prior=official_prior())
    (other / "saved_models" / "vqgan_ema_100.th").unlink()
    assert import_checkpoint(logs / "vqgan_ffhq").prior is None
    assert import_checkpoint(logs / "vqgan_ffhq", prior_path=other).prior is not None
    assert import_checkpoint(logs / "vqgan_ffhq" / "saved_models", prior_path=other / "saved_models").prior is not None
    other.rename(logs / "absorbing_ffhq")
    assert import_checkpoint(logs / "vqgan_ffhq").prior is not None
    assert import_checkpoint(logs / "vqgan_ffhq" / "saved_models").prior is not None


# --- what is wrong ----------------------------------------------------------------------------------------------------


def vqgan_with(tmp_path: Path, change: Any) -> Path:
    state: dict[str, Tensor] = dict(unleashing.tokenizer_state(unleashing_tokenizer()))
    change(state)
    return save(state, tmp_path / "vqgan_7.th")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("ae.encoder.blocks.1.conv1.bias"), r"missing: ae\.encoder\.blocks\.1\.conv1\.bias"),
        (lambda s: s.update({"ae.extra.weight": torch.ones(1)}), r"unknown: ae\.extra\.weight"),
        (
            lambda s: [s.pop(k) for k in list(s) if ".encoder.blocks.2." in k],
            r"blocks are not those of a VQGAN \(conv residual \? ",
        ),
        (lambda s: s.pop("ae.quantize.embedding.weight"), r"no tensor ae\.quantize\.embedding\.weight"),
        (
            lambda s: s.update({"ae.generator.blocks.0.weight": torch.ones(64, 9, 3, 3)}),
            r"ae\.generator\.blocks\.0\.weight has the shape \(64, 9, 3, 3\), the others ask for \(64, 8, 3, 3\)",
        ),
        (lambda s: s["ae.quantize.embedding.weight"][0].fill_(float("inf")), "embedding.weight holds NaN or infinity"),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("ae.encoder.")],
            r"no tensor ae\.encoder\.blocks\.0\.weight",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("ae.generator.")],
            r"missing: ae\.generator\.blocks\.0\.bias.* and \d+ more",
        ),
    ],
)
def test_a_vqgan_that_is_not_whole(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(ModelError, match=message) as caught:
        import_checkpoint(vqgan_with(tmp_path, change))
    assert str(tmp_path / "vqgan_7.th") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sampler_that_is_not_whole(tmp_path: Path) -> None:
    folder = run(tmp_path / "vqgan_x")
    state = dict(unleashing.prior_state(official_prior()))
    wrong: list[tuple[dict[str, Tensor], str]] = [
        (
            {k: v for k, v in state.items() if "blocks.1.attn.key" not in k},
            "missing: _denoise_fn.blocks.1.attn",
        ),
        ({k: v for k, v in state.items() if "pos_emb" not in k}, "no tensor _denoise_fn.pos_emb"),
        ({**state, "_denoise_fn.blocks.99999.ln1.weight": torch.ones(32)}, "counts 100000 blocks"),
        ({**state, "_denoise_fn.more": torch.ones(32)}, "unknown: _denoise_fn.more"),
        ({"net.tok_emb.weight": torch.ones(24, 32), "net.pos_emb": torch.ones(1, 16, 32)}, "autoregressive sampler"),
        (dict(unleashing.tokenizer_state(unleashing_tokenizer())), "holds no sampler .* it is a VQGAN"),
        ({"x": torch.ones(1)}, "holds no sampler"),
    ]
    for tensors, message in wrong:
        with pytest.raises(ModelError, match=message):
            import_checkpoint(folder, prior_path=save(tensors, tmp_path / "absorbing_1.th"))


def test_parameters_that_do_not_fit(tmp_path: Path) -> None:
    folder = run(tmp_path / "vqgan_x", prior=official_prior())
    for options, message in [
        ({"heads": 5}, "32 channels, which 5 heads do not divide: give --heads"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"image_size": 9}, "image_size 9x9 is not a multiple of the tokenizer's 2 pixels per cell"),
        ({"image_size": 16}, "knows 16 cells, not 8x8"),
        ({"image_size": (4, 16)}, None),
    ]:
        if message is None:
            assert import_checkpoint(folder, **options).prior is not None  # type: ignore[arg-type]
        else:
            with pytest.raises(UsageError, match=message):
                import_checkpoint(folder, **options)  # type: ignore[arg-type]
    oblong = run(tmp_path / "vqgan_y", prior=official_prior(height=2, width=4))
    with pytest.raises(UsageError, match="knows 8 cells, which is no square: give the image size"):
        import_checkpoint(oblong)


def test_a_prior_of_another_codebook_is_explained(tmp_path: Path) -> None:
    folder = run(tmp_path / "vqgan_x")
    other = save(unleashing.prior_state(official_prior(32)), tmp_path / "absorbing_5.th")
    with pytest.raises(ModelError, match=r"absorbing_5\.th knows 32 codes, the tokenizer .*vqgan_ema_100\.th has 24"):
        import_checkpoint(folder, prior_path=other)


# --- latents and export -----------------------------------------------------------------------------------------------


def test_latents_are_codes(originals: Path) -> None:
    path = originals / "unleashing" / "latents" / "churches_8_train_latents"
    codes = read_latents(path, codebook_size=64)
    assert codes.shape == (4, 8, 8)
    assert torch.equal(codes.flatten(1), torch.load(path, weights_only=True))
    assert read_latents(path, codebook_size=64, grid=(4, 16)).shape == (4, 4, 16)
    with pytest.raises(UsageError, match="64 codes per picture, not 5x5"):
        read_latents(path, codebook_size=64, grid=(5, 5))
    with pytest.raises(DataError, match=r"holds the code \d+, outside 0\.\.15"):
        read_latents(path, codebook_size=16)


def test_latents_of_the_originals_codes(originals: Path) -> None:
    golden = Golden(originals / "unleashing")
    codes = read_latents(originals / "unleashing" / "latents" / "churches_8_train_latents", codebook_size=64)
    golden.check("vqgan.codes", codes)


@pytest.mark.parametrize("data", [{"a": torch.ones(2)}, torch.ones(2, 4), torch.ones(4, dtype=torch.int64), "text"])
def test_files_that_are_no_latents(tmp_path: Path, data: Any) -> None:
    with pytest.raises(DataError, match="is not a latents file"):
        read_latents(save(data, tmp_path / "latents"), codebook_size=64)


def test_latents_larger_than_their_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="more than the whole file"):
        read_latents(save(torch.zeros(1, 1, dtype=torch.int64).expand(1 << 30, 16), tmp_path / "l"), codebook_size=64)


def test_models_the_original_cannot_express_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a lean tokenizer has no place"):
        export_unleashing(lean_tokenizer(), None, tmp_path / "a")
    with pytest.raises(UsageError, match="because of extra_decoder_blocks, final_activation, quant_conv, value_range"):
        export_unleashing(taming_tokenizer(), None, tmp_path / "a")
    prior = official_prior()
    prior.config = prior.config.model_copy(update={"activation": "swiglu", "registers": 2})
    with pytest.raises(UsageError, match="because of activation, registers"):
        export_unleashing(unleashing_tokenizer(), prior, tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_an_export_overwrites_nothing(tmp_path: Path) -> None:
    written = export_unleashing(unleashing_tokenizer(), official_prior(), tmp_path, step=3)
    assert [path.name for path in written] == ["vqgan_ema_3.th", "absorbing_ema_3.th"]
    with pytest.raises(OutputError, match="exists already"):
        export_unleashing(unleashing_tokenizer(), None, tmp_path, step=3)
    export_unleashing(unleashing_tokenizer(), None, tmp_path, step=3, force=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["absorbing_ema_3.th", "vqgan_ema_3.th"]

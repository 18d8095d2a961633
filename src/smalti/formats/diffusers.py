"""`VQModel` folders of Hugging Face diffusers, read and written: `config.json` and one file of weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from smalti.errors import ModelError, UsageError
from smalti.formats.classic import Layer, Naming, build_tokenizer, channels_of, key_map, layers, tokenizer_config
from smalti.formats.folder import whole_folder
from smalti.formats.safe_load import load_tensors, names
from smalti.tokenizer import VQGAN, ClassicArchitecture, TokenizerConfig

CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"
_FILES = (WEIGHTS, "diffusion_pytorch_model.fp16.safetensors", "diffusion_pytorch_model.bin")
_OLD_ATTENTION = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
_DOWN = {"DownEncoderBlock2D": False, "AttnDownEncoderBlock2D": True}
_UP = {"UpDecoderBlock2D": False, "AttnUpDecoderBlock2D": True}


def _layer_name(layer: Layer, arch: ClassicArchitecture) -> str:
    side = layer.side
    if layer.place == "first":
        return f"{side}.conv_in"
    if layer.place == "last":
        return f"{side}.{'conv_norm_out' if layer.kind == 'norm' else 'conv_out'}"
    plural = "attentions" if layer.kind == "attention" else "resnets"
    if layer.place == "middle":
        return f"{side}.mid_block.{plural}.{layer.index}"
    # the decoder's blocks are numbered as they run, coarse to fine
    down = side == "encoder"
    block = f"{side}.down_blocks.{layer.level}" if down else f"{side}.up_blocks.{_levels(arch) - 1 - layer.level}"
    if layer.kind == "resample":
        return f"{block}.{'downsamplers' if down else 'upsamplers'}.0"
    return f"{block}.{plural}.{layer.index}"


NAMING = Naming(
    layer=_layer_name,
    parts={
        "residual": {"shortcut": "conv_shortcut"},
        "attention": {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"},
    },
    around={"quantizer": "quantize", "quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"},
)


def is_diffusers(folder: Path) -> bool:
    """Whether a folder looks like one component that diffusers saved."""
    try:
        return "_class_name" in json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError):
        return False


def read_folder(folder: str | Path) -> tuple[VQGAN, Path]:
    """The tokenizer of a `VQModel` folder, and the file of weights it came from.

    Raises ModelError naming the file, the field or the tensors that do not fit.
    """
    root = Path(folder)
    config_path = root / CONFIG
    try:
        settings = json.loads(config_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{config_path} does not exist") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{config_path} is damaged: {str(error).splitlines()[0]}") from None
    weights = next((root / name for name in _FILES if (root / name).is_file()), None)
    if weights is None:
        raise ModelError(f"{root / WEIGHTS} does not exist")
    found = {_modern(name): value for name, value in load_tensors(weights).items()}
    config = read_config(config_path, settings, found)
    return build_tokenizer(weights, config, found, key_map(config, NAMING), ignored=lambda _: False), weights


def read_config(path: Path, settings: Mapping[str, Any], found: Mapping[str, Tensor]) -> TokenizerConfig:
    """Our configuration of diffusers' `settings`. Raises ModelError naming a field that we cannot express."""
    if not isinstance(settings, dict) or settings.get("_class_name") != "VQModel":
        what = settings.get("_class_name") if isinstance(settings, dict) else type(settings).__name__
        raise ModelError(f"{path} is of a {what}, not of a VQModel")
    down = settings.get("down_block_types", ["DownEncoderBlock2D"])
    up = settings.get("up_block_types", ["UpDecoderBlock2D"])
    widths = settings.get("block_out_channels", [64])
    fixed = {
        "in_channels": (3,),
        "out_channels": (3,),
        "norm_type": ("group",),
        "act_fn": ("silu", "swish"),
    }
    for field, values in fixed.items():
        if settings.get(field, values[0]) not in values:
            raise ModelError(
                f"{path}: {field} = {settings[field]!r}; only {' or '.join(map(repr, values))} can be read"
            )
    if not _positive(widths) or not isinstance(down, list) or not isinstance(up, list):
        raise ModelError(f"{path}: block_out_channels, down_block_types and up_block_types must be lists")
    if any(name not in _DOWN for name in down) or any(name not in _UP for name in up):
        raise ModelError(f"{path}: block types {names({*map(str, down), *map(str, up)} - {*_DOWN, *_UP})} are unknown")
    if not len(down) == len(up) == len(widths) or [_DOWN[n] for n in down] != [_UP[n] for n in reversed(up)]:
        raise ModelError(f"{path}: the decoder's blocks do not mirror the encoder's, which is needed here")
    base = math.gcd(*widths)
    return tokenizer_config(
        path,
        {
            "base_channels": base,
            "channel_multipliers": [width // base for width in widths],
            "stem_channels": None if widths[0] == base else widths[0],
            "norm_groups": settings.get("norm_num_groups", 32),
            "res_blocks": settings.get("layers_per_block", 1),
            "extra_decoder_blocks": 1,
            "attention_levels": [level for level, name in enumerate(down) if _DOWN[name]],
            "mid_attention": settings.get("mid_block_add_attention", True),
            "final_activation": True,
            "quant_conv": True,
            "z_channels": settings.get("latent_channels", 3),
        },
        quantizer="nearest",
        codebook_size=channels_of(path, found, "quantize.embedding.weight", 0, 2),
        code_dim=channels_of(path, found, "quantize.embedding.weight", 1, 2),
    )


def export_diffusers(tokenizer: VQGAN, folder: str | Path, *, force: bool = False) -> Path:
    """Write a tokenizer as a folder that `diffusers.VQModel.from_pretrained` loads, with equal outputs.

    Raises UsageError naming what diffusers cannot express, OutputError if the folder exists or cannot be written.
    """
    settings = diffusers_settings(tokenizer.config)
    arch = tokenizer.config.architecture
    assert isinstance(arch, ClassicArchitecture)
    ours = tokenizer.state_dict()
    # attention is made of linear layers there
    matrices = {
        f"{layer.side}.blocks.{layer.at}.{part}.weight"
        for side in ("encoder", "decoder")
        for layer in layers(arch, side)
        if layer.kind == "attention"
        for part in ("q", "k", "v", "proj_out")
    }
    state = {}
    for name, theirs in key_map(tokenizer.config, NAMING).items():
        value = ours[name].detach().cpu().contiguous()
        state[theirs] = value.flatten(1) if name in matrices else value
    with whole_folder(folder, mark=CONFIG, force=force) as building:
        (building / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        save_file(state, building / WEIGHTS, metadata={"format": "pt"})
        (building / WEIGHTS).chmod(0o644)
    return Path(folder)


def diffusers_settings(config: TokenizerConfig) -> dict[str, Any]:
    """The `config.json` of a tokenizer. Raises UsageError naming what diffusers cannot express."""
    arch = config.architecture
    if not isinstance(arch, ClassicArchitecture):
        raise UsageError("a lean tokenizer is no VQModel of diffusers: only classic VQGANs can be exported")
    widths = [arch.base_channels * m for m in arch.channel_multipliers]
    differences = {
        "quantizer": config.quantizer != "nearest",
        "value_range": config.value_range != (-1.0, 1.0),
        "final_activation": not arch.final_activation,
        "quant_conv": not arch.quant_conv,
        "extra_decoder_blocks": arch.extra_decoder_blocks != 1,
        "stem_channels": arch.stem != widths[0],
        "logsigma_head": arch.logsigma_head,
    }
    wrong = [name for name, differs in differences.items() if differs]
    if wrong:
        raise UsageError(f"this tokenizer is no VQModel of diffusers because of {names(wrong)}")
    attention = [level in arch.attention_levels for level in range(_levels(arch))]
    return {
        "_class_name": "VQModel",
        "_diffusers_version": "0.30.0",
        "act_fn": "silu",
        "block_out_channels": widths,
        "down_block_types": ["AttnDownEncoderBlock2D" if yes else "DownEncoderBlock2D" for yes in attention],
        "up_block_types": ["AttnUpDecoderBlock2D" if yes else "UpDecoderBlock2D" for yes in reversed(attention)],
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": arch.z_channels,
        "layers_per_block": arch.res_blocks,
        "mid_block_add_attention": arch.mid_attention,
        "norm_num_groups": arch.norm_groups,
        "norm_type": "group",
        "num_vq_embeddings": config.codebook_size,
        "sample_size": 32 * config.cell,
        "scaling_factor": 0.18215,
        "vq_embed_dim": config.code_dim,
    }


def _levels(arch: ClassicArchitecture) -> int:
    return len(arch.channel_multipliers)


def _modern(name: str) -> str:
    """Checkpoints of 2022 call the attention's layers otherwise."""
    if ".attentions." in name:
        for old, new in _OLD_ATTENTION.items():
            name = name.replace(old, new)
    return name


def _positive(values: Any) -> bool:
    return isinstance(values, list) and bool(values) and all(isinstance(v, int) and 0 < v < 1 << 16 for v in values)

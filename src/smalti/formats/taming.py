"""Checkpoints of taming-transformers (Esser et al., 2021), read: `VQModel` and `GumbelVQ`, any cell size.

A `.ckpt` is a Lightning checkpoint, whose weights stand under `state_dict`; the configuration is a YAML file beside
it. The weights say nearly all of it again, so they are what is believed; the YAML is checked against them and refused
where it asks for something else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from torch import Tensor

from smalti.errors import ModelError
from smalti.formats.classic import Layer, Naming, build_tokenizer, channels_of, key_map, tokenizer_config
from smalti.tokenizer import VQGAN, ClassicArchitecture, TokenizerConfig

MAX_YAML = 1 << 20
FIRST_STAGE = "first_stage_model."
"""Prefix of the tokenizer inside the checkpoint of a transformer."""


def _layer_name(layer: Layer, arch: ClassicArchitecture) -> str:
    side, level = layer.side, layer.level
    way = "down" if side == "encoder" else "up"
    if layer.place == "first":
        return f"{side}.conv_in"
    if layer.place == "last":
        return f"{side}.{'norm_out' if layer.kind == 'norm' else 'conv_out'}"
    if layer.place == "middle":
        return f"{side}.mid.{'attn' if layer.kind == 'attention' else 'block'}_{layer.index + 1}"
    if layer.kind == "resample":
        return f"{side}.{way}.{level}.{way}sample"
    return f"{side}.{way}.{level}.{'attn' if layer.kind == 'attention' else 'block'}.{layer.index}"


NAMING = Naming(
    layer=_layer_name,
    parts={"residual": {"shortcut": "nin_shortcut"}},
    around={"quantizer": "quantize", "quant_conv": "quant_conv", "post_quant_conv": "post_quant_conv"},
)


@dataclass(frozen=True)
class Remap:
    """taming-transformers' renumbering of a codebook of which few codes are used.

    The tokenizer itself keeps all K codes; a transformer trained with a remap saw positions in `used` instead.
    """

    used: Tensor
    """int64 `(m,)`: the codes in use."""
    unknown: Literal["random", "extra"] | int = "extra"
    """What a code outside `used` becomes: one more number, `m`; a random one; or a fixed one."""

    def to_used(self, codes: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Codes -> positions in `used`, of the same shape."""
        table = torch.full((int(max(self.used.max(), codes.max())) + 1,), -1, dtype=torch.int64)
        table[self.used.flip(0)] = torch.arange(len(self.used)).flip(0)  # the first wins where a code is listed twice
        new = table[codes]
        strange = new < 0
        if self.unknown == "random":
            return torch.where(strange, torch.randint(len(self.used), new.shape, generator=generator), new)
        return new.masked_fill(strange, len(self.used) if self.unknown == "extra" else int(self.unknown))

    def to_codes(self, positions: Tensor) -> Tensor:
        """Positions in `used` -> codes; the extra number becomes the first code, as in the original."""
        return self.used[positions.masked_fill(positions >= len(self.used), 0)]


def is_taming(found: Mapping[str, Tensor]) -> bool:
    """Whether a state dictionary is a VQGAN of this codebase, bare or inside a transformer's checkpoint."""
    return any(name.removeprefix(FIRST_STAGE).startswith("encoder.down.") for name in found)


def first_stage(found: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tokenizer's tensors: all of them, or those under `first_stage_model.` in a transformer's checkpoint."""
    inner = {name.removeprefix(FIRST_STAGE): value for name, value in found.items() if name.startswith(FIRST_STAGE)}
    return inner or dict(found)


def read_tokenizer(path: str | Path, found: Mapping[str, Tensor], params: Mapping[str, Any] | None = None) -> VQGAN:
    """The `VQModel` or `GumbelVQ` in a state dictionary; the losses' networks are left out.

    params: `model.params` of the YAML (`read_config`), checked against the weights. Raises ModelError where they
    disagree and for networks that taming-transformers' autoencoders for codes do not have.
    """
    found = first_stage(found)
    config = infer_tokenizer(path, found)
    if params is not None:
        check_config(path, config, params)
    return build_tokenizer(
        path,
        config,
        found,
        key_map(config, NAMING),
        ignored=lambda name: name.startswith("loss.") or name in ("colorize", "quantize.used"),
    )


def infer_tokenizer(path: str | Path, found: Mapping[str, Tensor]) -> TokenizerConfig:
    """The configuration that tensors of these names and shapes belong to."""
    stem = channels_of(path, found, "encoder.conv_in.weight")
    gumbel = "quantize.embed.weight" in found
    embedding = "quantize.embed.weight" if gumbel else "quantize.embedding.weight"
    blocks = _indices(found, r"encoder\.down\.(\d+)\.block\.(\d+)\.")
    if not blocks:
        raise ModelError(f"{path} has no encoder.down.*: it is truncated or of another layout")
    levels = 1 + max(level for level, _ in blocks)
    per_level = 1 + max(index for _, index in blocks)
    decoder_blocks = 1 + max((index for _, index in _indices(found, r"decoder\.up\.(\d+)\.block\.(\d+)\.")), default=0)
    if len(blocks) != levels * per_level:
        raise ModelError(f"{path}: the encoder's levels have different numbers of blocks: it is truncated")
    widths = [
        channels_of(path, found, f"encoder.down.{level}.block.{per_level - 1}.conv2.weight") for level in range(levels)
    ]
    if any(width % stem for width in widths):
        raise ModelError(f"{path}: the channels {widths} are not multiples of the first layer's {stem}")
    return tokenizer_config(
        path,
        {
            "base_channels": stem,
            "channel_multipliers": [width // stem for width in widths],
            "res_blocks": per_level,
            "extra_decoder_blocks": max(0, decoder_blocks - per_level),
            "attention_levels": sorted({level for level, _ in _indices(found, r"encoder\.down\.(\d+)\.attn\.(\d+)\.")}),
            "mid_attention": "encoder.mid.attn_1.q.weight" in found,
            "final_activation": True,
            "quant_conv": True,
            "z_channels": channels_of(path, found, "encoder.conv_out.weight"),
        },
        quantizer="gumbel" if gumbel else "nearest",
        codebook_size=channels_of(path, found, embedding, 0, 2),
        code_dim=channels_of(path, found, embedding, 1, 2),
    )


def check_config(path: str | Path, config: TokenizerConfig, params: Mapping[str, Any]) -> None:
    """Compare the YAML's `model.params` with what the weights say. Raises ModelError naming the first difference."""
    arch = config.architecture
    assert isinstance(arch, ClassicArchitecture)
    network = params.get("ddconfig", {})
    if not isinstance(network, Mapping):
        raise ModelError(f"{path}: ddconfig in its YAML is not a mapping")
    expected: list[tuple[str, Any, Any]] = [
        ("embed_dim", params.get("embed_dim"), config.code_dim),
        ("n_embed", params.get("n_embed"), config.codebook_size),
        ("ddconfig.ch", network.get("ch"), arch.base_channels),
        ("ddconfig.ch_mult", network.get("ch_mult"), list(arch.channel_multipliers)),
        ("ddconfig.num_res_blocks", network.get("num_res_blocks"), arch.res_blocks),
        ("ddconfig.z_channels", network.get("z_channels"), arch.z_channels),
        ("ddconfig.in_channels", network.get("in_channels"), 3),
        ("ddconfig.out_ch", network.get("out_ch"), 3),
        ("ddconfig.double_z", network.get("double_z"), False),
        ("ddconfig.resamp_with_conv", network.get("resamp_with_conv"), True),
    ]
    for name, said, weighed in expected:
        value = list(said) if isinstance(said, tuple) else said
        if value is not None and value != weighed:
            raise ModelError(f"{path}: its YAML says {name} = {value}, its weights say {weighed}")


def find_config(checkpoint: Path) -> Path | None:
    """The YAML of a checkpoint: in its folder, in `configs` beside it, or in `configs` of the folder above."""
    for folder in (checkpoint.parent, checkpoint.parent / "configs", checkpoint.parent.parent / "configs"):
        for pattern in ("*project.yaml", "model.yaml", "*.yaml", "*.yml"):
            found = sorted(path for path in folder.glob(pattern) if "lightning" not in path.name)
            if found:
                return found[-1]
    return None


def find_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint of a run folder: `last.ckpt`, else the only `.ckpt` in it or in `checkpoints`."""
    for place in (folder / "checkpoints", folder / "ckpts", folder):
        files = sorted(place.glob("*.ckpt"))
        last = [file for file in files if file.name == "last.ckpt"]
        if last or len(files) == 1:
            return (last or files)[0]
        if files:
            raise ModelError(f"{place} holds {len(files)} checkpoints: name one of them, such as {files[-1].name}")
    return None


def read_config(path: str | Path) -> dict[str, Any]:
    """`model.params` of a YAML, the tokenizer's where it is a transformer's. Raises ModelError if there is none."""
    file = Path(path)
    try:
        if file.stat().st_size > MAX_YAML:
            raise ModelError(f"{file} is too large for a configuration")
        data = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError(f"{file} does not exist") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ModelError(f"{file} is not a YAML configuration: {str(error).splitlines()[0]}") from None
    model = data.get("model") if isinstance(data, dict) else None
    params = model.get("params") if isinstance(model, dict) else None
    if isinstance(params, dict) and isinstance(params.get("first_stage_config"), dict):
        model = params["first_stage_config"]
        params = model.get("params")
    if not isinstance(model, dict) or not isinstance(params, dict) or "ddconfig" not in params:
        raise ModelError(f"{file} describes no tokenizer: model.params.ddconfig is missing")
    target = str(model.get("target", ""))
    if target and target.rsplit(".", 1)[-1] not in ("VQModel", "GumbelVQ", "VQSegmentationModel", "VQNoDiscModel"):
        raise ModelError(f"{file} is of a {target}, not of a VQModel or GumbelVQ")
    return params


def read_remap(
    path: str | Path, found: Mapping[str, Tensor], params: Mapping[str, Any] | None, folder: Path | None = None
) -> Remap | None:
    """The renumbering of codes, if the checkpoint (`quantize.used`) or its YAML (`remap: used.npy`) has one.

    A relative `.npy` is looked up in `folder`. Raises ModelError for a file that is missing or lists no codes.
    """
    params = params or {}
    unknown = params.get("unknown_index", "random")
    used = first_stage(found).get("quantize.used")
    source = str(path)
    if used is None and params.get("remap"):
        place = Path(params["remap"])
        source = str(place if place.is_absolute() or folder is None else folder / place)
        try:
            used = torch.from_numpy(np.load(source, allow_pickle=False))
        except FileNotFoundError:
            return None  # the tokenizer does not need it
        except (OSError, ValueError, EOFError, TypeError) as error:
            raise ModelError(f"{source} is not a list of used codes: {str(error).splitlines()[0]}") from None
    if used is None:
        return None
    if used.dim() != 1 or used.is_floating_point() or used.numel() == 0 or used.is_complex():
        raise ModelError(f"{source} is not a list of used codes but {used.dtype} {tuple(used.shape)}")
    return Remap(used.to(torch.int64, copy=True), unknown if isinstance(unknown, int) else _unknown(unknown))


def _unknown(value: Any) -> Literal["random", "extra"]:
    if value not in ("random", "extra"):
        raise ModelError(f'unknown_index in the YAML is {value!r}; "random", "extra" or a number is expected')
    return "extra" if value == "extra" else "random"


def _indices(found: Mapping[str, Tensor], pattern: str) -> set[tuple[int, int]]:
    matches = (re.match(pattern, name) for name in found)
    return {(int(match[1]), int(match[2])) for match in matches if match}

"""How the tensors of a classic VQGAN are called, in our own numbering and in three others.

Our `encoder.blocks.<i>` and `decoder.blocks.<i>` are flat lists. `layers` says what stands at each index, a `Naming`
says how a foreign codebase calls it, and `key_map` pairs the two, for reading as for writing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from pydantic import ValidationError
from torch import Tensor, nn

from smalti.errors import ModelError
from smalti.formats.blueprint import blueprint
from smalti.formats.safe_load import checked, names
from smalti.tokenizer import VQGAN, ClassicArchitecture, TokenizerConfig

Side = Literal["encoder", "decoder"]
Kind = Literal["conv", "norm", "residual", "attention", "resample"]
Place = Literal["first", "level", "middle", "last"]

PARTS: dict[Kind, tuple[str, ...]] = {
    "conv": ("",),
    "norm": ("",),
    "residual": ("norm1", "conv1", "norm2", "conv2", "shortcut"),
    "attention": ("norm", "q", "k", "v", "proj_out"),
    "resample": ("conv",),
}
"""Our names inside a layer; each has a weight and a bias. `shortcut` exists where the channels change."""


@dataclass(frozen=True)
class Layer:
    """One entry of a flat list of blocks."""

    side: Side
    at: int
    """Index in our list."""
    kind: Kind
    place: Place
    level: int = 0
    """0 = finest; meaningful at place "level"."""
    index: int = 0
    """Which residual (or attention) layer of its level or of the middle."""
    channels_in: int = 0
    channels_out: int = 0


@dataclass(frozen=True)
class Naming:
    """How one codebase calls layers, what is inside them, and everything around them."""

    layer: Callable[[Layer, ClassicArchitecture], str]
    parts: Mapping[Kind, Mapping[str, str]]
    """Foreign name of each of our parts, by kind of layer."""
    around: Mapping[str, str] = field(default_factory=dict)
    """Prefixes outside encoder and decoder: ours -> foreign."""


def layers(arch: ClassicArchitecture, side: Side) -> Iterator[Layer]:
    """The layers that have weights, in our order."""
    at = 0
    levels = len(arch.channel_multipliers)
    width = [arch.base_channels * m for m in arch.channel_multipliers]
    channels = arch.stem if side == "encoder" else width[-1]

    def layer(kind: Kind, place: Place, level: int = 0, index: int = 0, into: int = 0, out: int = 0) -> Layer:
        nonlocal at
        at += 1
        return Layer(side, at - 1, kind, place, level, index, into, out)

    def middle() -> Iterator[Layer]:
        yield layer("residual", "middle", index=0, into=width[-1], out=width[-1])
        if arch.mid_attention:
            yield layer("attention", "middle", index=0)
        yield layer("residual", "middle", index=1, into=width[-1], out=width[-1])

    yield layer("conv", "first")
    if side == "decoder":
        yield from middle()
    for level in range(levels) if side == "encoder" else reversed(range(levels)):
        for index in range(arch.res_blocks + (arch.extra_decoder_blocks if side == "decoder" else 0)):
            yield layer("residual", "level", level, index, channels, width[level])
            channels = width[level]
            if level in arch.attention_levels:
                yield layer("attention", "level", level, index)
        if level != (levels - 1 if side == "encoder" else 0):
            yield layer("resample", "level", level)
    if side == "encoder":
        yield from middle()
    yield layer("norm", "last")
    at += arch.final_activation  # the activation has an index and no weights
    yield layer("conv", "last")


def key_map(config: TokenizerConfig, naming: Naming) -> dict[str, str]:
    """Our name of every tensor of the tokenizer -> the foreign one."""
    arch = cast(ClassicArchitecture, config.architecture)
    pairs: dict[str, str] = {}
    for side in ("encoder", "decoder"):
        for layer in layers(arch, side):
            theirs = naming.layer(layer, arch)
            for part in PARTS[layer.kind]:
                if part == "shortcut" and layer.channels_in == layer.channels_out:
                    continue
                ours = ".".join(filter(None, (f"{side}.blocks.{layer.at}", part)))
                name = ".".join(filter(None, (theirs, naming.parts.get(layer.kind, {}).get(part, part))))
                pairs |= {f"{ours}.{kind}": f"{name}.{kind}" for kind in ("weight", "bias")}
    expected = blueprint(lambda: VQGAN(config)).state_dict()
    for ours in expected.keys() - pairs.keys():
        prefix = next((p for p in naming.around if ours.startswith(p + ".")), None)
        assert prefix is not None, ours
        pairs[ours] = naming.around[prefix] + ours.removeprefix(prefix)
    assert pairs.keys() == expected.keys()
    return pairs


def build_tokenizer(
    path: str | Path,
    config: TokenizerConfig,
    found: Mapping[str, Tensor],
    pairs: Mapping[str, str],
    *,
    ignored: Callable[[str], bool],
) -> VQGAN:
    """The tokenizer of `config` with the tensors `found` in `path`, in float32 and evaluation mode.

    Every tensor must be used or `ignored` knowingly. Raises ModelError listing missing and unknown names, or naming
    the tensor of another shape.
    """
    model = blueprint(lambda: VQGAN(config))
    fill_module(path, model, found, pairs, ignored=ignored)
    return model


def fill_module(
    path: str | Path,
    module: nn.Module,
    found: Mapping[str, Tensor],
    pairs: Mapping[str, str],
    *,
    ignored: Callable[[str], bool],
) -> None:
    """Give a module on the meta device its weights; see `build_tokenizer`."""
    missing = set(pairs.values()) - found.keys()
    unknown = {name for name in found if not ignored(name)} - set(pairs.values())
    if missing or unknown:
        parts = [f"missing: {names(missing)}"] * bool(missing) + [f"unknown: {names(unknown)}"] * bool(unknown)
        raise ModelError(f"{path} does not have the tensors of its layout; {'; '.join(parts)}")
    expected = module.state_dict()
    for ours, theirs in pairs.items():
        want, have = tuple(expected[ours].shape), tuple(found[theirs].shape)
        if want != have and not _same_but_for_ones(want, have):
            raise ModelError(f"{path}: tensor {theirs} has the shape {have}, the others ask for {want}")
    tensors = checked(path, {theirs: found[theirs] for theirs in pairs.values()})
    state = {ours: tensors[theirs].reshape(expected[ours].shape) for ours, theirs in pairs.items()}
    module.load_state_dict(state, strict=True, assign=True)
    module.eval().requires_grad_(True)


def _same_but_for_ones(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    """A linear layer and a 1x1 convolution hold the same matrix."""
    return len(a) + len(b) == 6 and a[:2] == b[:2] and all(side == 1 for side in (*a[2:], *b[2:]))


def tokenizer_config(path: str | Path, arch: dict[str, object], **rest: object) -> TokenizerConfig:
    """A configuration from what was read off a file. Raises ModelError if it contradicts itself."""
    try:
        return TokenizerConfig.model_validate({"architecture": {"kind": "classic", **arch}, **rest})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise ModelError(f"{path} does not describe a tokenizer that can be built: {where}: {first['msg']}") from None


def channels_of(path: str | Path, found: Mapping[str, Tensor], name: str, axis: int = 0, dims: int = 4) -> int:
    """The size of a weight along one axis. Raises ModelError if the tensor is missing or of another rank."""
    if name not in found:
        raise ModelError(f"{path} has no tensor {name}: it is truncated or of another layout")
    shape = found[name].shape
    if len(shape) != dims:
        raise ModelError(f"{path}: tensor {name} has the shape {tuple(shape)}, {dims} dimensions are expected")
    return int(shape[axis])

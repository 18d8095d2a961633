"""Checkpoints of unleashing-transformers (Bond-Taylor et al., 2022), read and written.

The codebase saves bare state dictionaries as `logs/<run>/saved_models/<name>_<step>.th` and no configuration, so
everything is read off the tensors' names and shapes. What they do not say, the number of attention heads and the
height and width of the latent grid, defaults to the released models' 8 heads and a square.
"""

from __future__ import annotations

import math
import re
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from smalti.errors import DataError, ModelError, OutputError, UsageError
from smalti.files import atomic_write, explained
from smalti.formats.blueprint import blueprint
from smalti.formats.classic import (
    Layer,
    Naming,
    build_tokenizer,
    channels_of,
    fill_module,
    key_map,
    layers,
    tokenizer_config,
)
from smalti.formats.safe_load import load_checkpoint, names
from smalti.prior import AbsorbingTransformer, PriorConfig
from smalti.tokenizer import VQGAN, ClassicArchitecture, TokenizerConfig
from smalti.types import Codes

HEADS = 8
"""Attention heads of the released samplers."""
TOTAL_STEPS = 256
"""Diffusion steps T of the released samplers; only the length of training statistics depends on it."""

_SIDES = {"encoder": "encoder", "decoder": "generator"}
_BUFFERS = ("Lt_history", "Lt_count", "loss_history")
_UNUSED = "_denoise_fn.start_tok"  # belongs to the autoregressive model
NAMING = Naming(
    layer=lambda layer, _: f"ae.{_SIDES[layer.side]}.blocks.{layer.at}",
    parts={"residual": {"shortcut": "conv_out"}},
    around={"quantizer": "ae.quantize", "decoder.logsigma": "ae.generator.logsigma"},
)


# --- which file of a run ----------------------------------------------------------------------------------------------


def find_checkpoint(folder: Path, name: str) -> Path | None:
    """The newest `<name>[_ema]_<step>.th` in a run folder or its `saved_models`, the averaged weights if both exist."""
    found: list[tuple[int, bool, Path]] = []
    for place in (folder, folder / "saved_models"):
        for path in place.glob("*.th"):
            match = re.fullmatch(rf"{name}(_ema)?_(\d+)\.th", path.name)
            if match:
                found.append((int(match[2]), match[1] is not None, path))
    return max(found)[2] if found else None


def is_tokenizer(found: Mapping[str, Tensor]) -> bool:
    """Whether a state dictionary is a VQGAN of this codebase."""
    return any(name.startswith("ae.") for name in found)


def is_sampler(found: Mapping[str, Tensor]) -> bool:
    """Whether a state dictionary is a sampler of this codebase, absorbing or autoregressive."""
    return any(name.startswith(("_denoise_fn.", "net.tok_emb")) for name in found)


# --- reading ----------------------------------------------------------------------------------------------------------


def read_tokenizer(path: str | Path, found: Mapping[str, Tensor]) -> VQGAN:
    """The VQGAN in a state dictionary; discriminator and perceptual network are left out.

    Raises ModelError for a layout that this codebase cannot have written.
    """
    if not is_tokenizer(found):
        what = "a sampler: give it with --prior, and the VQGAN first" if is_sampler(found) else "of another layout"
        raise ModelError(f"{path} holds no VQGAN of unleashing-transformers, it is {what}")
    config = infer_tokenizer(path, found)
    pairs = key_map(config, NAMING)
    arch = config.architecture
    assert isinstance(arch, ClassicArchitecture)
    # every residual block has a shortcut, also where the channels do not change and it is never applied
    idle = {
        f"{NAMING.layer(layer, arch)}.conv_out.{kind}"
        for side in ("encoder", "decoder")
        for layer in layers(arch, side)
        if layer.kind == "residual"
        for kind in ("weight", "bias")
    } - set(pairs.values())
    return build_tokenizer(
        path, config, found, pairs, ignored=lambda name: name in idle or name.startswith(("disc.", "perceptual."))
    )


def infer_tokenizer(path: str | Path, found: Mapping[str, Tensor]) -> TokenizerConfig:
    """The configuration that tensors of these names and shapes belong to."""
    kinds = _kinds(found, "ae.encoder.blocks.")
    stem = channels_of(path, found, "ae.encoder.blocks.0.weight")
    levels: list[list[int]] = [[]]  # per level, the indices of its residual blocks
    attention: set[int] = set()
    for at, kind in enumerate(kinds[1:-5], start=1):
        if kind == "resample":
            levels.append([])
        elif kind == "attention":
            attention.add(len(levels) - 1)
        elif kind == "residual":
            levels[-1].append(at)
    tail = kinds[-5:]
    counts = {len(level) for level in levels}
    strange = not set(kinds[1:-5]) <= {"residual", "attention", "resample"}
    if tail != ["residual", "attention", "residual", "norm", "conv"] or strange or len(counts) != 1 or counts == {0}:
        raise ModelError(f"{path}: the encoder's blocks are not those of a VQGAN ({' '.join(kinds)[:120]})")
    widths = [channels_of(path, found, f"ae.encoder.blocks.{level[0]}.conv1.weight") for level in levels]
    if any(width % stem for width in widths):
        raise ModelError(f"{path}: the channels {widths} are not multiples of the first layer's {stem}")
    gumbel = "ae.quantize.embed.weight" in found
    embedding = "ae.quantize.embed.weight" if gumbel else "ae.quantize.embedding.weight"
    return tokenizer_config(
        path,
        {
            "base_channels": stem,
            "channel_multipliers": [width // stem for width in widths],
            "res_blocks": counts.pop(),
            "attention_levels": sorted(attention),
            "z_channels": channels_of(path, found, f"ae.encoder.blocks.{len(kinds) - 1}.weight"),
            "logsigma_head": "ae.generator.logsigma.0.weight" in found,
        },
        quantizer="gumbel" if gumbel else "nearest",
        codebook_size=channels_of(path, found, embedding, 0, 2),
        code_dim=channels_of(path, found, embedding, 1, 2),
        value_range=(0.0, 1.0),
    )


def read_prior(
    path: str | Path,
    found: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
) -> AbsorbingTransformer:
    """The absorbing sampler in a state dictionary.

    heads: attention heads, 8 if not given (files do not say). grid: height and width of the latent grid in cells,
    a square if not given. Raises ModelError for another layout, UsageError for heads or a grid that do not fit.
    """
    if any(name.startswith("net.") for name in found):
        raise ModelError(f"{path} is an autoregressive sampler; smalti needs an absorbing one (absorbing_*.th)")
    if not is_sampler(found):
        what = "a VQGAN" if is_tokenizer(found) else "of another layout"
        raise ModelError(f"{path} holds no sampler of unleashing-transformers, it is {what}")
    config = infer_prior(path, found, heads=heads, grid=grid)
    model = blueprint(lambda: AbsorbingTransformer(config))
    pairs = prior_key_map(model)
    fill_module(path, model, found, pairs, ignored=lambda name: name in _BUFFERS or name == _UNUSED)
    return model


def infer_prior(
    path: str | Path,
    found: Mapping[str, Tensor],
    *,
    heads: int | None = None,
    grid: tuple[int, int] | None = None,
) -> PriorConfig:
    """The configuration that tensors of these names and shapes belong to."""
    size, width = (channels_of(path, found, "_denoise_fn.head.weight", axis, 2) for axis in (0, 1))
    cells = channels_of(path, found, "_denoise_fn.pos_emb", 1, 3)
    depth = 1 + max(
        (int(match[1]) for name in found if (match := re.match(r"_denoise_fn\.blocks\.(\d+)\.", name))), default=-1
    )
    if depth > len(found):
        raise ModelError(f"{path} counts {depth} blocks and holds {len(found)} tensors: it is damaged")
    hidden = channels_of(path, found, "_denoise_fn.blocks.0.mlp.0.weight", 0, 2)
    side = math.isqrt(cells)
    if grid is None and side * side != cells:
        raise UsageError(f"{path} knows {cells} cells, which is no square: give the image size", field="image_size")
    height, width_cells = grid or (side, side)
    if height * width_cells != cells:
        raise UsageError(
            f"{path} knows {cells} cells, not {height}x{width_cells}: the image size is another", field="image_size"
        )
    if width % (heads or HEADS):
        said = f"{heads}" if heads else f"the released models' {HEADS}"
        raise UsageError(f"{path} has {width} channels, which {said} heads do not divide: give --heads", field="heads")
    try:
        return PriorConfig(
            codebook_size=size,
            height=height,
            width=width_cells,
            d_model=width,
            n_layers=depth,
            n_heads=heads or HEADS,
            mlp_ratio=hidden / width,
            position="learned",
            bias=True,
            initialisation="torch",
        )
    except ValidationError as error:
        raise ModelError(f"{path} does not describe a sampler that can be built: {error.errors()[0]['msg']}") from None


def prior_key_map(model: AbsorbingTransformer) -> dict[str, str]:
    """Our name of every tensor of a prior of the official layout -> theirs."""
    renames = [
        ("token_embedding", "tok_emb"),
        ("position_embedding", "pos_emb"),
        ("attention_norm", "ln1"),
        ("mlp_norm", "ln2"),
        ("attention.output", "attn.proj"),
        ("attention", "attn"),
        ("mlp.up", "mlp.0"),
        ("mlp.down", "mlp.2"),
    ]
    pairs = {}
    for ours in model.state_dict():
        theirs = re.sub(r"^norm\.", "ln_f.", ours)
        for old, new in renames:
            theirs = theirs.replace(old, new)
        pairs[ours] = f"_denoise_fn.{theirs}"
    return pairs


def total_steps(found: Mapping[str, Tensor]) -> int | None:
    """Diffusion steps T that a sampler was trained with."""
    history = found.get("Lt_history")
    return history.shape[0] - 1 if history is not None and history.dim() == 1 else None


def read_latents(path: str | Path, *, codebook_size: int, grid: tuple[int, int] | None = None) -> Codes:
    """A latents file (`latents/<data>_<size>_<split>_latents`) as codes int64 `(n, h, w)`.

    grid: height and width in cells, a square if not given. Raises DataError for a file that is none, ModelError for
    one that is damaged, UsageError for a grid that does not fit.
    """
    data = load_checkpoint(path)
    if not isinstance(data, Tensor) or data.dim() not in (2, 3) or data.is_floating_point() or data.numel() == 0:
        raise DataError(f"{path} is not a latents file: one tensor of integers, one row per picture, is expected")
    if data.numel() * data.element_size() > Path(path).stat().st_size:
        raise DataError(f"{path} claims the shape {tuple(data.shape)}, more than the whole file")
    cells = math.prod(data.shape[1:])
    side = math.isqrt(cells)
    height, width = grid or (tuple(data.shape[1:]) if data.dim() == 3 else (side, side))
    if height * width != cells or (data.dim() == 3 and data.shape[1:] != (height, width)):
        raise UsageError(f"{path} has {cells} codes per picture, not {height}x{width}: give the grid", field="grid")
    low, high = int(data.min()), int(data.max())
    if low < 0 or high >= codebook_size:
        raise DataError(f"{path} holds the code {low if low < 0 else high}, outside 0..{codebook_size - 1}")
    return data.to(torch.int64, copy=True).reshape(-1, height, width)


# --- writing ----------------------------------------------------------------------------------------------------------


def export_unleashing(
    tokenizer: VQGAN,
    prior: AbsorbingTransformer | None,
    folder: str | Path,
    *,
    step: int = 0,
    total_steps: int = TOTAL_STEPS,
    force: bool = False,
) -> list[Path]:
    """Write `vqgan_ema_<step>.th` and `absorbing_ema_<step>.th` into `folder`, which the original then loads.

    Raises UsageError naming what the original cannot express, OutputError if a file exists or cannot be written.
    """
    state = tokenizer_state(tokenizer)
    states = {f"vqgan_ema_{step}.th": state}
    if prior is not None:
        states[f"absorbing_ema_{step}.th"] = prior_state(prior, total_steps)
    target = Path(folder)
    with explained(target):
        target.mkdir(parents=True, exist_ok=True)
    written = [target / name for name in states]
    taken = [path for path in written if path.exists()]
    if taken and not force:
        raise OutputError(f"{taken[0]} exists already: give another folder, or --force to overwrite it")
    for path, tensors in zip(written, states.values(), strict=True):
        with atomic_write(path, force=force) as temporary:
            torch.save(tensors, temporary)
    return written


def tokenizer_state(tokenizer: VQGAN) -> OrderedDict[str, Tensor]:
    """The state dictionary under the original's names. Raises UsageError if the original has no such network."""
    config, arch = tokenizer.config, tokenizer.config.architecture
    if not isinstance(arch, ClassicArchitecture):
        raise UsageError(
            "a lean tokenizer has no place in the unleashing-transformers layout: only classic VQGANs have"
        )
    differences = {
        "final_activation": arch.final_activation,
        "quant_conv": arch.quant_conv,
        "extra_decoder_blocks": arch.extra_decoder_blocks,
        "mid_attention": not arch.mid_attention,
        "stem_channels": arch.stem != arch.base_channels,
        "norm_groups": arch.norm_groups != 32,
        "quantizer": config.quantizer == "cosine",
        "value_range": config.value_range != (0.0, 1.0),
    }
    _refuse_differences("tokenizer", differences)
    ours = tokenizer.state_dict()
    state = {theirs: _plain(ours[name]) for name, theirs in key_map(config, NAMING).items()}
    for side in ("encoder", "decoder"):
        for layer in layers(arch, side):
            if layer.kind == "residual" and layer.channels_in == layer.channels_out:
                state |= _idle_shortcut(layer, arch)
    return OrderedDict(sorted(state.items(), key=lambda item: _natural(item[0])))


def prior_state(prior: AbsorbingTransformer, steps: int = TOTAL_STEPS) -> OrderedDict[str, Tensor]:
    """The state dictionary under the original's names. Raises UsageError if the original has no such network."""
    config = prior.config
    differences = {
        "position": config.position != "learned",
        "bias": not config.bias,
        "norm": config.norm != "layernorm" or config.norm_eps != 1e-5,
        "activation": config.activation != "gelu",
        "mlp_ratio": config.mlp_ratio != 4.0,
        "qk_norm": config.qk_norm,
        "registers": bool(config.registers),
        "n_classes": bool(config.n_classes),
        "tied_head": config.tied_head,
    }
    _refuse_differences("prior", differences)
    state: OrderedDict[str, Tensor] = OrderedDict((name, torch.zeros(steps + 1)) for name in _BUFFERS)
    state[_UNUSED] = torch.zeros(1, 1, config.d_model)
    ours = prior.state_dict()
    for name, theirs in prior_key_map(prior).items():
        state[theirs] = _plain(ours[name])
    return state


def _idle_shortcut(layer: Layer, arch: ClassicArchitecture) -> dict[str, Tensor]:
    """The shortcut which the original has in every residual block and does not apply in this one."""
    name, d = f"{NAMING.layer(layer, arch)}.conv_out", layer.channels_out
    return {f"{name}.weight": torch.zeros(d, d, 1, 1), f"{name}.bias": torch.zeros(d)}


def _plain(value: Tensor) -> Tensor:
    return value.detach().to("cpu", torch.float32, copy=True).contiguous()


def _refuse_differences(what: str, differences: Mapping[str, bool | int]) -> None:
    wrong = [name for name, differs in differences.items() if differs]
    if wrong:
        raise UsageError(f"this {what} has no place in the unleashing-transformers layout because of {names(wrong)}")


def _natural(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in name.split(".")]


def _kinds(found: Mapping[str, Tensor], prefix: str) -> list[str]:
    """What stands at each index of a flat list, by the names below it; "?" where nothing is known."""
    inside: dict[int, set[str]] = {}
    for name in found:
        if match := re.match(re.escape(prefix) + r"(\d+)\.(\w+)", name):
            inside.setdefault(int(match[1]), set()).add(match[2])
    kinds = []
    for at in range(min(max(inside, default=-1) + 1, 1000)):
        keys = inside.get(at, set())
        if "norm1" in keys:
            kinds.append("residual")
        elif "proj_out" in keys:
            kinds.append("attention")
        elif "conv" in keys:
            kinds.append("resample")
        elif "weight" in keys:
            kinds.append("norm" if found.get(f"{prefix}{at}.weight", torch.empty(())).dim() == 1 else "conv")
        else:
            kinds.append("?")
    return kinds

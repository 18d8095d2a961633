"""The same network in the arithmetic that is fastest where it runs.

One choice, made once per model: the blocks in bfloat16 where the processor multiplies it natively, float32 elsewhere.
Embeddings, final norm and head stay in float32, so logits come out in float32 and unrounded: in bfloat16 a logit of 8
would be off by up to 1/32. (Which attention kernel runs follows from the type, see `attention.attend`.)
"""

from __future__ import annotations

import copy
from typing import Final, Literal, final

import torch
from torch import Tensor

from smalti.prior.transformer import AbsorbingTransformer
from smalti.types import Codes, Logits

DType = Literal["auto", "float32", "bfloat16"]

_NATIVE_ON_CPU: Final = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


def multiplies_bfloat16(device: torch.device) -> bool:
    """Whether `device` has bfloat16 products in hardware; emulated ones are slower than float32."""
    if device.type == "cpu":
        probes = (getattr(torch.cpu, name, None) for name in _NATIVE_ON_CPU)  # private in torch, so they may vanish
        return any(probe is not None and probe() for probe in probes)
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return False


def fastest_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where `device` multiplies it natively, else float32; for inference and for training's autocast."""
    return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32


@final
class InferenceDenoiser:
    """An `AbsorbingTransformer` ready to be asked many times: evaluation mode, no gradients, float32 logits.

    Has what the samplers need: a call `(codes, positions, label)`, `codebook_size`, `window`, `device`.
    """

    def __init__(self, network: AbsorbingTransformer, *, placed: bool = True) -> None:
        """`placed=False`: windows are cut-outs of a larger canvas, asked without the learned position table."""
        self.network, self.placed = network, placed

    def __call__(
        self,
        codes: Codes,
        positions: Tensor | None = None,
        label: Tensor | None = None,
        *,
        rows: Tensor | None = None,
        placed: Tensor | None = None,
    ) -> Logits:
        """As `AbsorbingTransformer.forward`."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            if rows is not None or not self._one_by_one:
                return self._ask(codes, positions, label, rows, placed)
            return torch.cat(
                [
                    self._ask(codes[i : i + 1], _row(positions, i), _row(label, i), None, _row(placed, i))
                    for i in range(len(codes))
                ]
            )

    @property
    def _one_by_one(self) -> bool:
        # A CPU is as fast with one window of 256 rows as with many, and bfloat16 products may round differently in a
        # larger batch: asked one by one, a picture's codes do not depend on its neighbours in the batch.
        return self.device.type == "cpu" and self.dtype == torch.bfloat16

    def _ask(
        self, codes: Codes, positions: Tensor | None, label: Tensor | None, rows: Tensor | None, placed: Tensor | None
    ) -> Logits:
        if placed is None and not self.placed:
            placed = torch.zeros(len(codes), dtype=torch.bool, device=codes.device)
        logits: Tensor = self.network(codes, positions, label, rows=rows, placed=placed)
        return logits.float()

    def unplaced(self) -> InferenceDenoiser:
        """The same network for windows of a larger canvas; itself if it was not trained for that."""
        return InferenceDenoiser(self.network, placed=False) if self.network.config.position_optional else self

    @property
    def codebook_size(self) -> int:
        """Number of codes K."""
        return self.network.codebook_size

    @property
    def window(self) -> tuple[int, int]:
        """Largest (height, width) in cells of one call."""
        return self.network.window

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.network.device

    @property
    def dtype(self) -> torch.dtype:
        """Arithmetic of the blocks."""
        return self.network.stream_dtype


def optimize_for_inference(model: AbsorbingTransformer, dtype: DType = "auto") -> InferenceDenoiser:
    """A copy of `model`, on its device, in the fastest equivalent form; the model itself stays as it is.

    dtype: "auto" = `fastest_dtype` of the device; "float32" gives the model's own logits; "bfloat16" rounds within the
    blocks, which moves logits by about 1% of their spread.
    """
    chosen = fastest_dtype(model.device) if dtype == "auto" else getattr(torch, dtype)
    network = copy.deepcopy(model).eval().requires_grad_(False)
    network.blocks.to(chosen)
    return InferenceDenoiser(network)


def _row(values: Tensor | None, i: int) -> Tensor | None:
    return None if values is None else values[i : i + 1]

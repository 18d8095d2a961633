"""The paper's denoiser written down once more, slowly: float64, one head and one sample at a time.

An independent statement of what `AbsorbingTransformer` in the official layout has to compute, so that every clone can
check it without the original's 0.7 MB of weights.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from smalti.prior import PriorConfig

Array = NDArray[np.float64]


def layer_norm(x: Array, weight: Array, bias: Array, eps: float) -> Array:
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


def gelu(x: Array) -> Array:
    erf = np.vectorize(math.erf)
    return 0.5 * x * (1 + erf(x / math.sqrt(2)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def official_logits(weights: dict[str, Array], config: PriorConfig, tokens: NDArray[np.int64]) -> Array:
    """tokens `(L,)` with K = mask -> logits `(L, K)`."""
    x = weights["token_embedding.weight"][tokens] + weights["position_embedding"][0, : len(tokens)]
    for i in range(config.n_layers):
        at = {k.removeprefix(f"blocks.{i}."): v for k, v in weights.items() if k.startswith(f"blocks.{i}.")}
        h = layer_norm(x, at["attention_norm.weight"], at["attention_norm.bias"], config.norm_eps)
        q, k, v = (h @ at[f"attention.{n}.weight"].T + at[f"attention.{n}.bias"] for n in ("query", "key", "value"))
        heads = []
        for head in range(config.n_heads):
            part = slice(head * config.head_dim, (head + 1) * config.head_dim)
            heads.append(softmax(q[:, part] @ k[:, part].T / math.sqrt(config.head_dim)) @ v[:, part])
        x = x + np.concatenate(heads, axis=1) @ at["attention.output.weight"].T + at["attention.output.bias"]
        h = layer_norm(x, at["mlp_norm.weight"], at["mlp_norm.bias"], config.norm_eps)
        x = x + gelu(h @ at["mlp.up.weight"].T + at["mlp.up.bias"]) @ at["mlp.down.weight"].T + at["mlp.down.bias"]
    x = layer_norm(x, weights["norm.weight"], weights["norm.bias"], config.norm_eps)
    return x @ weights["head.weight"].T

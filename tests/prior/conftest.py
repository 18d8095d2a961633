"""Small models with weights that are all at work, and the original's files."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from smalti.prior import AbsorbingTransformer, PriorConfig

BASE = {"codebook_size": 11, "height": 4, "width": 5, "d_model": 16, "n_layers": 2, "n_heads": 2}

LAYOUTS = {
    "official": {"position": "learned", "bias": True, "initialisation": "torch"},
    "ours": {},
    "rope": {"position": "rope", "norm": "rmsnorm", "activation": "swiglu", "mlp_ratio": 8 / 3},
    "everything": {"registers": 3, "n_classes": 2, "qk_norm": True, "tied_head": True, "position_optional": True},
    "one block": {"n_layers": 1, "registers": 1},
}


def make_model(seed: int = 0, **overrides: object) -> AbsorbingTransformer:
    """A tiny model in evaluation mode whose every weight is random, so that no branch is silent."""
    torch.manual_seed(seed)
    model = AbsorbingTransformer(PriorConfig(**{**BASE, **overrides}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.3)
    return model.eval()


@pytest.fixture(params=LAYOUTS, ids=list(LAYOUTS))
def model(request: pytest.FixtureRequest) -> AbsorbingTransformer:
    """One model per layout."""
    return make_model(**LAYOUTS[request.param])


@pytest.fixture
def build() -> Callable[..., AbsorbingTransformer]:
    """`make_model`, for tests that choose their own layout."""
    return make_model

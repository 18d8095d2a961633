"""Muon against its closed form, and which weights it moves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from smalti.errors import UsageError
from smalti.prior import AbsorbingTransformer, PriorConfig
from smalti.tokenizer import VQGAN, TokenizerConfig
from smalti.training.checkpoints import load_optimizer
from smalti.training.optimizers import build_optimizer, hidden_matrices, orthogonalised, parameter_groups

from .conftest import TINY_PRIOR, TINY_VQGAN

SETTINGS: dict[str, Any] = {"weight_decay": 0.1, "betas": (0.9, 0.99)}


def known_matrix(rows: int, columns: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """A matrix with singular values from 1 down to 0.05, and its U, S, V^T."""
    generator = torch.Generator().manual_seed(seed)
    u, _, vt = torch.linalg.svd(torch.randn(rows, columns, generator=generator), full_matrices=False)
    s = torch.linspace(1, 0.05, min(rows, columns))
    return u @ s.diag() @ vt, u, s, vt


def polynomial(s: Tensor) -> Tensor:
    """The quintic of Jordan et al., five times."""
    s = s / s.square().sum().sqrt()
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return s


@pytest.mark.parametrize(("rows", "columns"), [(8, 24), (24, 8), (16, 16), (1, 5)])
def test_the_iteration_is_its_polynomial_of_the_singular_values(rows: int, columns: int) -> None:
    matrix, u, s, vt = known_matrix(rows, columns)
    expected = u @ polynomial(s).diag() @ vt
    pair = orthogonalised(torch.stack([matrix, -3 * matrix]), torch.float32)  # a scale does not matter
    assert torch.allclose(pair[0], expected, atol=2e-5)
    assert torch.allclose(pair[1], -expected, atol=2e-5)
    band = torch.linalg.svdvals(pair[0])
    assert band.min() > 0.65
    assert band.max() < 1.25
    assert torch.allclose(orthogonalised(matrix[None], torch.bfloat16)[0].float(), expected, atol=0.05)


def test_nothing_moves_where_nothing_pushes() -> None:
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 4), torch.float32), torch.zeros(2, 3, 4))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_one_step_is_the_closed_form_and_as_long_as_one_of_adamw(layout: torch.memory_format) -> None:
    network = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Conv2d(4, 6, 3)).to(memory_format=layout)  # type: ignore[call-overload]
    network[0].weight.grad = known_matrix(6, 36)[0].view(6, 4, 3, 3)
    network[1].weight.grad = None
    before = network[0].weight.detach().clone()
    other = network[1].weight.detach().clone()
    optimizer = build_optimizer(network, "muon", **SETTINGS)
    for group in optimizer.param_groups:
        group["lr"] = 0.01
    optimizer.step()
    _, u, s, vt = known_matrix(6, 36)
    direction = (u @ polynomial(s).diag() @ vt).view(6, 4, 3, 3)
    expected = before * (1 - 0.01 * 0.1) - 0.01 * 0.2 * 36**0.5 * direction
    assert torch.allclose(network[0].weight, expected, atol=2e-4)  # the products may be in bfloat16
    assert network[0].weight.stride() == before.stride()
    assert torch.equal(network[1].weight, other)
    moved = network[0].weight.detach() - before * (1 - 0.01 * 0.1)
    root_mean_square = float(moved.square().mean().sqrt()) / 0.01
    assert 0.13 < root_mean_square < 0.25


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own")
def test_several_steps_agree_with_the_librarys() -> None:
    torch.manual_seed(0)
    ours, theirs = nn.Linear(24, 16, bias=False), nn.Linear(24, 16, bias=False)
    theirs.load_state_dict(ours.state_dict())
    optimizers = (
        build_optimizer(ours, "muon", **SETTINGS),
        torch.optim.Muon(theirs.parameters(), lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
    )
    optimizers[0].param_groups[0]["lr"] = 0.01
    for step in range(5):
        gradient = torch.randn(16, 24, generator=torch.Generator().manual_seed(step))
        for network, optimizer in zip((ours, theirs), optimizers, strict=True):
            network.weight.grad = gradient.clone()
            optimizer.step()
    assert torch.allclose(ours.weight, theirs.weight, atol=2e-3)  # of steps that moved by about 0.05; theirs: bfloat16


def test_who_is_moved_by_what() -> None:
    config = PriorConfig(codebook_size=16, height=4, width=4, registers=2, position="rope+learned", **TINY_PRIOR)
    prior = AbsorbingTransformer(config)
    tokenizer = VQGAN(TokenizerConfig.model_validate(TINY_VQGAN))
    for network in (prior, tokenizer):
        hidden = {id(p) for p in hidden_matrices(network)}
        chosen = {name for name, p in network.named_parameters() if id(p) in hidden}
        rest = {name for name, _ in network.named_parameters()} - chosen
        assert chosen
        assert all(name.endswith("weight") for name in chosen)
        assert not any(word in name for name in chosen for word in ("embedding", "head", "norm", "quantizer"))
        for muon in (False, True):
            groups = parameter_groups(network, 0.1, muon=muon)
            ids = [id(p) for group in groups for p in group["params"]]
            assert len(ids) == len(set(ids)) == len(chosen | rest), "each parameter in one group"
            assert {id(p) for p in groups[0]["params"]} == hidden if muon else True
            assert all(p.dim() in (2, 4) for group in groups[:-1] for p in group["params"])
    assert any(p is prior.blocks[0].attention.query.weight for p in hidden_matrices(prior))  # type: ignore[union-attr]


def test_the_rest_moves_as_adamw_alone_moves_it() -> None:
    torch.manual_seed(0)
    networks = [nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    for network, name in zip(networks, ("muon", "adamw"), strict=True):
        optimizer = build_optimizer(network, name, **SETTINGS)  # type: ignore[arg-type]
        for step in range(3):
            for group in optimizer.param_groups:
                group["lr"] = 0.01
            for i, p in enumerate(network.parameters()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(10 * step + i))
            optimizer.step()
    for name in ("0.bias", "1.weight", "1.bias"):
        assert torch.equal(networks[0].get_parameter(name), networks[1].get_parameter(name))
    assert not torch.equal(networks[0].get_parameter("0.weight"), networks[1].get_parameter("0.weight"))


@pytest.mark.parametrize(("saved", "resumed"), [("muon", "adamw"), ("adamw", "muon")])
def test_the_state_of_another_optimizer_is_refused(saved: Any, resumed: Any) -> None:
    network = nn.Linear(4, 4)
    state = build_optimizer(network, saved, **SETTINGS).state_dict()
    with pytest.raises(UsageError, match="another optimizer"):
        load_optimizer(build_optimizer(network, resumed, **SETTINGS), state)

"""The network: equal to its definition, computed only where asked, blind to nothing it should see."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from prior.reference import official_logits
from smalti.prior import AbsorbingTransformer, PriorConfig, named_size
from smalti.types import EMPTY

Build = Callable[..., AbsorbingTransformer]


def codes_for(model: AbsorbingTransformer, n: int = 3, seed: int = 1) -> torch.Tensor:
    """`(n, h, w)` random codes, a third of them empty."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, model.codebook_size, (n, *model.window), generator=generator)
    return codes.masked_fill(torch.rand(codes.shape, generator=generator) < 1 / 3, EMPTY)


def test_official_layout_computes_its_definition(build: Build) -> None:
    model = build(position="learned", bias=True, initialisation="torch", n_layers=3)
    codes = codes_for(model)
    weights = {name: value.double().numpy() for name, value in model.state_dict().items()}
    tokens = codes.masked_fill(codes == EMPTY, model.codebook_size).flatten(1).numpy()
    expected = np.stack([official_logits(weights, model.config, row) for row in tokens])
    with torch.no_grad():
        logits = model(codes).numpy()
    np.testing.assert_allclose(logits, expected, atol=2e-5 * np.abs(expected).max())


@torch.no_grad()
def test_logits_only_at_positions(model: AbsorbingTransformer) -> None:
    codes = codes_for(model)
    full = model(codes)
    assert full.shape == (3, 20, 11)
    assert full.dtype == torch.float32
    positions = torch.tensor([[0, 19, 7], [3, 3, 4], [18, 1, 0]])
    expected = full.gather(1, positions[..., None].expand(-1, -1, 11))
    torch.testing.assert_close(model(codes, positions), expected, atol=1e-5, rtol=0)


@torch.no_grad()
def test_logits_only_at_rows(model: AbsorbingTransformer) -> None:
    codes = codes_for(model)
    rows = torch.tensor([0, 5, 19, 20, 44, 59])
    torch.testing.assert_close(model(codes, rows=rows), model(codes).flatten(0, 1)[rows], atol=1e-5, rtol=0)


def test_no_cells_asked(build: Build) -> None:
    model = build()
    codes = codes_for(model)
    assert model(codes, torch.zeros(3, 0, dtype=torch.int64)).shape == (3, 0, 11)
    assert model(codes, rows=torch.zeros(0, dtype=torch.int64)).shape == (0, 11)


@torch.no_grad()
def test_every_cell_hears_of_every_known_cell(model: AbsorbingTransformer) -> None:
    codes = codes_for(model, n=1)
    before = model(codes)
    codes[0, 0, 0] = (codes[0, 0, 0].clamp(min=0) + 1) % model.codebook_size
    assert ((model(codes) - before).abs().amax(-1) > 0).all()


@torch.no_grad()
def test_samples_of_a_batch_do_not_mix(model: AbsorbingTransformer) -> None:
    codes = codes_for(model, n=5)
    torch.testing.assert_close(model(codes)[3:4], model(codes[3:4]), atol=1e-5, rtol=0)


@torch.no_grad()
def test_smaller_windows_use_the_top_left_of_the_table(build: Build) -> None:
    model = build(position="learned")
    codes = codes_for(model)
    assert model(codes[:, :2, :3]).shape == (3, 6, 11)
    # Whole rows are also a flat prefix; anything narrower is not.
    torch.testing.assert_close(model(codes[:, :2]), model(codes.flatten(1)[:, :10]))
    table = model.position_embedding
    assert table is not None
    before = model(codes[:, :2, :3])
    table[:, [3, 4, 8, 9, *range(10, 20)]] = 99.0  # everything outside rows 0-1, columns 0-2
    torch.testing.assert_close(model(codes[:, :2, :3]), before)


@torch.no_grad()
def test_rotary_positions_see_only_differences(build: Build) -> None:
    model = build(position="rope", height=6, width=7)
    patch = codes_for(model, n=1)[:, :3, :4]
    # The same patch alone, and moved by (2, 3) as seen by a model whose phases start there.
    moved = build(position="rope", height=6, width=7)
    layout = moved._layout(patch.shape[1:])
    shifted = moved._make_layout((6, 7))
    at = (torch.arange(2, 5)[:, None] * 7 + torch.arange(3, 7)).flatten()
    assert layout.phases is not None
    assert shifted.phases is not None
    moved._layouts[(3, 4), moved.device] = layout._replace(phases=(shifted.phases[0][at], shifted.phases[1][at]))
    torch.testing.assert_close(moved(patch), model(patch), atol=2e-5, rtol=0)


@pytest.mark.parametrize("shape", [(1, 5, 5), (1, 4, 6), (1, 21)])
def test_codes_larger_than_the_window_are_refused(build: Build, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit the model's window"):
        build()(torch.zeros(shape, dtype=torch.int64))


def test_codes_outside_the_codebook_are_refused(build: Build) -> None:
    codes = torch.full((1, 4, 5), 12)
    with pytest.raises(IndexError):
        build()(codes)


@torch.no_grad()
def test_labels(build: Build) -> None:
    model = build(n_classes=2)
    codes = codes_for(model)
    unlabelled = model(codes)
    torch.testing.assert_close(model(codes, label=torch.tensor([-1, -1, -1])), unlabelled)
    labelled = model(codes, label=torch.tensor([0, 1, -1]))
    assert not torch.allclose(labelled[:2], unlabelled[:2])
    torch.testing.assert_close(labelled[2], unlabelled[2])
    with pytest.raises(ValueError, match="no classes"):
        build()(codes, label=torch.tensor([0, 0, 0]))


def test_the_callers_codes_are_not_written_to(build: Build) -> None:
    model = build()
    codes = codes_for(model)
    before = codes.clone()
    model(codes, torch.tensor([[0], [1], [2]]))
    assert torch.equal(codes, before)


def test_all_parameters_learn(model: AbsorbingTransformer) -> None:
    codes = codes_for(model)
    label = torch.tensor([0, 1, -1]) if model.config.n_classes else None
    model(codes, label=label).square().sum().backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_layouts_first_used_in_inference_mode_still_train(build: Build) -> None:
    model = build(position="rope")
    codes = codes_for(model)
    with torch.inference_mode():
        model(codes)
    model(codes).sum().backward()


def test_a_new_model_starts_as_the_identity() -> None:
    torch.manual_seed(0)
    model = AbsorbingTransformer(PriorConfig(codebook_size=11, height=4, width=5, d_model=32, n_heads=2))
    x = torch.randn(2, 20, 32)
    for block in model.blocks:
        assert torch.equal(block(x, model._layout(torch.Size((4, 5))).phases), x)


def test_unplaced_samples_do_not_see_the_table(build: Build) -> None:
    model = build(position_optional=True)
    codes = codes_for(model, n=1).expand(2, -1, -1)
    both = model(codes, placed=torch.tensor([True, False]))
    assert torch.allclose(both[0], model(codes)[0], atol=1e-6)
    with torch.no_grad():
        model.position_embedding.zero_()
    assert torch.allclose(both[1], model(codes)[1], atol=1e-6)
    assert not torch.allclose(both[0], both[1])


def test_paper_size() -> None:
    config = named_size("paper")
    assert (config.d_model, config.n_layers, config.n_heads, config.head_dim) == (512, 24, 8, 64)
    with torch.device("meta"):
        model = AbsorbingTransformer(config)
    # 24 blocks of 12 d^2 + 13 d, K + 1 and N embeddings, a head without bias, the last norm
    d = 512
    assert model.parameter_count == 24 * (12 * d * d + 13 * d) + (1025 + 256 + 1024) * d + 2 * d


def test_configuration_is_checked() -> None:
    with pytest.raises(ValueError, match="not a multiple of n_heads"):
        PriorConfig(d_model=100, n_heads=3)
    with pytest.raises(ValueError, match="divisible by 4"):
        PriorConfig(d_model=12, n_heads=2)
    with pytest.raises(ValueError, match="n_head"):
        PriorConfig(n_head=4)  # type: ignore[call-arg]
    with pytest.raises(KeyError, match="tiny, mini, small"):
        named_size("huge")
    config = named_size("small", codebook_size=512)
    assert PriorConfig.model_validate_json(config.model_dump_json()) == config

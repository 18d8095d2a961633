"""Recipes say what is wrong, where, and what was probably meant."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
import yaml

from smalti.errors import UsageError
from smalti.formats.blueprint import blueprint
from smalti.prior import AbsorbingTransformer
from smalti.tokenizer import VQGAN
from smalti.tokenizer.config import OFFICIAL
from smalti.training import Recipe, load_recipe, preset_names


@pytest.mark.parametrize("name", preset_names())
def test_presets_are_complete(name: str) -> None:
    recipe = load_recipe(name, ["data.path=somewhere", "tokenizer.losses.lpips_files=[vgg.pth, lpips.pth]"])
    recipe.check()
    tokenizer = recipe.tokenizer_config()
    prior = recipe.prior_config(tokenizer.codebook_size, tokenizer.cell)
    assert (prior.height * tokenizer.cell, prior.width * tokenizer.cell) == recipe.data.size
    networks = blueprint(lambda: VQGAN(tokenizer)), blueprint(lambda: AbsorbingTransformer(prior))
    assert all(sum(p.numel() for p in network.parameters()) > 1000 for network in networks)


@pytest.mark.parametrize("name", preset_names())
def test_presets_say_what_they_cost_and_reached(name: str) -> None:
    text = (resources.files("smalti.training") / "recipes" / f"{name}.yaml").read_text("utf-8")
    head = text[: text.index("\nname:")]
    assert all(line.startswith("#") for line in head.splitlines())
    assert f"smalti train {'my-pictures/' if name == 'tiny' else name}" in head
    for word in ("result", "time|cost"):
        assert re.search(word, head, re.IGNORECASE), f"{name} does not say its {word}"


def test_the_shipped_presets() -> None:
    papers = {"ffhq-256", "lsun-churches-256", "lsun-bedrooms-256"}
    assert {"tiny", "faces-128", "churches-128", "modern-256"} | papers <= set(preset_names())
    for name in papers:
        recipe = load_recipe(name, ["data.path=x"])
        prior = recipe.prior_config(1024, 16)
        assert (prior.d_model, prior.n_layers, prior.n_heads, prior.cells) == (512, 24, 8, 256)
        assert recipe.tokenizer_config() == OFFICIAL
        assert recipe.tokenizer.losses.legacy_beta
        no_data = load_recipe(name)
        assert no_data.data.path is None
        with pytest.raises(UsageError, match="the recipe has no data: download"):
            no_data.check()
        with pytest.raises(UsageError, match="a VGG-16 that you bring"):
            recipe.check()
        load_recipe(name, ["data.path=x", "stage=prior", "from_model=x"]).check()


def test_changes_reach_every_depth(tmp_path: Path) -> None:
    changes = [
        "prior.steps=7",
        "data.size=64",
        "tokenizer.learning_rate.peak=2e-4",
        "prior.budget_minutes=1.5",
        "name=x",
    ]
    recipe = load_recipe("tiny", changes)
    assert (recipe.prior.steps, recipe.prior.budget_minutes) == (7, 1.5)
    assert recipe.data.size == (64, 64)
    assert recipe.tokenizer.learning_rate.peak == 2e-4
    assert recipe.folder == Path("runs/x")


def test_a_resolved_recipe_reads_back_the_same(tmp_path: Path, recipe: Recipe) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("prior.stpes=7", "no field prior.stpes; did you mean prior.steps?"),
        ("piror.steps=7", "did you mean prior?"),
        ("prior.learning_rate.peek=1", "did you mean prior.learning_rate.peak?"),
        ("prior.steps=0", "prior.steps: Input should be greater than or equal to 1 (given: 0)"),
        ("prior.batch=many", "prior.batch"),
        ("stage=all", "stage: Input should be 'both', 'tokenizer', 'decoder' or 'prior' (given: all)"),
        ("prior.steps", "write it as field=value"),
        ("name.x=1", "name has no fields"),
        ("tokenizer.losses.l1=-1", "tokenizer.losses.l1"),
    ],
)
def test_wrong_changes(change: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("tiny", [change])
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("prior.size=smal", "did you mean small?"),
        ("prior.model.width=8", "width follows from data.size"),
        ("data.size=32by48", "height x width as 96x128"),
        ("tokenizer.losses={adversarial: 0.1, gan_start: 5000}", "the critic would never be heard"),
        ("prior={shard: true, optimizer: muon}", "Muon needs whole matrices"),
        ("tokenizer.size=lean", "vqgan_lean"),
        ("prior.model={d_modle: 8}", "did you mean d_model?"),
        ("prior.model={d_model: 10, n_heads: 3}", "not a multiple"),
        ("tokenizer.model={codebook_size: 1}", "codebook_size"),
        ("data.size=[60, 64]", "not a multiple"),
        ("sampler={order: spiral}", "spiral"),
        ("data.path=null", "--set data.path="),
    ],
)
def test_wrong_models_are_found_before_any_work(change: str, says: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_recipe("tiny", ["data.path=x", change]).check()
    assert says in str(caught.value)


def test_unknown_names_and_files(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean faces-128"):
        load_recipe("face-128")
    with pytest.raises(UsageError, match=r"absent\.yaml cannot be read"):
        load_recipe(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    for text, says in (("a: [", "not valid YAML"), ("- a", "no fields")):
        broken.write_text(text)
        with pytest.raises(UsageError, match=says):
            load_recipe(broken)


def test_every_field_says_what_it_is(recipe: Recipe) -> None:
    def visit(model: Any, where: str) -> None:
        for name, field in type(model).model_fields.items():
            assert field.description, f"{where}{name}"
            value = getattr(model, name)
            if hasattr(type(value), "model_fields"):
                visit(value, f"{where}{name}.")

    visit(recipe, "")

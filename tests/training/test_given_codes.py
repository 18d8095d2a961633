"""The prior stage on codes that exist already: the original's latents files, and .npy files of codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from formats.models import save
from smalti.errors import DataError, UsageError
from smalti.formats import import_checkpoint, load_model, read_latents, save_model
from smalti.training import Recipe, load_recipe, train
from smalti.training.given_codes import given_codes
from smalti.training.recipe import DataOptions

STAGE = {"steps": 3, "batch": 2, "precision": "float32", "size": "tiny", "samples": 0}


@pytest.fixture(scope="module")
def imported(originals: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The original's tokenizer as a model folder: 64 codes, 2 pixels per cell."""
    place = tmp_path_factory.mktemp("imported")
    model = import_checkpoint(originals / "unleashing" / "logs" / "vqgan_gumbel_tiny", licence="MIT")
    save_model(place / "model", model.tokenizer, None, info=model.info)
    return place / "model"


@pytest.fixture
def latents(originals: Path) -> Path:
    return originals / "unleashing" / "latents" / "churches_8_train_latents"


def recipe(imported: Path, run: Path, **data: Any) -> Recipe:
    prior = {**STAGE, "model": {"d_model": 16, "n_layers": 1, "n_heads": 1}}
    fields = {"stage": "prior", "from_model": str(imported), "run": str(run), "device": "cpu", "prior": prior}
    return Recipe.model_validate({**fields, "data": data})


def test_a_prior_for_imported_weights_from_their_latents(imported: Path, latents: Path, tmp_path: Path) -> None:
    folder = train(recipe(imported, tmp_path / "run", codes=str(latents), size=16))
    model = load_model(folder)
    assert model.identity == load_model(imported).identity
    assert model.prior is not None
    assert (model.prior.window, model.prior.codebook_size) == ((8, 8), 64)
    assert "1 validation pictures" in model.info["metrics"]["bits per token (bound)"]
    assert model.info["licence"] == "MIT"
    assert "unleashing-transformers" in model.info["source"]["layout"]


def test_the_same_codes_as_npy_train_the_same_prior(imported: Path, latents: Path, tmp_path: Path) -> None:
    codes = read_latents(latents, codebook_size=64).numpy()
    np.save(tmp_path / "codes.npy", codes.astype(np.uint16))
    np.save(tmp_path / "flat.npy", codes.reshape(4, 64))
    weights = []
    for name, path in {"a": latents, "b": tmp_path / "codes.npy", "c": tmp_path / "flat.npy"}.items():
        prior = load_model(train(recipe(imported, tmp_path / name, codes=str(path), size=16))).prior
        assert prior is not None
        weights.append(torch.cat([value.flatten() for value in prior.state_dict().values()]))
    assert torch.equal(weights[0], weights[1])
    assert torch.equal(weights[0], weights[2])


def test_validation_codes_come_from_their_own_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.arange(20 * 6).reshape(20, 2, 3) % 9)
    np.save(tmp_path / "b.npy", np.zeros((2, 2, 3), np.uint8))
    options = {"codes": str(tmp_path / "a.npy"), "size": (16, 24)}
    training, held = given_codes(DataOptions(**options, validation=str(tmp_path / "b.npy")), 9, 8)
    assert (training.shape, held.shape) == ((20, 2, 3), (2, 2, 3))
    training, held = given_codes(DataOptions(**options, validation_share=0.1), 9, 8)
    assert (training.shape, held.shape) == ((18, 2, 3), (2, 2, 3))
    both = {row.tobytes() for row in np.concatenate([training, held])}
    assert both == {row.tobytes() for row in np.load(tmp_path / "a.npy")}


def test_files_that_are_no_such_codes_are_explained(latents: Path, tmp_path: Path) -> None:
    def read(path: Path, size: int = 16, codebook_size: int = 64) -> None:
        given_codes(DataOptions(codes=str(path), size=(size, size)), codebook_size, 2)

    with pytest.raises(DataError, match="no file of codes at"):
        read(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"not 16x16: set data\.size"):
        read(latents, 32)
    with pytest.raises(DataError, match=r"holds the code \d+, outside 0\.\.8"):
        read(latents, codebook_size=9)
    with pytest.raises(UsageError, match=r"not 8x8: set data\.size"):
        read(save(torch.zeros(2, 4, 16, dtype=torch.int64), tmp_path / "oblong"))
    with pytest.raises(DataError, match="too few to hold some out"):
        read(save(torch.zeros(1, 64, dtype=torch.int64), tmp_path / "one"))
    path = tmp_path / "codes.npy"
    for array, told in [
        (np.zeros((3, 8, 8)), "holds float64 of shape"),
        (np.zeros((3, 8, 8, 3), np.uint8), "holds uint8 of shape"),
        (np.full((3, 8, 8), -1), r"holds the code -1, outside 0\.\.63"),
        (np.full((3, 8, 8), 64), r"holds the code 64, outside 0\.\.63"),
    ]:
        np.save(path, array)
        with pytest.raises(DataError, match=told):
            read(path)
    np.save(path, np.zeros((3, 4, 16), np.uint8))
    with pytest.raises(UsageError, match=r"holds 4x16 codes per picture, not 8x8: set data\.size"):
        read(path)
    path.write_bytes(path.read_bytes()[:90])
    with pytest.raises(DataError, match=r"codes\.npy is damaged"):
        read(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["stage=both"], "stage=prior"),
        (["data.path=x"], "not both"),
        (["data.flip=true"], "cannot be mirrored"),
    ],
)
def test_recipes_that_contradict_themselves(changes: list[str], told: str) -> None:
    fields = ["stage=prior", "data.path=null", "data.flip=false", "data.codes=x", *changes]
    with pytest.raises(UsageError, match=told):
        load_recipe("tiny", fields).check()

"""Codes and recipe travel with the picture, are believed only while they describe it, and cannot harm."""

from __future__ import annotations

import errno
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from smalti.codes import CodeGrid
from smalti.errors import ImageError, OutputError, UsageError
from smalti.images import open_image
from smalti.pipeline import recipe as recipes
from smalti.pipeline import requests as ask
from smalti.pipeline.recipe import MAX_CHARACTERS, Recipe, codes_of, embed, pixels_hash, read, save_image

K, MODEL = 512, "ab" * 32


def noise(width: int = 37, height: int = 21, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def grid_of(height: int = 3, width: int = 5) -> CodeGrid:
    return CodeGrid(torch.randint(0, K, (height, width), generator=torch.Generator().manual_seed(0)), K, MODEL)


def recipe_of(grid: CodeGrid | None = None, **changes: Any) -> Recipe:
    grid = grid or grid_of()
    filled = torch.rand(grid.shape, generator=torch.Generator().manual_seed(1)) < 0.5
    params = ask.Generate(seed=7).model_dump(mode="json")
    return recipes.make(params, **{"codes": grid, "filled": filled, "model": "builtin:faces", **changes})


@pytest.fixture
def made() -> Image.Image:
    return embed(noise(), recipe_of())


def saved(image: Image.Image, path: Path, **options: Any) -> Image.Image:
    save_image(image, path, **options)
    return open_image(path)


def test_codes_and_recipe_come_back_from_a_png(made: Image.Image, tmp_path: Path) -> None:
    image = saved(made, tmp_path / "a.png")
    assert image.tobytes() == noise().tobytes()
    assert codes_of(image, MODEL) == (grid_of(), "")
    recipe = read(image)
    assert recipe is not None
    assert recipe == recipe_of().model_copy(update={"pixels_sha256": pixels_hash(noise())})
    assert (recipe.verb, recipe.seed, recipe.model.name) == ("generate", 7, "builtin:faces")
    assert ask.request_adapter.validate_python(recipe.params) == ask.Generate(seed=7)
    assert torch.equal(recipe.filled_mask(), recipe_of().filled_mask())


def test_what_is_in_the_file(made: Image.Image, tmp_path: Path) -> None:
    save_image(made, tmp_path / "a.png")
    with Image.open(tmp_path / "a.png") as image:
        text = json.loads(image.info["smalti"])
        assert text["schema"] == 1
        assert text["grid"] == [3, 5]
        assert image.info["parameters"] == (
            "Steps: 24, Sampler: smalti bluenoise, Seed: 7, Size: 37x21, Model: builtin:faces"
        )


def test_sizes_of_recipes() -> None:
    for side, most in [(16, 2_000), (64, 13_000)]:
        assert len(embed(noise(), recipe_of(grid_of(side, side))).info["smalti"]) < most


def test_pillows_own_save_carries_the_recipe(made: Image.Image, tmp_path: Path) -> None:
    made.save(tmp_path / "a.png")
    buffer = io.BytesIO()
    made.save(buffer, "PNG")
    made.copy().save(tmp_path / "plain.png")  # Pillow's copy is Pillow's picture
    made.save(tmp_path / "none.png", pnginfo=None)
    made.save(tmp_path / "a.jpg")
    assert read(open_image(tmp_path / "a.png")) == read(open_image(buffer)) == read(made)
    for name in ("plain.png", "none.png", "a.jpg"):
        assert read(open_image(tmp_path / name)) is None


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg", "A.JPEG"])
def test_pictures_without_a_recipe_say_nothing(made: Image.Image, tmp_path: Path, name: str) -> None:
    image = saved(made, tmp_path / name, metadata=False)
    assert codes_of(image, MODEL) == (None, "")
    assert image.size == made.size
    if name.endswith(("png", "webp")):
        assert image.tobytes() == made.tobytes()


def one_pixel(image: Image.Image) -> Image.Image:
    image = image.copy()
    red, green, blue = image.getpixel((3, 2))  # type: ignore[misc]
    image.putpixel((3, 2), (red, green, blue ^ 1))
    return image


@pytest.mark.parametrize(
    "change",
    [
        lambda i: i.resize((40, 21)),
        lambda i: i.crop((0, 0, 36, 21)),
        lambda i: i.convert("L"),
        lambda i: i.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
        one_pixel,
    ],
)
def test_changed_pixels_are_encoded_again(made: Image.Image, change: Callable[[Image.Image], Image.Image]) -> None:
    image = change(made)
    image.info.update(made.info)  # what most of Pillow does by itself
    grid, why = codes_of(open_image(image), MODEL)
    assert grid is None
    assert why == "re-encoded: its pixels have changed since its codes were made"


@pytest.mark.parametrize("identity", ["cd" * 32, None])
def test_codes_of_another_model_are_not_used(made: Image.Image, identity: str | None) -> None:
    grid, why = codes_of(made, identity)
    assert grid is None
    assert why == "re-encoded: its codes belong to builtin:faces, another model"


def test_codes_of_an_unnamed_model_are_not_used() -> None:
    image = embed(noise(), recipe_of(CodeGrid(grid_of().codes, K, None)))
    assert codes_of(image, None)[0] is None


def test_the_hash_covers_the_shape() -> None:
    data = bytes(range(48))
    assert pixels_hash(Image.frombytes("RGB", (2, 8), data)) != pixels_hash(Image.frombytes("RGB", (4, 4), data))


def test_embed_leaves_its_argument_alone_and_forgets_an_older_recipe(made: Image.Image) -> None:
    plain = noise()
    embed(plain, recipe_of())
    assert "smalti" not in plain.info
    too_long = recipe_of(sources=[{"picture": "x" * MAX_CHARACTERS}])
    assert "smalti" not in embed(made, too_long).info


def test_a_recipe_too_long_for_a_png_is_left_out(tmp_path: Path) -> None:
    image = embed(noise(), recipe_of(sources=[{"picture": "x" * MAX_CHARACTERS}]))
    assert read(saved(image, tmp_path / "a.png")) is None


def test_names_that_utf8_cannot_hold(tmp_path: Path) -> None:
    strange = os.fsdecode(b"caf\xe9.png")  # a Latin-1 name on a UTF-8 system
    image = embed(noise(), recipe_of(sources=[{"picture": strange}], model=strange))
    assert codes_of(saved(image, tmp_path / "a.png"), MODEL)[0] == grid_of()


def forged(made: Image.Image, **changes: Any) -> Image.Image:
    """The picture with parts of its recipe replaced; `...` removes one."""
    fields = json.loads(made.info["smalti"]) | changes
    image = made.copy()
    image.info["smalti"] = json.dumps({k: v for k, v in fields.items() if v is not ...})
    return image


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"unknown": 1},
        {"codes": ...},
        {"codes": "not base64!"},
        {"codes": "AAAA"},
        {"codes": "ÿ"},
        {"filled": ""},
        {"filled": "A" * 400},
        {"codebook_size": 2},
        {"codebook_size": 10**9},
        {"grid": [5, 5]},
        {"grid": [-3, -5]},
        {"grid": [0, 0], "codes": "", "filled": ""},
        {"grid": [10**30, 1]},
        {"grid": "3x5"},
        {"seed": -1},
        {"seed": "NaN"},
        {"params": {}},
        {"params": []},
        {"params": {"sampler": None}},
        {"params": {"sampler": {"order": "\x1b[2Jowned"}}},
        {"model": "faces"},
        {"model": {"name": "\x1b]0;owned\x07", "sha256": MODEL}},
        {"model": {"name": "x" * 1000}},
        {"smalti_version": "1\n2"},
        {"verb": "generate\r"},
        {"sources": "a.png"},
    ],
    ids=str,
)
def test_forged_recipes_are_as_good_as_none(made: Image.Image, changes: dict[str, Any]) -> None:
    image = forged(made, **changes)
    assert read(image) is None
    assert codes_of(image, MODEL) == (None, "")


@pytest.mark.parametrize(
    "text", ["", "{", "null", "[]", "1e999", "NaN", '"text"', "[" * 10_000, '{"a":' * 10_000, "\ud800", "x" * 2_000_000]
)
def test_foreign_text_is_as_good_as_none(text: str) -> None:
    image = noise()
    image.info["smalti"] = text
    assert read(image) is None
    image.info["smalti"] = text.encode("utf-8", "replace")
    assert read(image) is None


def test_every_cut_of_a_recipe_is_as_good_as_none(made: Image.Image) -> None:
    text = made.info["smalti"]
    for end in range(0, len(text), 7):
        made.info["smalti"] = text[:end]
        assert read(made) is None


def test_a_text_bomb_in_a_png_is_one_line(tmp_path: Path) -> None:
    info = PngInfo()
    info.add_itxt("smalti", "x" * 50_000_000, zip=True)
    noise().save(tmp_path / "bomb.png", pnginfo=info)
    assert (tmp_path / "bomb.png").stat().st_size < 100_000
    try:
        assert read(open_image(tmp_path / "bomb.png")) is None
    except ImageError as error:
        assert "\n" not in str(error)  # noqa: PT017  which of the two depends on Pillow's version


def test_a_suffix_that_is_no_picture(made: Image.Image, tmp_path: Path) -> None:
    for name in ("a.txt", "a", "a.gif"):
        with pytest.raises(UsageError, match=r"ends in \.png, \.webp"):
            save_image(made, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_an_existing_picture_is_kept_unless_forced(made: Image.Image, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_image(made, path)
    with pytest.raises(OutputError, match="exists already"):
        save_image(noise(seed=1), path)
    assert open_image(path).tobytes() == made.tobytes()
    save_image(noise(seed=1), path, force=True)
    assert open_image(path).tobytes() == noise(seed=1).tobytes()


def test_a_full_disk_leaves_nothing(made: Image.Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("smalti.files.os.fsync", full)
    with pytest.raises(OutputError, match=r"a\.png: the disk is full"):
        save_image(made, tmp_path / "a.png")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "width"), [("a.webp", 16_384), ("a.jpg", 65_536)])
def test_a_picture_too_large_for_its_format(tmp_path: Path, name: str, width: int) -> None:
    with pytest.raises(OutputError, match=rf"{name}: a {width}x1 picture does not fit .*use \.png"):
        save_image(Image.new("RGB", (width, 1)), tmp_path / name)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.jpg"])
def test_the_colour_profile_is_saved(tmp_path: Path, name: str) -> None:
    image = noise()
    profile = bytes(16) + b"RGB " + bytes(108)
    image.info["icc_profile"] = profile
    assert saved(image, tmp_path / name).info["icc_profile"] == profile

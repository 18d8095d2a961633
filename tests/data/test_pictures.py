"""Pictures from anywhere become one array; broken ones are named and left out; nothing is ever stale."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from smalti.data import Pictures, cached_codes, load_pictures, open_source, split, tokenizer_hash
from smalti.data.transforms import cut_away, fit, random_cut
from smalti.errors import DataError
from smalti.tokenizer import VQGAN, LeanArchitecture, TokenizerConfig


def picture(seed: int, width: int = 20, height: int = 16) -> Image.Image:
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "pictures"
    (place / "sub").mkdir(parents=True)
    (place / ".hidden").mkdir()
    for name in ("b.png", "a.png", "sub/c.png", ".hidden/d.png", ".e.png"):
        picture(ord(name[-5]), 16, 16).save(place / name)
    (place / "notes.txt").write_text("not a picture")
    return place


@pytest.fixture
def small() -> VQGAN:
    torch.manual_seed(0)
    sizes = {"encoder_channels": (8,), "encoder_blocks": (1,), "decoder_channels": (8,), "decoder_blocks": (1,)}
    return VQGAN(TokenizerConfig(architecture=LeanArchitecture(**sizes), codebook_size=16, code_dim=4)).eval()


def test_folder_zip_and_array_hold_the_same_pictures(folder: Path, tmp_path: Path) -> None:
    archive, array = tmp_path / "p.zip", tmp_path / "p.npy"
    with zipfile.ZipFile(archive, "w") as file:
        for name in ("a.png", "b.png", "sub/c.png"):
            file.write(folder / name, name)
        file.writestr("__MACOSX/a.png", b"junk")
    np.save(array, np.stack([np.asarray(Image.open(folder / name)) for name in ("a.png", "b.png", "sub/c.png")]))
    assert list(open_source(folder).names) == list(open_source(archive).names) == ["a.png", "b.png", "sub/c.png"]
    loaded = [load_pictures(path, (16, 16), tmp_path / "cache") for path in (folder, archive, array)]
    batches = [p.batch(np.array([2, 0, 1])) for p in loaded]
    assert batches[0].shape == (3, 16, 16, 3)
    assert all(np.array_equal(batches[0], other) for other in batches[1:])
    assert len({p.fingerprint for p in loaded}) == 3


def test_the_cache_is_used_until_a_picture_changes(folder: Path, tmp_path: Path) -> None:
    said: list[str] = []
    cache = tmp_path / "cache"
    first = load_pictures(folder, (8, 8), cache, message=said.append)
    again = load_pictures(folder, (8, 8), cache, message=said.append)
    assert len(said) == 1
    assert first.fingerprint == again.fingerprint
    picture(99, 16, 16).save(folder / "a.png")
    changed = load_pictures(folder, (8, 8), cache, message=said.append)
    assert len(said) == 2
    assert changed.fingerprint != first.fingerprint
    assert not np.array_equal(changed.batch(np.array([0])), first.batch(np.array([0])))
    assert load_pictures(folder, (8, 12), cache).size == (8, 12)


def test_an_unfinished_cache_is_made_again(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    load_pictures(folder, (8, 8), cache)
    next(cache.glob("*.json")).unlink()
    next(cache.glob("*.npy")).write_bytes(b"half")
    assert len(load_pictures(folder, (8, 8), cache)) == 3


def test_broken_and_small_pictures_are_told(folder: Path, tmp_path: Path) -> None:
    (folder / "b.png").write_bytes((folder / "b.png").read_bytes()[:60])
    said: list[str] = []
    loaded = load_pictures(folder, (32, 32), tmp_path / "cache", message=said.append)
    assert len(loaded) == 2
    assert any("left out" in text and "b.png" in text for text in said)
    assert any("2 of 2 pictures are smaller than 32x32" in text for text in said)


def test_what_holds_no_pictures(folder: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    junk = tmp_path / "junk.zip"
    junk.write_bytes(b"no zip")
    wrong = tmp_path / "wrong.npy"
    np.save(wrong, np.zeros((3, 4), np.float32))
    text = tmp_path / "a.txt"
    text.write_text("")
    cases = [(empty, "no pictures"), (junk, "zip"), (wrong, "uint8"), (text, "neither"), (tmp_path / "no", "no data")]
    for path, says in cases:
        with pytest.raises(DataError, match=says):
            open_source(path)
    for file in ("a.png", "b.png", "sub/c.png"):
        (folder / file).write_bytes(b"x")
    with pytest.raises(DataError, match="none of the 3"):
        load_pictures(folder, (8, 8), tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*"))


def test_fit_covers_and_cuts_the_middle() -> None:
    wide = Image.new("RGB", (40, 10), (255, 0, 0))
    wide.paste((0, 0, 255), (15, 0, 25, 10))
    cut = fit(wide, 20, 20)
    assert cut.shape == (20, 20, 3)
    assert (cut[10, 10] == (0, 0, 255)).all()
    same = picture(1, 16, 16)
    assert np.array_equal(fit(same, 16, 16), np.asarray(same))


def test_fit_is_antialiased() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(int(fit(Image.fromarray(stripes), 16, 16)[8, 8, 0]) - 127) < 8


def test_random_cuts_are_parts_of_the_picture_and_antialiased() -> None:
    ramp = np.zeros((40, 80, 3), np.uint8)
    ramp[..., 0], ramp[..., 1] = np.arange(80) * 3, np.arange(40)[:, None] * 6
    image = Image.fromarray(ramp)
    assert np.array_equal(random_cut(image, 40, 20, 1.0, (0.9, 0.5, 0.9)), ramp[:, 30:50])
    part = random_cut(image, 20, 20, 4.0, (0.5, 0.99, 0.0)).astype(int)  # sqrt(4) times: 20x20 of the picture
    assert abs(part[10, :, 0].mean() - 3 * (60 * 0.99 + 9.5)) < 2
    assert abs(part[:, 10, 1].mean() - 6 * 9.5) < 2
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert abs(int(random_cut(Image.fromarray(stripes), 16, 16, 1.0, (0, 0, 0))[8, 8, 0]) - 127) < 8


def test_what_is_cut_away() -> None:
    assert cut_away((10, 40), 20, 20) == pytest.approx(0.75)
    assert cut_away((40, 30), 20, 10) == pytest.approx(1 / 3)
    assert cut_away((7, 7), 20, 20) == 0


def test_cuts_of_a_picture_stay_together(folder: Path, tmp_path: Path) -> None:
    middle = load_pictures(folder, (8, 4), tmp_path / "cache")
    several = load_pictures(folder, (8, 4), tmp_path / "cache", cuts=3, zoom=1.5)
    again = load_pictures(folder, (8, 4), tmp_path / "other", cuts=3, zoom=1.5)
    everything = several.batch(np.arange(9))
    assert np.array_equal(everything, again.batch(np.arange(9)))
    assert np.array_equal(everything[::3], middle.batch(np.arange(3)))
    assert len({row.tobytes() for row in everything}) == 9
    assert several.fingerprint != middle.fingerprint
    training, validation = split(several, 0.3)
    assert (len(training), len(validation)) == (6, 1)
    held = int(validation.chosen[0])
    assert held % 3 == 0
    assert sorted([*training.chosen, held, held + 1, held + 2]) == list(range(9))


def test_split_is_disjoint_complete_and_stable() -> None:
    pixels = np.arange(50 * 3, dtype=np.uint8).reshape(50, 1, 1, 3)
    everything = Pictures(pixels, np.arange(50), "x")
    training, validation = split(everything, 0.1)
    assert (len(training), len(validation)) == (45, 5)
    assert sorted([*training.chosen, *validation.chosen]) == list(range(50))
    assert np.array_equal(split(everything, 0.1)[1].chosen, validation.chosen)
    assert len({everything.fingerprint, training.fingerprint, validation.fingerprint}) == 3
    with pytest.raises(DataError, match="1 picture"):
        split(Pictures(pixels, np.arange(1), "x"), 0.5)


# --- codes ------------------------------------------------------------------------------------------------------------


def set_of(count: int, fingerprint: str = "x") -> Pictures:
    rng = np.random.default_rng(0)
    return Pictures(rng.integers(0, 256, (count, 6, 8, 3), dtype=np.uint8), np.arange(count), fingerprint)


def test_codes_are_those_of_the_tokenizer_and_are_made_once(small: VQGAN, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []

    def note(done: int, total: int) -> None:
        calls.append((done, total))

    codes = cached_codes(set_of(5), small, tmp_path, batch=2, report=note)
    assert (codes.dtype, codes.shape) == (np.uint16, (5, 3, 4))
    images = torch.from_numpy(set_of(5).batch(np.arange(5))).permute(0, 3, 1, 2).float() / 127.5 - 1
    assert np.array_equal(codes, small.encode(images).numpy())
    assert calls == [(2, 5), (4, 5), (5, 5)]
    again = cached_codes(set_of(5), small, tmp_path, batch=2, report=note)
    assert np.array_equal(again, codes)
    assert len(calls) == 3


def test_another_tokenizer_or_another_set_is_another_file(small: VQGAN, tmp_path: Path) -> None:
    cached_codes(set_of(3), small, tmp_path)
    cached_codes(set_of(3, "y"), small, tmp_path)
    cached_codes(set_of(3), small, tmp_path, flip=True)
    assert len(list(tmp_path.glob("codes-*.npy"))) == 3
    before = tokenizer_hash(small)
    with torch.no_grad():
        next(small.parameters()).view(-1)[0] += 1e-3
    assert tokenizer_hash(small) != before
    cached_codes(set_of(3), small, tmp_path)
    assert len(list(tmp_path.glob("codes-*.npy"))) == 4


def test_flipped_views_follow_the_plain_ones(small: VQGAN, tmp_path: Path) -> None:
    pictures = set_of(3)
    codes = cached_codes(pictures, small, tmp_path, flip=True)
    mirrored = Pictures(pictures.pixels[:, :, ::-1], np.arange(3), "mirrored")
    assert np.array_equal(codes[:3], cached_codes(pictures, small, tmp_path))
    assert np.array_equal(codes[3:], cached_codes(mirrored, small, tmp_path))

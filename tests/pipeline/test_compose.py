"""The three rules of pasting, and the laws of the smooth continuation behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from smalti.errors import UsageError
from smalti.images import to_tensor
from smalti.pipeline.compose import inside_distance, membrane, paste, prefill

Bytes = npt.NDArray[np.uint8]


def noise(height: int, width: int, seed: int = 0) -> Bytes:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def flat(height: int, width: int, colour: tuple[int, int, int]) -> Bytes:
    return np.full((height, width, 3), colour, dtype=np.uint8)


def pasted(original: Bytes, decoded: Bytes, mask: torch.Tensor, **options: Any) -> Bytes:
    out = paste(Image.fromarray(original), Image.fromarray(decoded), mask, **options)
    assert out.mode == "RGB"
    return np.asarray(out)


def rectangle(height: int, width: int, row0: int, row1: int, col0: int, col1: int) -> torch.Tensor:
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[row0:row1, col0:col1] = True
    return mask


@st.composite
def masks(draw: st.DrawFn) -> torch.Tensor:
    """Random masks of odd and even sizes, from empty and one pixel to all but one and full."""
    height, width = draw(st.integers(1, 45)), draw(st.integers(1, 45))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    kind = draw(st.sampled_from(["empty", "one", "some", "blob", "all but one", "full"]))
    mask = torch.rand(height, width, generator=generator) < 0.4
    one = torch.zeros(height * width, dtype=torch.bool)
    one[draw(st.integers(0, height * width - 1))] = True
    blob = rectangle(height, width, height // 3, height, 0, width // 2 + 1)
    return {
        "empty": torch.zeros_like(mask),
        "one": one.view(height, width),
        "some": mask,
        "blob": blob,
        "all but one": ~one.view(height, width),
        "full": torch.ones_like(mask),
    }[kind]


@given(masks(), st.sampled_from([0, 1, 8, 64]), st.booleans())
def test_kept_pixels_are_the_originals_bytes(mask: torch.Tensor, feather: int, correct: bool) -> None:
    original, decoded = noise(*mask.shape, seed=1), noise(*mask.shape, seed=2)
    out = pasted(original, decoded, mask, feather=feather, correct=correct)
    assert np.array_equal(out[~mask.numpy()], original[~mask.numpy()])
    if mask.all():
        assert np.array_equal(out, decoded)


@given(masks(), st.sampled_from([0, 8]), st.booleans())
def test_remade_pixels_never_see_what_they_replace(mask: torch.Tensor, feather: int, correct: bool) -> None:
    original, decoded = noise(*mask.shape, seed=1), noise(*mask.shape, seed=2)
    other = original.copy()
    other[mask.numpy()] = noise(*mask.shape, seed=3)[mask.numpy()]
    options = {"feather": feather, "correct": correct}
    assert np.array_equal(pasted(original, decoded, mask, **options), pasted(other, decoded, mask, **options))


@given(masks())
def test_a_decoder_that_gives_the_surroundings_back_is_taken_as_it_is(mask: torch.Tensor) -> None:
    original, decoded = noise(*mask.shape, seed=1), noise(*mask.shape, seed=2)
    decoded[~mask.numpy()] = original[~mask.numpy()]
    assert np.array_equal(pasted(original, decoded, mask), decoded)


def test_without_feather_and_correction_it_is_a_plain_paste() -> None:
    original, decoded = noise(20, 31, 1), noise(20, 31, 2)
    mask = rectangle(20, 31, 3, 11, 5, 31)
    out = pasted(original, decoded, mask, feather=0, correct=False)
    assert np.array_equal(out, np.where(mask.numpy()[..., None], decoded, original))


@pytest.mark.parametrize("place", [(20, 44, 20, 44), (0, 64, 30, 64), (0, 10, 0, 64), (63, 64, 63, 64), (1, 63, 1, 63)])
@pytest.mark.parametrize("feather", [0, 8])
def test_a_colour_offset_of_the_decoder_is_removed(place: tuple[int, int, int, int], feather: int) -> None:
    """The truth is a gradient; the decoder knows it, but gives every colour wrongly by a constant."""
    rows, cols = np.meshgrid(np.arange(64), np.arange(64), indexing="ij")
    truth = np.stack([rows + 60, cols + 60, 180 - rows], -1).astype(np.uint8)
    decoded = (truth.astype(int) + np.array([12, -9, 5])).astype(np.uint8)
    out = pasted(truth, decoded, rectangle(64, 64, *place), feather=feather)
    assert np.abs(out.astype(int) - truth).max() <= 1


def test_without_correction_the_decoders_colours_hold_beyond_the_feather() -> None:
    original, decoded = flat(64, 64, (100, 100, 100)), flat(64, 64, (112, 91, 105))
    out = pasted(original, decoded, rectangle(64, 64, 0, 64, 32, 64), feather=8, correct=False).astype(int)
    assert np.array_equal(out[:, 41:], decoded[:, 41:])
    red = out[30, 31:42, 0]
    assert np.all(np.diff(red) >= 0)  # it fades in
    assert red[1] <= 101
    assert np.abs(np.diff(red)).max() <= 3


def test_content_that_disagrees_at_the_border_does_not_wash_out_the_area() -> None:
    """A mask that cuts a cell sees new content on the kept side; only a colour's worth of it may spread."""
    original, decoded = flat(96, 96, (250, 250, 250)), flat(96, 96, (20, 40, 160))
    out = pasted(original, decoded, rectangle(96, 96, 24, 72, 24, 72), feather=8).astype(int)
    middle = out[40:56, 40:56]
    assert (middle - [20, 40, 160]).max() <= 41


def test_a_thin_area_shows_the_new_content() -> None:
    original, decoded = flat(32, 32, (200, 200, 200)), flat(32, 32, (200, 200, 200))
    decoded[15, :] = (0, 0, 0)
    out = pasted(original, decoded, rectangle(32, 32, 15, 16, 0, 32))
    assert np.array_equal(out[15], decoded[15])


def test_tensors_are_taken_too_and_arguments_are_left_alone() -> None:
    original, decoded = Image.fromarray(noise(19, 23, 1)), Image.fromarray(noise(19, 23, 2))
    mask = rectangle(19, 23, 4, 15, 3, 9)
    before = original.tobytes(), decoded.tobytes(), mask.clone()
    tensor = to_tensor(decoded)
    kept_tensor = tensor.clone()
    assert paste(original, tensor, mask).tobytes() == paste(original, decoded, mask).tobytes()
    assert (original.tobytes(), decoded.tobytes()) == before[:2]
    assert torch.equal(mask, before[2])
    assert torch.equal(tensor, kept_tensor)


def test_only_the_colour_profile_travels() -> None:
    original = Image.fromarray(noise(9, 9))
    original.info.update(icc_profile=b"a profile", smalti="the recipe of another picture")
    out = paste(original, original, rectangle(9, 9, 0, 4, 0, 4))
    assert out.info == {"icc_profile": b"a profile"}


def test_sizes_must_agree() -> None:
    picture, small = Image.new("RGB", (20, 10)), Image.new("RGB", (19, 10))
    with pytest.raises(UsageError, match="mask"):
        paste(picture, picture, torch.ones(20, 10, dtype=torch.bool))
    with pytest.raises(UsageError, match="decoded"):
        paste(picture, small, torch.ones(10, 20, dtype=torch.bool))
    with pytest.raises(UsageError, match="mask"):
        prefill(torch.zeros(1, 3, 10, 20), torch.ones(10, 19, dtype=torch.bool))


@given(masks(), st.integers(0, 12))
def test_distance_to_the_border(mask: torch.Tensor, limit: int) -> None:
    kept = np.argwhere(~mask.numpy())
    places = np.argwhere(np.ones(mask.shape))
    exact = np.full(len(places), np.inf)
    if len(kept):
        exact = np.sqrt(((places[:, None] - kept[None]) ** 2).sum(-1).min(1))
    expected = np.minimum(exact, limit + 1).reshape(mask.shape)
    assert np.allclose(inside_distance(mask, limit), expected, atol=1e-6)


@given(masks())
def test_prefill_changes_only_the_hidden_and_does_not_look_at_it(mask: torch.Tensor) -> None:
    images = torch.rand(2, 3, *mask.shape, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = images.clone()
    filled = prefill(images, mask)
    assert torch.equal(images, before)
    assert torch.equal(filled[..., ~mask], images[..., ~mask])
    other = images.masked_fill(mask, torch.nan)
    assert torch.equal(prefill(other, mask), filled)
    assert torch.equal(prefill(images[1:], mask)[0], filled[1])
    for image, result in zip(images, filled, strict=True):
        for channel, values in zip(image, result, strict=True):
            if mask.all():
                assert not values.any()
            else:  # a mean of kept colours is never outside them
                assert values.min() >= channel[~mask].min() - 1e-5
                assert values.max() <= channel[~mask].max() + 1e-5


def test_prefill_of_a_hole_in_a_gradient_continues_it() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    filled = prefill(ramp, rectangle(64, 64, 20, 44, 20, 44))
    assert (filled - ramp).abs().max() < 0.03


@given(masks())
def test_the_membrane_keeps_known_values_and_their_range(mask: torch.Tensor) -> None:
    values = torch.rand(2, *mask.shape, generator=torch.Generator().manual_seed(0))
    smooth = membrane(values, ~mask)
    assert torch.equal(smooth[:, ~mask], values[:, ~mask])
    if mask.all():
        assert not smooth.any()
    else:
        assert smooth.min() >= values[:, ~mask].min() - 1e-5
        assert smooth.max() <= values[:, ~mask].max() + 1e-5
        constant = membrane(torch.full_like(values, 0.37), ~mask)
        assert torch.allclose(constant, torch.full_like(values, 0.37), atol=1e-5)


def test_the_membrane_solves_laplaces_equation_roughly() -> None:
    """x^2 - y^2 is harmonic: known on a frame, it is found again inside, and best near the frame, where one looks."""
    axis = torch.linspace(-1, 1, 65)
    harmonic = axis[None, :] ** 2 - axis[:, None] ** 2
    error = (membrane(harmonic[None], ~rectangle(65, 65, 1, 64, 1, 64))[0] - harmonic).abs()
    assert error.mean() < 0.07
    assert error.max() < 0.14
    assert torch.cat([error[1], error[:, 1], error[63], error[:, 63]]).max() < 0.05

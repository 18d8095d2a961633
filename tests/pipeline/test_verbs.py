"""Every verb keeps what it must keep: codes and pixels, at any size, however often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.tiny import tiny_pipeline
from smalti import CodeGrid, Piece, Pipeline, Region
from smalti.errors import OutputError, UsageError
from smalti.pipeline import recipe as recipes
from smalti.regions import cells_of_pixels
from smalti.types import EMPTY

Make = Callable[..., Image.Image]


def same_outside(before: Image.Image, after: Image.Image, remade: torch.Tensor) -> bool:
    kept = ~remade.numpy()
    return bool((np.asarray(before)[kept] == np.asarray(after)[kept]).all())


@pytest.mark.parametrize(("width", "height"), [(64, 64), (61, 45), (8, 8), (150, 70), (17, 9)])
def test_inpaint_gives_kept_pixels_back_at_any_size(pipe: Pipeline, picture: Make, width: int, height: int) -> None:
    image = picture(width, height)
    region = Region.parse(f"px:1:{min(5, height)},2:{min(7, width)}")
    output = pipe.inpaint(image, region, num_images=2)
    remade = region.to_pixels(height, width, 8)
    for result in output.images:
        assert result.size == image.size
        assert same_outside(image, result, remade)


def test_twenty_edits_leave_what_was_never_selected_alone(pipe: Pipeline, picture: Make, tmp_path: Path) -> None:
    image: Image.Image = picture(61, 45)
    path = tmp_path / "edit.png"
    rng = np.random.default_rng(3)
    touched = torch.zeros(45, 61, dtype=torch.bool)
    recipes.save_image(image, path)
    for i in range(20):
        row, col = int(rng.integers(0, 40)), int(rng.integers(0, 30))
        region = Region.parse(f"px:{row}:{row + 5},{col}:{col + 9}")
        touched |= region.to_pixels(45, 61, 8)
        recipes.save_image(pipe.inpaint(path, region, seed=i).images[0], path, force=True)
    with Image.open(path) as final:
        assert same_outside(image, final.convert("RGB"), touched)


@given(st.integers(9, 70), st.integers(9, 70), st.data())
def test_keep_keeps_pixels_and_whole_cells(width: int, height: int, data: st.DataObject) -> None:
    pipe, image = _shared(), _noise(width, height)
    row = data.draw(st.integers(0, (height - 9) // 8))
    col = data.draw(st.integers(0, (width - 9) // 8))
    region = Region.box(row, row + 1, col, col + 1)
    output = pipe.keep(image, region)
    kept = region.to_pixels(height, width, 8)
    assert same_outside(image, output.images[0], ~kept)
    remade = cells_of_pixels(~kept, 8)
    recipe = recipes.read(output.images[0])
    assert recipe is not None
    assert torch.equal(recipe.filled_mask(), remade)


def _shared(cache: list[Pipeline] = []) -> Pipeline:  # noqa: B006  hypothesis and fixtures do not mix
    if not cache:
        cache.append(tiny_pipeline())
    return cache[0]


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8), "RGB")


def test_extend_holds_the_picture_and_has_the_size(pipe: Pipeline, picture: Make) -> None:
    image = picture(61, 45)
    wide = pipe.extend(image, left=2, right=3, top=1).images[0]
    assert wide.size == (61 + 5 * 8, 45 + 8)
    assert np.array_equal(np.asarray(wide)[8:, 16 : 16 + 61], np.asarray(image))


def test_extend_seam_remakes_the_edge_that_grows_only(pipe: Pipeline, picture: Make) -> None:
    image = picture(64, 64)
    wide = np.asarray(pipe.extend(image, right=2, seam=1).images[0])
    assert np.array_equal(wide[:, :56], np.asarray(image)[:, :56])
    assert not np.array_equal(wide[:, 56:64], np.asarray(image)[:, 56:64])


def test_stitched_cells_equal_their_sources(pipe: Pipeline, picture: Make) -> None:
    a, b = pipe.encode(picture(seed=1)), pipe.encode(picture(seed=2))
    pieces = [Piece(a, Region["1:3,1:6"]), Piece(b, Region["4:6,2:5"], to=(5, 3))]
    for codes in pipe.stitch(pieces, num_images=3).codes:
        assert torch.equal(codes[1:3, 1:6], a.codes[1:3, 1:6])
        assert torch.equal(codes[5:7, 3:6], b.codes[4:6, 2:5])


def test_stitch_seam_remakes_the_rim_of_pieces(pipe: Pipeline, picture: Make) -> None:
    a = pipe.encode(picture(seed=1))
    output = pipe.stitch([Piece(a, Region["1:6,1:6"])], seam=1)
    recipe = recipes.read(output.images[0])
    assert recipe is not None
    given_cells = ~recipe.filled_mask()
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[2:5, 2:5] = True
    assert torch.equal(given_cells, expected)


def test_the_rim_of_a_piece_is_where_it_lies_not_where_it_came_from(pipe: Pipeline, picture: Make) -> None:
    a = pipe.encode(picture(seed=1))
    moved = pipe.stitch([Piece(a, Region["0:3,0:3"], to=(3, 3))], seam=1)  # from a corner to the middle
    edge = pipe.stitch([Piece(a, Region["3:6,3:6"], to=(0, 0))], seam=1)  # and back: its outer sides join nothing
    for output, kept in ((moved, (slice(4, 5), slice(4, 5))), (edge, (slice(0, 2), slice(0, 2)))):
        expected = torch.zeros(8, 8, dtype=torch.bool)
        expected[kept] = True
        assert torch.equal(~recipes.read(output.images[0]).filled_mask(), expected)  # type: ignore[union-attr]


@pytest.mark.parametrize(("width", "height"), [(64, 64), (61, 45)])
def test_stitch_gives_pixels_back_if_asked(pipe: Pipeline, picture: Make, width: int, height: int) -> None:
    a, b = picture(width, height, seed=1), picture(width, height, seed=2)
    pieces = [Piece(a, Region["0:3,1:6"]), Piece(b, Region["2:5,2:5"], to=(3, 0))]
    made = np.asarray(pipe.stitch(pieces, paste_original=True).images[0])
    assert np.array_equal(made[:24, 8:48], np.asarray(a)[:24, 8:48])
    assert np.array_equal(made[24:48, :24], np.asarray(b)[16:40, 16:40])
    plain = np.asarray(pipe.stitch(pieces).images[0])
    assert not np.array_equal(plain[:24, 8:48], made[:24, 8:48])


def test_masks_from_python(pipe: Pipeline, picture: Make) -> None:
    image, white = picture(), Image.new("L", (64, 64))
    white.paste(255, (8, 16, 24, 40))  # rows 2-4, columns 1-2 of cells
    array = np.asarray(white)
    expected = pipe.inpaint(image, Region["2:5,1:3"]).images[0].tobytes()
    for mask in (white, array, torch.from_numpy(array.copy()) > 0):
        assert pipe.inpaint(image, mask).images[0].tobytes() == expected
    pieces = [Piece(image, mask) for mask in ("2:5,1:3", white)]
    assert torch.equal(pipe.stitch(pieces[:1]).codes, pipe.stitch(pieces[1:]).codes)


def test_variations_change_at_most_the_share_each_its_own(pipe: Pipeline, picture: Make) -> None:
    grid = pipe.encode(picture())
    output = pipe.variations(grid, 0.25, num_images=4)
    masks = [recipes.read(image).filled_mask() for image in output.images]  # type: ignore[union-attr]
    assert all(int(mask.sum()) == 16 for mask in masks)
    assert len({tuple(mask.flatten().tolist()) for mask in masks}) == 4
    for codes, mask in zip(output.codes, masks, strict=True):
        assert torch.equal(codes[~mask], grid.codes[~mask])


def test_heal_empties_the_most_surprising_cells(pipe: Pipeline, picture: Make) -> None:
    grid = pipe.encode(picture())
    surprise = pipe.score(grid).surprise
    mask = recipes.read(pipe.heal(grid, 0.125).images[0]).filled_mask()  # type: ignore[union-attr]
    assert int(mask.sum()) == 8
    assert surprise[mask].min() >= surprise[~mask].max()


@pytest.mark.parametrize("height", [3, 8, 20])
def test_generate_any_size(pipe: Pipeline, height: int) -> None:
    output = pipe.generate(height=height, width=11)
    assert output.codes.shape == (1, height, 11)
    assert output.images[0].size == (88, 8 * height)


def test_result_i_is_what_seed_plus_i_gives_alone(pipe: Pipeline, picture: Make) -> None:
    image = picture()
    for many, alone in [
        (pipe.generate(num_images=11, seed=5), pipe.generate(seed=14)),
        (pipe.variations(image, num_images=11, seed=5), pipe.variations(image, seed=14)),
    ]:
        assert torch.equal(many.codes[9], alone.codes[0])
        assert many.images[9].tobytes() == alone.images[0].tobytes()


def test_replay_makes_every_verb_again(pipe: Pipeline, picture: Make, tmp_path: Path) -> None:
    image = picture(61, 45)
    a = pipe.encode(picture())
    outputs = [
        pipe.generate(seed=3, width=12),
        pipe.keep(image, "0:2,0:2", temperature=0.7),
        pipe.inpaint(image, "px:3:9,3:9", order="confidence"),
        pipe.extend(image, left=1),
        pipe.stitch([Piece(a, Region["0:4,0:4"])], order="ancestral"),
        pipe.stitch([Piece(picture(seed=5), Region["1:4,1:4"], to=(3, 3))], seam=1, paste_original=True),
        pipe.extend(image, bottom=2, right=1, seam=1),
        pipe.inpaint(image, "1:2,1:2", grow=1, feather=3, paste_original=False),
        pipe.variations(image, 0.5, seed=9),
        pipe.heal(image, 0.2),
        pipe(a.masked(torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) < 0.5)),
    ]
    for i, output in enumerate(outputs):
        path = tmp_path / f"{i}.png"
        output.images[0].save(path)
        again, different = pipe.check_replay(path)
        assert different == 0, output.params["kind"]
        assert again.images[0].tobytes() == output.images[0].tobytes(), output.params["kind"]


def test_replay_of_a_changed_picture_is_what_it_was(pipe: Pipeline, picture: Make, tmp_path: Path) -> None:
    output = pipe.inpaint(picture(), "2:5,2:5")
    spoilt = output.images[0].copy()
    spoilt.paste((0, 0, 0), (0, 0, 64, 10))
    again, different = pipe.check_replay(spoilt)
    assert different == 0
    decoded = pipe.decode(again.codes)[0]
    assert again.images[0].tobytes() == decoded.tobytes()  # none of the changed pixels


def test_codes_survive_a_file_but_not_a_change(pipe: Pipeline, tmp_path: Path) -> None:
    made = pipe.generate(seed=1)
    made.images[0].save(tmp_path / "a.png")
    opened = pipe.open(tmp_path / "a.png")
    assert torch.equal(opened.source.encode(None), made.codes[0])
    with Image.open(tmp_path / "a.png") as image:
        half = image.resize((32, 32))
    assert "pixels have changed" in pipe.open(half).remark
    edited = pipe.inpaint(tmp_path / "a.png", "2:4,2:4").codes[0]
    outside = torch.ones(8, 8, dtype=torch.bool)
    outside[2:4, 2:4] = False
    assert torch.equal(edited[outside], made.codes[0][outside])


def test_codes_of_another_model_are_not_believed(pipe: Pipeline) -> None:
    other = tiny_pipeline(1)
    made = other.generate().images[0]
    assert "another model" in pipe.open(made).remark
    with pytest.raises(UsageError, match="another model"):
        pipe.inpaint(other.encode(made), "0:1,0:1")


def test_interrupt_keeps_what_is_finished(pipe: Pipeline) -> None:
    request = pipe.request({"kind": "generate"}, {"num_images": 5})
    results = pipe.results(request, batch=2, on_step=lambda first, _: pipe.interrupt() if first == 2 else None)
    assert [next(results).index, next(results).index] == [0, 1]
    with pytest.raises(KeyboardInterrupt):
        next(results)


def test_callback_sees_and_may_change_codes(pipe: Pipeline) -> None:
    lefts = []

    def set_a_corner(pipe: Pipeline, step: int, left: int, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        lefts.append(left)
        state["codes"][:, 0, 0] = 7
        return state

    output = pipe.generate(callback_on_step_end=set_a_corner)
    assert output.codes[0, 0, 0] == 7
    assert lefts == sorted(lefts, reverse=True)
    assert lefts[-1] == 0


def test_generators_like_diffusers(pipe: Pipeline) -> None:
    def generator(seed: int) -> torch.Generator:
        return torch.Generator().manual_seed(seed)

    one = pipe.generate(num_images=2, generator=generator(7))
    assert torch.equal(one.codes, pipe.generate(num_images=2, generator=generator(7)).codes)
    listed = pipe.generate(generator=[generator(7), generator(8)])
    assert listed.seeds[0] == one.seeds[0]
    assert torch.equal(listed.codes[0], one.codes[0])


def test_an_output_saves_all_its_pictures(pipe: Pipeline, tmp_path: Path) -> None:
    output = pipe.generate(num_images=2, seed=6)
    paths = output.save(tmp_path / "a.png")
    assert [path.name for path in paths] == ["a-6.png", "a-7.png"]
    assert [pipe.check_replay(path)[1] for path in paths] == [0, 0]
    with pytest.raises(OutputError, match="exists already"):
        output.save(tmp_path / "a.png")
    assert repr(output) == "Output(generate: 2 of 64x64 pixels, 8x8 codes; seeds 6, 7)"


def test_history_ends_in_the_result_and_animates(pipe: Pipeline, tmp_path: Path) -> None:
    output = pipe.generate(num_images=2, record_history=True)
    assert output.history is not None
    assert torch.equal(output.history[-1].codes, output.codes)
    assert sum(int(step.revealed[0].sum()) for step in output.history) == 64
    output.animate(tmp_path / "fill.gif")
    with Image.open(tmp_path / "fill.gif") as animation:
        assert animation.n_frames == len(output.history) + 1  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, i: p.inpaint(i, "0:0,0:0"), "nothing would be remade"),
        (lambda p, i: p.inpaint(i, "0:8,0:8"), "nothing would be kept"),
        (lambda p, i: p.keep(i, "0:8,0:8"), "nothing would be remade"),
        (lambda p, i: p.keep(i, "px:0:4,0:4"), "no whole cell"),
        (lambda p, i: p.inpaint(i, "0:9,0:3"), "leaves the picture"),
        (lambda p, i: p.generate(temperature=float("nan")), "temperature"),
        (lambda p, i: p.generate(temperature=-1.0), "temperature"),
        (lambda p, i: p.generate(num_images=0), "num_images"),
        (lambda p, i: p.generate(seed=-1), "seed"),
        (lambda p, i: p.generate(preset="quick"), "fast, balanced, best"),
        (lambda p, i: p.extend(i), "nothing to add"),
        (lambda p, i: p.variations(i, 1.5), "amount"),
        (lambda p, i: p.stitch([Piece(i, Region["0:8,0:8"])]), "cover every cell"),
        (lambda p, i: p.stitch([Piece(i, Region["0:4,0:4"], to=(6, 6))]), "outside the 8x8 grid"),
        (lambda p, i: p(torch.full((4, 4), 32)), "outside 0..31"),
        (lambda p, i: p.decode(torch.full((1, 4, 4), EMPTY)), "is empty"),
        (lambda p, i: p.inpaint(CodeGrid(torch.zeros(8, 8, dtype=torch.long), 16), "0:1,0:1"), "another model"),
        (lambda p, i: p.inpaint(i, Region.from_mask(Image.new("L", (9, 9), 255))), "9x9 pixels, the picture 64x64"),
        (lambda p, i: p.inpaint(i, 3), "region '3' is not understood"),
        (lambda p, i: p.inpaint(np.asarray(i), "0:1,0:1"), "not ndarray"),
        (lambda p, i: p.inpaint(i, "3:5,3:5", grow=8), "the whole picture"),
        (lambda p, i: p.stitch([Piece(i, Region["2:4,2:4"])], seam=1), "leaves nothing of piece 0"),
        (lambda p, i: p.generate(seed=2**32 - 1, num_images=2), "need seeds above"),
        (lambda p, i: p.generate(generator=[]), "one generator, or one each"),
        (lambda p, i: p.generate(num_images=3, generator=[torch.Generator()] * 2), "3 results need one generator"),
        (lambda p, i: p.generate(callback_on_step_end=lambda *_: None), "must return its last argument"),
    ],
)
def test_bad_requests_say_what_is_wrong_in_one_line(
    pipe: Pipeline, picture: Make, call: Callable[[Pipeline, Image.Image], object], message: str
) -> None:
    with pytest.raises(UsageError, match=message) as error:
        call(pipe, picture())
    assert "\n" not in str(error.value)

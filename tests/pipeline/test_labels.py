"""Labels and guidance through the pipeline: names in, the right class out, and the recipe says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from PIL import Image

from pipeline.tiny import tiny_pipeline
from smalti.errors import UsageError
from smalti.pipeline import recipe as recipes
from smalti.pipeline.pipeline import Pipeline
from smalti.sampling import SamplerOptions, fill


@pytest.fixture(scope="module")
def labelled() -> Pipeline:
    return tiny_pipeline(classes=("cats", "dogs", "7"))


def test_a_label_is_a_name_a_number_or_one_for_each(labelled: Pipeline) -> None:
    out = labelled.generate(label=["dogs", 0, "7"], seed=3, guidance=2.0)
    assert out.params["label"] == ["dogs", "cats", "7"]
    assert labelled.prior is not None
    options = labelled.sampler.replace(guidance=2.0)
    empty = torch.full((3, 8, 8), -1)
    direct = fill(labelled.prior, empty, seeds=[3, 4, 5], options=options, label=torch.tensor([1, 0, 2]))
    assert torch.equal(out.codes, direct)
    for i, (label, number) in enumerate((("dogs", 1), ("cats", 0), ("7", 2))):
        alone = labelled.generate(label=label, seed=3 + i, guidance=2.0)
        assert torch.equal(alone.codes[0], direct[i])
        assert torch.equal(alone.codes, labelled.generate(label=number, seed=3 + i, guidance=2.0).codes)
        assert recipes.read(out.images[i]).params["label"] == label  # type: ignore[union-attr]


def test_no_label_is_any_class_and_guidance_changes_something(labelled: Pipeline) -> None:
    plain, cats = labelled.generate(num_images=4), labelled.generate(num_images=4, label="cats")
    assert labelled.prior is not None
    empty = torch.full((4, 8, 8), -1)
    assert torch.equal(plain.codes, fill(labelled.prior, empty, seeds=range(4), options=labelled.sampler))
    assert not torch.equal(plain.codes, cats.codes)
    assert not torch.equal(labelled.generate(num_images=4, label="cats", guidance=5.0).codes, cats.codes)
    assert plain.params["label"] is None


def test_every_verb_takes_a_label_and_can_be_replayed(labelled: Pipeline, picture: Callable[..., Image.Image]) -> None:
    from smalti.regions import Piece

    image, options = picture(), {"label": "dogs", "guidance": 3.0, "guidance_schedule": "constant"}
    made: list[Any] = [
        labelled.generate(**options),
        labelled.keep(image, "center:4x4", **options),
        labelled.inpaint(image, "2:5,2:5", **options),
        labelled.stitch([Piece(image, "0:4,0:8")], **options),  # type: ignore[arg-type]
        labelled.extend(image, left=2, **options),
        labelled.variations(image, 0.5, **options),
        labelled.heal(image, 0.5, **options),
    ]
    for out in made:
        _, different = labelled.check_replay(out.images[0])
        assert different == 0
        recipe = recipes.read(out.images[0])
        assert recipe is not None
        assert (recipe.params["label"], recipe.params["sampler"]["guidance"]) == ("dogs", 3.0)
        forgotten = recipe.model_copy(update={"params": {**recipe.params, "label": "cats"}})
        assert labelled.check_replay(recipes.embed(out.images[0], forgotten))[1] > 0, out.params["kind"]


def test_generators_and_labels_go_together(labelled: Pipeline) -> None:
    def generators() -> list[torch.Generator]:
        return [torch.Generator().manual_seed(i) for i in range(2)]

    out = labelled.generate(generator=generators(), label=["cats", "dogs"])
    assert torch.equal(out.codes[1], labelled.generate(seed=out.seeds[1], label="dogs").codes[0])
    with pytest.raises(UsageError, match="2 results need"):
        labelled.generate(generator=generators(), label=["cats", "dogs", "7"])


def test_the_models_own_guidance_is_for_labels(labelled: Pipeline) -> None:
    guided = tiny_pipeline(classes=("cats", "dogs", "7"))
    guided.sampler = SamplerOptions(num_inference_steps=4, guidance=4.0)
    assert torch.equal(guided.generate(num_images=3).codes, labelled.generate(num_images=3).codes)
    assert guided.generate().params["sampler"]["guidance"] == 0
    strong = labelled.generate(num_images=3, label=1, guidance=4.0)
    assert torch.equal(guided.generate(num_images=3, label=1).codes, strong.codes)


def test_score_is_of_a_class_if_one_is_given(labelled: Pipeline, picture: Callable[..., Image.Image]) -> None:
    scores = [labelled.score(picture(), label=label) for label in (None, "cats", 0, "dogs")]
    assert scores[1].bits_per_token == scores[2].bits_per_token
    assert len({score.bits_per_token for score in scores}) == 3
    assert not torch.equal(scores[0].surprise, scores[3].surprise)


def test_classes_travel_in_the_model_folder(labelled: Pipeline, tmp_path: Any) -> None:
    labelled.save_pretrained(tmp_path / "model")
    loaded = Pipeline.from_pretrained(tmp_path / "model", dtype="float32")
    assert loaded.classes == ("cats", "dogs", "7")
    assert torch.equal(loaded.generate(label="7").codes, labelled.generate(label="7").codes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label": "dgos"}, "no class is called 'dgos'; did you mean 'dogs'"),
        ({"label": 3}, "There are: cats, dogs, 7"),
        ({"label": ["cats", "no"]}, "'no'"),
        ({"label": ["cats", "dogs"], "num_images": 3}, "3 results need"),
        ({"label": []}, "num_images"),
        ({"guidance": 2.0}, "guidance needs a label, one of cats, dogs, 7"),
        ({"label": "cats", "guidance": -1.0}, "guidance"),
    ],
)
def test_refusals(labelled: Pipeline, options: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        labelled.generate(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{"label": "cats"}, {"guidance": 1.0}, {"label": 0, "guidance": 1.0}])
def test_a_model_without_classes_says_so(pipe: Pipeline, options: Any) -> None:
    assert pipe.classes == ()
    with pytest.raises(UsageError, match=r"tiny has no classes; train one with data\.labels=true"):
        pipe.generate(**options)
    with pytest.raises(UsageError, match="tiny has no classes"):
        pipe.score(Image.new("RGB", (64, 64)), label="cats")

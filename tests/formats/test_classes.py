from __future__ import annotations

import pytest

from smalti.errors import UsageError
from smalti.formats.card import model_card
from smalti.formats.classes import class_names, class_number, listed


@pytest.mark.parametrize(
    ("info", "count", "names"),
    [
        ({"classes": ["cats", "dogs"]}, 2, ("cats", "dogs")),
        ({}, 3, ("0", "1", "2")),
        ({"classes": ["cats"]}, 2, ("0", "1")),
        ({"classes": ["a\x1b[2J", "b"]}, 2, ("0", "1")),
        ({"classes": "ab"}, 2, ("0", "1")),
        ({"classes": ["cats", "dogs"]}, 0, ()),
    ],
)
def test_names_are_the_models_or_numbers(info: dict[str, object], count: int, names: tuple[str, ...]) -> None:
    assert class_names(info, count) == names


@pytest.mark.parametrize(("label", "number"), [("dogs", 1), (1, 1), ("1", 1), (0, 0), ("0", 2), ("2", 2), (2, 2)])
def test_a_name_comes_before_a_number(label: str | int, number: int) -> None:
    assert class_number(label, ["cats", "dogs", "0"]) == number


@pytest.mark.parametrize("label", ["dgos", 7, -1, "²", ""])
def test_unknown_classes_are_named_with_the_nearest(label: str | int) -> None:
    with pytest.raises(UsageError) as caught:
        class_number(label, ["cats", "dogs"])
    assert str(caught.value).endswith("There are: cats, dogs")
    assert ("did you mean 'dogs'?" in str(caught.value)) == (label == "dgos")
    assert caught.value.field == "label"


def test_many_names_are_shortened() -> None:
    assert listed([str(i) for i in range(100)]).endswith("10, 11 and 88 more")
    card = model_card({"codebook_size": 4, "cell": 2, "info": {"classes": ["cats", "dogs"]}})
    assert "2 classes: cats, dogs." in card

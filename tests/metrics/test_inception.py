"""FID's Inception: the file it reads, how pictures reach it, and that it is the network of the published numbers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metrics.closed_form import SIZES, fill_with_waves, pictures
from smalti.errors import ModelError, UsageError
from smalti.metrics import Extractor, InceptionFeatures, extractor, features_of
from smalti.metrics.features import frechet_name
from smalti.metrics.inception import FidInception, load_inception, resized_as_tensorflow

RECORDED = Path(__file__).parents[1] / "golden" / "metrics" / "torch_fidelity.json"


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of the published layout with weights in closed form; some converters leave the counters out."""
    network = FidInception()
    fill_with_waves(network)
    path = tmp_path_factory.mktemp("inception") / "waves.pth"
    torch.save({k: v for k, v in network.state_dict().items() if not k.endswith("num_batches_tracked")}, path)
    return path


def test_the_layout_is_that_of_the_published_file() -> None:
    """Names and shapes of pt_inception-2015-12-05, as pytorch-fid and torch-fidelity load it strictly."""
    shapes = {name: tuple(value.shape) for name, value in FidInception().state_dict().items()}
    assert len(shapes) == 94 * 6 + 2  # 94 convolutions, each with five tensors of its norm, and the classifier
    for name, shape in {
        "Conv2d_1a_3x3.conv.weight": (32, 3, 3, 3),
        "Conv2d_4a_3x3.bn.running_var": (192,),
        "Mixed_5b.branch5x5_2.conv.weight": (64, 48, 5, 5),
        "Mixed_5b.branch_pool.conv.weight": (32, 192, 1, 1),
        "Mixed_6a.branch3x3.conv.weight": (384, 288, 3, 3),
        "Mixed_6c.branch7x7dbl_4.conv.weight": (160, 160, 7, 1),
        "Mixed_6e.branch7x7_2.conv.weight": (192, 192, 1, 7),
        "Mixed_7a.branch7x7x3_3.conv.weight": (192, 192, 7, 1),
        "Mixed_7b.branch3x3dbl_3b.conv.weight": (384, 384, 3, 1),
        "Mixed_7c.branch3x3_2a.conv.weight": (384, 384, 1, 3),
        "Mixed_7c.branch_pool.conv.weight": (192, 2048, 1, 1),
        "fc.weight": (1008, 2048),
    }.items():
        assert shapes[name] == shape, name


def test_features_are_those_of_torch_fidelity(weights: Path) -> None:
    """tools/record_torch_fidelity.py says how they were recorded; the tolerance is float32 through 94 convolutions."""
    recorded = json.loads(RECORDED.read_text("utf-8"))["inception"]
    extract = InceptionFeatures(weights, "tf")
    for height, width in SIZES[:2]:
        features = features_of([pictures(1, height, width)], extract)
        numbers = [*features[0, :8].tolist(), features.mean().item(), features.square().mean().item()]
        assert numbers == pytest.approx(recorded[f"{height}x{width}"], rel=1e-4, abs=1e-4)


def test_both_ways_of_scaling_have_their_names(weights: Path) -> None:
    clean, tf = extractor(f"inception:{weights}"), extractor(f"inception-tf:{weights}")
    for extract, name, scaling in ((clean, "fid_clean", "antialiased"), (tf, "fid_tf", "TensorFlow 1")):
        assert isinstance(extract, Extractor)
        assert frechet_name(extract) == name
        for part in (scaling, "299x299", "waves.pth sha256", "NOT the file that FID is published with"):
            assert part in extract.protocol
    large = pictures(1, 400, 300)
    assert features_of([large], clean).shape == (1, 2048)


def test_clean_scaling_is_pillows_on_floats(weights: Path) -> None:
    extract = InceptionFeatures(weights, "clean")
    seen: list[torch.Tensor] = []
    extract._net = seen.append  # type: ignore[assignment]
    for height, width in ((100, 70), (333, 500)):
        pixels = pictures(1, height, width)
        extract(torch.from_numpy(pixels / 127.5 - 1).float().permute(0, 3, 1, 2))
        ours = seen.pop()[0] * 128 + 128
        for channel in range(3):
            picture = Image.fromarray(pixels[0, :, :, channel].astype(np.float32))
            theirs = np.asarray(picture.resize((299, 299), Image.Resampling.BICUBIC)).clip(0, 255)
            assert np.abs(ours[channel].numpy() - theirs).max() < 1e-2


def test_tensorflow_scaling_by_hand() -> None:
    """Pixel i comes from i H / side: doubling repeats the last row, halving skips every second one."""
    line = torch.tensor([0.0, 10, 20, 40]).view(1, 1, 1, 4)
    assert resized_as_tensorflow(line, 8)[0, 0, 0].tolist() == [0, 5, 10, 15, 20, 30, 40, 40]
    assert resized_as_tensorflow(line, 2)[0, 0, 0].tolist() == [0, 20]
    assert resized_as_tensorflow(line.transpose(2, 3), 8)[0, 0, :, 0].tolist() == [0, 5, 10, 15, 20, 30, 40, 40]


def test_other_files_are_named(weights: Path, tmp_path: Path) -> None:
    state = torch.load(weights, weights_only=True)
    for change, message in [
        ({"AuxLogits.fc.weight": torch.zeros(1000, 768)}, "torchvision's Inception"),
        ({"Mixed_8a.conv.weight": torch.zeros(2, 2)}, "it also has Mixed_8a.conv.weight"),
        ({"fc.weight": torch.zeros(1000, 2048)}, "fc.weight has the shape"),
        ({"fc.weight": None}, "it lacks fc.weight"),
        ({"fc.weight": torch.full((1008, 2048), float("nan"))}, "NaN"),
    ]:
        path = tmp_path / "other.pth"
        torch.save({k: v for k, v in (state | change).items() if v is not None}, path)
        with pytest.raises(ModelError, match=message):
            load_inception(path)
    with pytest.raises(ModelError, match="does not exist"):
        extractor(f"inception:{tmp_path / 'no.pth'}")
    with pytest.raises(UsageError, match="nothing is downloaded"):
        extractor("inception")

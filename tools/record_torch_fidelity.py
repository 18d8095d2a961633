"""Record torch-fidelity's numbers, which `tests/metrics/test_torch_fidelity.py` compares ours with.

torch-fidelity needs torchvision, so it stays out of this project's environments. In one of its own:

    pip install torch torchvision torch-fidelity -e .
    PYTHONPATH=tests python tools/record_torch_fidelity.py

writes tests/golden/metrics/torch_fidelity.json. No weights are needed: distances are of features from
`metrics.closed_form`, and the network gets weights in closed form, too.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import torch
import torch_fidelity
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

from metrics.closed_form import FEATURES, SIZES, fill_with_waves, pictures
from smalti.metrics.inception import FidInception

TARGET = Path(__file__).resolve().parents[1] / "tests" / "golden" / "metrics" / "torch_fidelity.json"


def distances(made: torch.Tensor, real: torch.Tensor) -> dict[str, float]:
    """Fréchet distance; KID of one subset that is the whole set; precision and recall of the third neighbour."""
    fid = fid_statistics_to_metric(fid_features_to_statistics(made), fid_features_to_statistics(real), verbose=False)
    kid = kid_features_to_metric(made, real, kid_subsets=1, kid_subset_size=len(real), verbose=False)
    prc = prc_features_to_metric(made, real, prc_neighborhood=3, verbose=False)
    return {
        "frechet": fid["frechet_inception_distance"],
        "kid": kid["kernel_inception_distance_mean"],
        "precision": float(prc["precision"]),
        "recall": float(prc["recall"]),
    }


def inception() -> dict[str, list[float]]:
    """The first features of a picture of each size, the mean and the mean square of all."""
    network = FidInception()
    fill_with_waves(network)
    with tempfile.TemporaryDirectory() as folder:
        torch.save(network.state_dict(), f"{folder}/weights.pth")
        theirs = FeatureExtractorInceptionV3("here", ["2048"], feature_extractor_weights_path=f"{folder}/weights.pth")
    found = {}
    for height, width in SIZES:
        pixels = torch.from_numpy(pictures(1, height, width)).permute(0, 3, 1, 2)
        with torch.inference_mode():
            (features,) = theirs(pixels)
        numbers = [*features[0, :8].tolist(), features.mean().item(), features.square().mean().item()]
        found[f"{height}x{width}"] = numbers
    return found


def main() -> None:
    recorded = {
        "torch_fidelity": torch_fidelity.__version__,
        "torch": torch.__version__,
        "distances": {name: distances(made(), real()) for name, (made, real) in FEATURES.items()},
        "inception": inception(),
    }
    TARGET.write_text(json.dumps(recorded, indent=1) + "\n", "utf-8")
    print(TARGET)


if __name__ == "__main__":
    main()

"""Both loops: they learn, they resume to the bit, and they refuse what cannot be right."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from smalti.data import Pictures
from smalti.errors import DataError, ModelError, OutputError, UsageError
from smalti.prior import PriorConfig
from smalti.tokenizer import TokenizerConfig
from smalti.training import Losses, PriorOptions, RunFolder, TokenizerOptions, train_prior, train_tokenizer
from smalti.training.progress import Report, SilentProgress

from .conftest import TINY_PRIOR, TINY_VQGAN, toy_pixels

COMMON: dict[str, Any] = {"batch": 4, "precision": "float32", "log_every": 5, "checkpoint_every": 5}
CONFIG = TokenizerConfig.model_validate(TINY_VQGAN)
PRIOR = PriorConfig(codebook_size=16, height=4, width=4, dropout=0.1, **TINY_PRIOR)
GAN = Losses(adversarial=0.1, matching=1.0, gan_start=4, gan_warmup=2)
FULL_GAN = GAN.model_copy(
    update={"adaptive": True, "lecam": 0.01, "augment": ("colour", "translation", "cutout"), "matching": 0.0}
)


def toy_set(count: int = 30, seed: int = 0) -> Pictures:
    return Pictures(toy_pixels(count, seed=seed), np.arange(count), f"toy {count} {seed}")


def toy_codes(count: int = 30) -> np.ndarray[Any, np.dtype[np.uint16]]:
    rng = np.random.default_rng(0)
    return np.repeat(rng.integers(0, 16, (count, 1, 4)), 4, axis=1).astype(np.uint16)


class Stop(SilentProgress):
    """Raises a signal for this process at a step, as Ctrl-C or a scheduler would."""

    def __init__(self, step: int, number: signal.Signals = signal.SIGINT) -> None:
        self.step, self.number = step, number

    def report(self, report: Report) -> None:
        if report.step == self.step:
            signal.raise_signal(self.number)


def tokenizer(run: RunFolder, steps: int, resume: bool = False, **changes: Any) -> nn.Module:
    options = TokenizerOptions(steps=steps, critic_channels=8, revive_every=6, **{**COMMON, **changes})
    return train_tokenizer(toy_set(), CONFIG, options, run, validation=toy_set(8, 1), flip=True, resume=resume)


def gan(run: RunFolder, steps: int, resume: bool = False, **changes: Any) -> nn.Module:
    return tokenizer(run, steps, resume, losses=GAN, **changes)


def full_gan(run: RunFolder, steps: int, resume: bool = False, **changes: Any) -> nn.Module:
    return tokenizer(run, steps, resume, losses=FULL_GAN, codebook_init="kmeans", **changes)


def prior(run: RunFolder, steps: int, resume: bool = False, **changes: Any) -> nn.Module:
    options = PriorOptions(steps=steps, **{**COMMON, "accumulate": 2, **changes})
    return train_prior(toy_codes(), PRIOR, options, run, validation=toy_codes(4), resume=resume)


Trains = Callable[..., nn.Module]


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return all(torch.equal(a[name], b[name]) for name in a) and a.keys() == b.keys()


def muon_tokenizer(run: RunFolder, steps: int, resume: bool = False, **changes: Any) -> nn.Module:
    return tokenizer(run, steps, resume, optimizer="muon", **changes)


def muon_prior(run: RunFolder, steps: int, resume: bool = False, **changes: Any) -> nn.Module:
    return prior(run, steps, resume, optimizer="muon", **changes)


@pytest.mark.parametrize("train", [tokenizer, gan, full_gan, prior, muon_tokenizer, muon_prior])
def test_interrupted_and_resumed_is_uninterrupted(train: Trains, tmp_path: Path) -> None:
    """17 steps = 10 + resume + 7, bit for bit, with cosine decay, revival, critic, dropout and accumulation in them."""
    whole = train(RunFolder(tmp_path / "whole"), 17)
    with pytest.raises(KeyboardInterrupt):
        train(RunFolder(tmp_path / "parts", Stop(10)), 17)
    parts = train(RunFolder(tmp_path / "parts"), 17, resume=True)
    assert same(whole.state_dict(), parts.state_dict())


def test_sigterm_saves_and_exits_143(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        prior(RunFolder(tmp_path, Stop(5, signal.SIGTERM)), 20, checkpoint_every=100)
    assert caught.value.code == 143
    assert (tmp_path / "prior/checkpoints/last").read_text().strip() == "step-00000005"
    assert signal.getsignal(signal.SIGTERM) is before


KILLED = """
import sys
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from training.test_stages import prior
from smalti.training import RunFolder
from smalti.training.progress import SilentProgress

class Loud(SilentProgress):
    def report(self, report):
        print(report.step, flush=True)

prior(RunFolder(sys.argv[2], Loud()), 24, log_every=1, checkpoint_every=2)
"""


def test_killed_and_resumed_is_uninterrupted(tmp_path: Path) -> None:
    whole = prior(RunFolder(tmp_path / "whole"), 24)
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path / "killed")]
    child = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    with child.stdout:
        while int(child.stdout.readline()) < 9:
            pass
        child.kill()
        child.wait()
    resumed = prior(RunFolder(tmp_path / "killed"), 24, resume=True)
    assert same(whole.state_dict(), resumed.state_dict())
    steps = [json.loads(line)["step"] for line in (tmp_path / "killed/metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps)), "no step is reported twice"


@pytest.mark.parametrize("train", [tokenizer, prior, muon_tokenizer, muon_prior])
def test_the_loss_goes_down(train: Trains, tmp_path: Path) -> None:
    train(RunFolder(tmp_path), 250, learning_rate={"peak": 5e-3, "warmup": 10}, checkpoint_every=1000, batch=8)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, last = lines[0]["loss"], lines[-1]["loss"]
    assert last < 0.75 * first
    assert {"stage", "step", "seconds", "images_per_second", "loss", "learning_rate", "epoch"} <= lines[-1].keys()


def test_best_and_last_are_both_kept(tmp_path: Path) -> None:
    tokenizer(RunFolder(tmp_path), 20, validate_every=5, keep="best")
    stage = RunFolder(tmp_path).stage("tokenizer")
    best = stage.best()
    assert best is not None
    measured = [
        json.loads(line).get("validation_psnr", 0) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()
    ]
    assert best["psnr"] == pytest.approx(max(measured), rel=1e-4)
    assert len(list((tmp_path / "samples").glob("tokenizer-reconstructions-*.png"))) == 4


def test_a_budget_ends_a_run_and_counts_across_a_resume(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    prior(run, 1, budget_minutes=0.002)
    state = run.stage("prior").restore(True, model=PRIOR.model_dump_json(), data=_digest())
    assert state is not None
    assert state["elapsed"] >= 0.12
    prior(run, 1, resume=True, budget_minutes=0.002)  # the time is used up: no further step
    again = run.stage("prior").restore(True, model=PRIOR.model_dump_json(), data=_digest())
    assert again is not None
    assert again["step"] == state["step"]


def values_of(folder: Path, name: str) -> dict[int, float]:
    """That metric by step."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line[name] for line in lines if name in line}


def test_usage_of_codes_over_a_whole_pass(tmp_path: Path) -> None:
    """30 pictures in batches of 4: the first pass ends at step 8, the second at 15."""
    network = tokenizer(RunFolder(tmp_path), 15, learning_rate={"peak": 1e-12}, revive_until=0, ema=0.0, log_every=1)
    used, perplexities = (values_of(tmp_path, f"epoch_{name}") for name in ("codes_used", "perplexity"))
    assert min(used) == 8
    assert used[8] == used[14], "the values of a pass stay until the next one ends"
    pixels = torch.from_numpy(toy_pixels(30)).permute(0, 3, 1, 2).float() / 127.5 - 1
    counts = torch.bincount(network.encode(torch.cat([pixels, pixels.flip(-1)])).flatten(), minlength=16)  # type: ignore[operator]
    assert abs(used[15] - float((counts > 0).sum()) / 16) < 2 / 16, "of a network that stands still, by its codes"
    assert 1 <= perplexities[15] <= 16 * used[15] + 1e-4


def test_kmeans_starts_with_the_codes_in_use(tmp_path: Path) -> None:
    still: dict[str, Any] = {"learning_rate": {"peak": 1e-12}, "revive_until": 0, "validate_every": 1, "log_every": 1}
    tokenizer(RunFolder(tmp_path / "random"), 1, **still)
    tokenizer(RunFolder(tmp_path / "kmeans"), 1, codebook_init="kmeans", **still)
    shares = [values_of(tmp_path / name, "validation_codes_used")[1] for name in ("random", "kmeans")]
    assert shares[1] > shares[0]
    gumbel = CONFIG.model_copy(update={"quantizer": "gumbel"})
    with pytest.raises(UsageError, match="codebook_init must be random"):
        train_tokenizer(toy_set(), gumbel, TokenizerOptions(codebook_init="kmeans"), RunFolder(tmp_path / "gumbel"))


def test_a_euclidean_codebook_is_revived_too(tmp_path: Path) -> None:
    nearest = CONFIG.model_copy(update={"quantizer": "nearest"})
    options = TokenizerOptions(steps=20, revive_every=5, revive_until=1, dead_below=0.5, **COMMON)
    train_tokenizer(toy_set(), nearest, options, RunFolder(tmp_path))
    assert sum(values_of(tmp_path, "codes_revived").values()) > 0


def test_which_side_the_smaller_weight_is_on(tmp_path: Path) -> None:
    """Two runs that differ in nothing else; the quantiser's own test knows which side is which."""
    nearest = CONFIG.model_copy(update={"quantizer": "nearest"})
    weights = []
    for legacy in (False, True):
        options = TokenizerOptions(steps=3, losses=Losses(legacy_beta=legacy), **COMMON)
        weights.append(train_tokenizer(toy_set(), nearest, options, RunFolder(tmp_path / str(legacy))).state_dict())
    assert not torch.equal(weights[0]["quantizer.embedding.weight"], weights[1]["quantizer.embedding.weight"])


def _digest() -> str:
    from smalti.files import sha256_bytes

    return sha256_bytes(toy_codes().astype(np.int16).tobytes())


@pytest.mark.parametrize("train", [tokenizer, prior])
def test_never_a_silent_restart(train: Trains, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="nothing to resume"):
        train(RunFolder(tmp_path), 5, resume=True)
    train(RunFolder(tmp_path), 5)
    with pytest.raises(OutputError, match="--resume"):
        train(RunFolder(tmp_path), 5)


def test_killed_in_the_first_save_of_all_leaves_the_folder_usable(tmp_path: Path) -> None:
    leftover = tmp_path / "prior/checkpoints/.step-00000005.99.tmp"
    leftover.mkdir(parents=True)
    (leftover / "state.safetensors").write_bytes(b"half")
    with pytest.raises(ModelError, match="nothing to resume"):
        prior(RunFolder(tmp_path), 5, resume=True)
    prior(RunFolder(tmp_path), 5)
    assert sorted(p.name for p in leftover.parent.iterdir()) == ["last", "step-00000005"]


def test_changed_data_and_changed_models_are_noticed(tmp_path: Path) -> None:
    prior(RunFolder(tmp_path), 5)
    options = PriorOptions(steps=9, **COMMON)
    with pytest.raises(DataError, match="data changed"):
        train_prior(toy_codes(20), PRIOR, options, RunFolder(tmp_path), resume=True)
    other = PRIOR.model_copy(update={"d_model": 32})
    with pytest.raises(UsageError, match="another prior configuration"):
        train_prior(toy_codes(), other, options, RunFolder(tmp_path), resume=True)


@pytest.mark.parametrize("train", [prior, gan])
@pytest.mark.parametrize("step", [6, 8])
def test_a_bad_gradient_is_never_saved(
    train: Trains, step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An infinite gradient behind a finite loss, just before a checkpoint and between two; the run can go on from 5."""
    clip, calls = nn.utils.clip_grad_norm_, iter(range(1000))
    per_step = 1 if train is prior else 2  # the critic's is the second: it learns from step 2 on
    first = (step - 1) if train is prior else 2 + per_step * (step - 3) + 1

    def spoiled(parameters: Any, most: float) -> Tensor:
        parameters = list(parameters)
        if next(calls) == first:
            parameters[0].grad.fill_(torch.inf)
        return clip(parameters, most)

    monkeypatch.setattr(nn.utils, "clip_grad_norm_", spoiled)
    with pytest.raises(ModelError, match=r"diverged.*not finite at step (6|10).*last good checkpoint"):
        train(RunFolder(tmp_path), 20, checkpoint_every=5 if step == 8 else 3, log_every=100, validate_every=100)
    monkeypatch.undo()
    last = (tmp_path / ("prior" if train is prior else "tokenizer") / "checkpoints/last").read_text().strip()
    assert last == ("step-00000005" if step == 8 else "step-00000003")
    train(RunFolder(tmp_path), 12, resume=True, validate_every=100)


class Full(SilentProgress):
    """From step 10 on, the kernel refuses to make any file longer than a few kilobytes."""

    def report(self, report: Report) -> None:
        import resource

        if report.step == 10:
            _, most = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (8192, most))


@pytest.mark.skipif(os.name == "nt", reason="needs limits of the operating system")
@pytest.mark.parametrize("train", [tokenizer, prior])
def test_a_full_disk_costs_no_more_than_the_steps_since_the_last_checkpoint(train: Trains, tmp_path: Path) -> None:
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    whole = train(RunFolder(tmp_path / "whole"), 17, validate_every=100)
    try:
        with pytest.raises(OutputError, match=r"cannot write .*step-00000010"):
            train(RunFolder(tmp_path / "parts", Full()), 17, validate_every=100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    (checkpoints,) = (tmp_path / "parts").glob("*/checkpoints")
    assert sorted(p.name for p in checkpoints.iterdir()) == ["last", "step-00000005"]
    parts = train(RunFolder(tmp_path / "parts"), 17, resume=True, validate_every=100)
    assert same(whole.state_dict(), parts.state_dict())


@pytest.mark.parametrize("train", [tokenizer, prior])
def test_metrics_of_a_resumed_run_are_those_of_one_that_was_never_stopped(train: Trains, tmp_path: Path) -> None:

    class Dies(SilentProgress):
        def report(self, report: Report) -> None:
            if report.step == 8:
                raise EOFError

    every = {"log_every": 4, "checkpoint_every": 5, "validate_every": 100}
    train(RunFolder(tmp_path / "whole"), 12, **every)
    with pytest.raises(EOFError):
        train(RunFolder(tmp_path / "parts", Dies()), 12, **every)
    train(RunFolder(tmp_path / "parts"), 12, resume=True, **every)  # from step 5, between two lines of metrics
    lines = {}
    for name in ("whole", "parts"):
        text = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        lines[name] = {line["step"]: line for line in map(json.loads, text)}
    for step in (8, 12):
        assert lines["parts"][step].keys() == lines["whole"][step].keys()
        timed = ("seconds", "images_per_second")
        assert all(lines["parts"][step][k] == v for k, v in lines["whole"][step].items() if k not in timed)


def test_a_tokenizer_that_diverges_says_so(tmp_path: Path) -> None:
    """Codes are moved onto features between two reports: those of a diverged network must not stop it otherwise."""
    rate = {"peak": 1e8, "warmup": 0, "decay": "constant"}
    rarely = {"log_every": 40, "checkpoint_every": 40, "validate_every": 40}
    with pytest.raises(ModelError, match=r"diverged.*begin again with a lower learning rate"):
        tokenizer(RunFolder(tmp_path), 40, learning_rate=rate, clip=1e30, **rarely)


def test_a_diverged_run_stops_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="diverged"):
        prior(RunFolder(tmp_path), 40, learning_rate={"peak": 1e30, "warmup": 12, "decay": "constant"}, clip=1e30)
    for path in (tmp_path / "prior/checkpoints").glob("step-*/state.safetensors"):
        from safetensors.torch import load_file

        assert all(bool(torch.isfinite(t).all()) for t in load_file(path).values() if t.is_floating_point())


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        (np.zeros((4, 4), np.uint16), "shape"),
        (np.zeros((4, 8, 4), np.uint16), "do not fit"),
        (np.full((4, 4, 4), 16, np.uint16), "0..15"),
        (np.zeros((0, 4, 4), np.uint16), "shape"),
    ],
)
def test_codes_that_do_not_fit(codes: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=says):
        train_prior(codes, PRIOR, PriorOptions(steps=1), RunFolder(tmp_path))


def test_training_leaves_the_callers_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    prior(RunFolder(tmp_path), 2)
    assert torch.equal(torch.rand(2), expected)

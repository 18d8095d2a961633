"""Many processes are one: the same losses, the same stop, the same checkpoints. Real processes, over gloo on a CPU."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from smalti.cli.app import run as run_command
from smalti.errors import UsageError
from smalti.formats.folder import load_model
from smalti.prior import ObjectiveOptions, draw_masks, masked_loss
from smalti.training import Recipe, RunFolder, train
from smalti.training.batches import check_batch
from smalti.training.parallel import Gradients, Processes

from . import test_stages
from .test_stages import GAN, PRIOR, Stop, full_gan, prior, tokenizer

STEPS = 12
CASES: dict[str, tuple[Any, dict[str, Any]]] = {
    "gan": (tokenizer, {"losses": GAN, "revive_until": 1.0, "dead_below": 0.9}),  # many codes move
    "full_gan": (full_gan, {}),
    "prior": (prior, {"accumulate": 1, "objective": {"roll": 0.3, "complementary": True}}),
}
"""Name to (function, options), computed once by one process and once by two."""
STILL = PRIOR.model_copy(update={"dropout": 0.0, "position_optional": True})
"""Dropout draws where it computes, so it depends on the process; nothing else does."""


def launch(*arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """`torchrun` with as many processes; it and all of them use one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, check=False)


def curve(folder: Path, stage: str | None = None) -> list[dict[str, float]]:
    """What a run reported, less its times."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = [line for line in lines if stage is None or line["stage"] == stage]
    return [{k: v for k, v in line.items() if not k.endswith(("seconds", "second", "stage"))} for line in kept]


def assert_alike(ours: list[dict[str, float]], theirs: list[dict[str, float]]) -> None:
    """To 1e-5: float32 sums in another order differ by 1e-7, and Adam's division passes on what it is given.

    Perplexities have more room: a picture's equal cells can stand on the border of two codes, and one of hundreds that
    falls to the other side moves them by a few percent, and no loss.
    """
    assert len(ours) == len(theirs) > 0
    for a, b in zip(ours, theirs, strict=True):
        exact = {name: value for name, value in a.items() if "perplexity" not in name and "codes_used" not in name}
        assert {name: b[name] for name in exact} == pytest.approx(exact, rel=1e-5, abs=1e-6), f"step {a['step']}"


SCRIPT = """
import signal, sys, warnings
warnings.simplefilter("error")
from pathlib import Path
import torch
torch.set_num_threads(1)
sys.path.insert(0, sys.argv[1])
from training import test_stages
from training.test_parallel import CASES, STEPS, STILL
from smalti.training import RunFolder, leads
from smalti.training.runs import StageFolder

same, test_stages.PRIOR = test_stages.same, STILL
folder, report = Path(sys.argv[2]), StageFolder.report

def run(name, train, resume=False, **options):
    place = RunFolder(folder / name, writes=leads())
    return train(place, STEPS, resume, log_every=1, **options)

def interrupted(name, train, **options):
    "Stopped after step 6 by a signal that only the second process gets, then resumed."
    def signalled(self, now):
        report(self, now)
        if now.step == 6 and not leads():
            signal.raise_signal(signal.SIGTERM)
    StageFolder.report = signalled
    try:
        run(name, train, **options)
    except SystemExit as stop:
        assert stop.code == 143
    else:
        raise AssertionError("did not stop")
    StageFolder.report = report
    return run(name, train, resume=True, **options)

for name, (train, options) in CASES.items():
    whole = run(name, train, **options)
    if name == "gan":
        assert same(whole.state_dict(), interrupted(name + "-stopped", train, **options).state_dict())
_, options = CASES["prior"]
whole = run("sharded", test_stages.prior, shard=True, **options)
parts = interrupted("sharded-stopped", test_stages.prior, shard=True, **options)
assert same(whole.state_dict(), parts.state_dict())
assert not any(hasattr(p, "placements") for p in whole.parameters())
"""


def test_two_processes_learn_and_stop_and_go_on_like_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    ran = launch(str(tmp_path / "script.py"), str(Path(__file__).parents[1]), str(tmp_path / "two"))
    assert ran.returncode == 0, ran.stderr[-3000:]
    monkeypatch.setattr(test_stages, "PRIOR", STILL)
    for name, (function, options) in CASES.items():
        function(RunFolder(tmp_path / "one" / name), STEPS, log_every=1, **options)
        assert_alike(curve(tmp_path / "one" / name), curve(tmp_path / "two" / name))
    assert sum(line["codes_revived"] for line in curve(tmp_path / "one" / "gan")) > 0
    assert_alike(curve(tmp_path / "one" / "prior"), curve(tmp_path / "two" / "sharded"))
    for name in ("gan", "sharded"):  # a resumed run reports what it would have
        assert curve(tmp_path / "two" / f"{name}-stopped") == curve(tmp_path / "two" / name)


def test_torchrun_of_the_command_is_the_command(fields: dict[str, Any], tmp_path: Path) -> None:
    """Both stages of a recipe, from pictures to a model folder: only the first process writes and speaks."""
    for stage in ("tokenizer", "prior"):
        fields[stage] |= {"log_every": 1, "steps": 10}
    fields["data"]["flip"] = True
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(fields | {"run": str(tmp_path / "two")}))
    ran = launch("-m", "smalti", "train", str(tmp_path / "toy.yaml"))
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout == f"{tmp_path / 'two' / 'model'}\n"
    assert ran.stderr.count("in each of 2 processes") == 2
    train(Recipe.model_validate(fields | {"run": str(tmp_path / "one")}))
    for stage in ("tokenizer", "prior"):
        assert_alike(curve(tmp_path / "one", stage), curve(tmp_path / "two", stage))
    ours, theirs = (load_model(tmp_path / name / "model") for name in ("one", "two"))
    assert ours.prior is not None
    assert theirs.prior is not None
    weights = theirs.tokenizer.state_dict()
    assert all(torch.allclose(v, weights[k], atol=1e-4) for k, v in ours.tokenizer.state_dict().items())


def test_an_impossible_batch_is_one_line_of_one_process(
    fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Said before the processes find each other, by the first of each machine."""
    fields["prior"]["batch"] = 5
    (tmp_path / "toy.yaml").write_text(yaml.safe_dump(fields))
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank, said in (("1", ""), ("0", "error: prior.batch 5 cannot be divided among 2 processes in 1 equal part(s): "
                                        "make it a multiple of 2\n")):  # fmt: skip
        monkeypatch.setenv("LOCAL_RANK", rank)
        assert run_command(["train", str(tmp_path / "toy.yaml")]) == 2
        assert capsys.readouterr().err == said
    assert not (tmp_path / "run").exists()


def test_a_batch_larger_than_the_data_is_noticed_before_the_first_stage(fields: dict[str, Any], tmp_path: Path) -> None:
    fields["prior"]["batch"] = 100
    with pytest.raises(UsageError, match=r"prior\.batch 100 is larger than the data set of 32 picture"):
        train(Recipe.model_validate(fields))
    assert not (tmp_path / "run" / "tokenizer").exists()


@pytest.mark.parametrize("parts", [2, 4])
def test_parts_learn_like_the_whole(parts: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(test_stages, "PRIOR", STILL)
    for name in ("gan", "prior"):
        function, options = CASES[name]
        for count in (1, parts):
            function(RunFolder(tmp_path / f"{name}-{count}"), STEPS, log_every=1, **{**options, "accumulate": count})
        assert_alike(curve(tmp_path / f"{name}-1"), curve(tmp_path / f"{name}-{parts}"))


@pytest.mark.parametrize(
    "options",
    [
        ObjectiveOptions(),
        ObjectiveOptions(complementary=True, roll=0.5),
        ObjectiveOptions(name="reweighted_elbo", total_steps=16),
        ObjectiveOptions(name="elbo", schedule="fixed", total_steps=16),
    ],
    ids=lambda options: f"{options.name}-{options.complementary}-{options.schedule}",
)
def test_rows_of_a_batch_are_hidden_as_in_the_batch(options: ObjectiveOptions) -> None:
    """The mean loss of equal parts is the loss of the whole, which no draw of their own would give."""
    from smalti.prior import AbsorbingTransformer

    torch.manual_seed(0)
    network = AbsorbingTransformer(STILL)
    codes = torch.randint(0, 16, (8, 4, 4))
    masked = draw_masks(codes, options, generator=torch.Generator().manual_seed(1))
    whole = masked_loss(network, masked, options)
    parts = [masked_loss(network, masked.rows(slice(i, None, 4)), options) for i in range(4)]
    assert torch.allclose(torch.stack([part.loss for part in parts]).mean(), whole.loss, rtol=1e-5)
    assert torch.allclose(torch.cat([p.ratio for p in parts]).sort().values, whole.ratio.sort().values)


def test_rows_of_all_processes_are_the_batch_once() -> None:
    one = Processes("cpu")
    assert (one.rank, one.count, one.leads, one.launched, one.neighbours) == (0, 1, True, False, 1)
    for count, parts in ((1, 1), (2, 1), (2, 3), (3, 2)):
        seen: list[int] = []
        for rank in range(count):
            other = Processes.__new__(Processes)
            other.__dict__.update(rank=rank, count=count)
            seen += [row for part in range(parts) for row in range(24)[other.rows(part, parts)]]
        assert sorted(seen) == list(range(24))


@pytest.mark.parametrize(
    ("batch", "parts", "processes", "pictures", "says"),
    [
        (2, 1, 4, None, r"prior\.batch 2 is less than a picture for each of 4 processes: .* multiple of 4"),
        (10, 1, 4, None, r"prior\.batch 10 cannot be divided among 4 processes .* multiple of 4"),
        (12, 2, 4, None, r"prior\.batch 12 cannot be divided among 4 processes in 2 equal .* multiple of 8"),
        (5, 2, 1, None, r"prior\.batch 5 cannot be divided in 2 equal part\(s\)"),
        (64, 1, 4, 30, r"prior\.batch 64 is larger than the data set of 30 picture\(s\): --set prior\.batch=28"),
    ],
)
def test_impossible_batches(batch: int, parts: int, processes: int, pictures: int | None, says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        check_batch("prior", batch, parts, processes, pictures)
    assert caught.value.field == "prior.batch"
    check_batch("prior", 8 * parts * processes, parts, processes, pictures and 8 * parts * processes)


def test_what_cannot_be_computed_so(tmp_path: Path) -> None:
    for train_stage in (tokenizer, prior):
        with pytest.raises(UsageError, match="float16 is for GPUs"):
            train_stage(RunFolder(tmp_path), 2, precision="float16")
    with pytest.raises(UsageError, match="Muon needs whole matrices"):
        prior(RunFolder(tmp_path), 2, shard=True, optimizer="muon")
    assert not list(tmp_path.iterdir()), "nothing is written before it is known to work"


def test_without_accelerate_one_line_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(UsageError, match=r"pip install 'smalti\[train\]'"):
        Processes("cpu")


def test_a_launcher_set_up_to_shard_in_its_own_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match=r"set up for FSDP.*prior\.shard"):
        Processes("cpu")


def test_number_formats_follow_each_other_in_one_process() -> None:
    """A stage in bfloat16 after one in float32, as in a recipe of two: each computes in its own."""
    processes = Processes("cpu")
    seen = []
    for precision in ("float32", "bfloat16", "float32"):
        gradients = Gradients(processes, precision, 1)  # type: ignore[arg-type]
        with gradients.autocast():
            seen.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    assert seen == [torch.float32, torch.bfloat16, torch.float32]


def test_a_launcher_repeats_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C reaches a worker twice, from the terminal and from torchrun: the second must not cut the saving short."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")

    class Twice(Stop):
        def report(self, report: Any) -> None:
            super().report(report)
            super().report(report)

    with pytest.raises(KeyboardInterrupt):
        prior(RunFolder(tmp_path, Twice(5, signal.SIGINT)), 20, checkpoint_every=100)
    assert (tmp_path / "prior/checkpoints/last").read_text().strip() == "step-00000005"


def test_float16_skips_a_step_that_overflows() -> None:
    """The loss scale of a GPU, set up by hand on a CPU, which Accelerate gives none."""
    gradients = Gradients(Processes("cpu"), "float32", 1)
    accelerator = gradients._accelerator
    accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=2), True
    accelerator.state._mixed_precision = "fp16"
    network = torch.nn.Linear(2, 1, bias=False)
    learner, optimizer = gradients.learner(network), gradients.optimizer(torch.optim.SGD(network.parameters(), lr=0.1))

    def step(factor: float) -> float:
        with gradients.part(learner):
            gradients.backward((network.weight.sum() * factor).sum())
        norm = gradients.clip(network, optimizer, 100.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(norm)

    before = network.weight.detach().clone()
    assert step(float("inf")) == 0.0, "no norm that a check for divergence would take for one"
    assert torch.equal(network.weight, before)
    assert step(3.0) == pytest.approx(3 * 2**0.5), "of gradients that are scaled back"
    assert torch.allclose(network.weight, before - 0.3)
    state = gradients.state()
    assert state is not None
    assert (state["scale"], state["_growth_tracker"]) == (2.0, 1)
    accelerator.scaler = torch.amp.GradScaler("cpu")
    gradients.load(state)
    assert gradients.state() == state

"""Runs read back from their folders: numbers, states, damage, differences."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from smalti.errors import ModelError
from smalti.training import Recipe, train
from smalti.training.history import read_history
from smalti.training.overview import announced, differing_fields, final_numbers, find_runs, overview
from training.recorded import recorded_run


def test_a_run_in_one_line(tmp_path: Path) -> None:
    found = overview(read_history(recorded_run(tmp_path / "faces")))
    assert (found.name, found.state) == ("faces", "finished")
    assert (found.stage, found.step, found.progress) == ("prior", 600, 1.0)
    assert found.loss == 2.911
    assert found.psnr == 16.28
    assert found.bits_per_token == 4.593
    assert found.elapsed == pytest.approx(20.86 + 11.41, abs=0.1)
    assert found.notes == ()


def test_a_real_run_is_running_while_it_trains_and_finished_after(recipe: Recipe) -> None:
    from smalti.training.progress import Report, SilentProgress

    states: list[tuple[str, str | None]] = []

    class Look(SilentProgress):
        def report(self, report: Report) -> None:
            if report.stage not in ("pictures", "codes"):
                found = overview(read_history(recipe.folder))
                states.append((found.state, found.stage))

    train(recipe, progress=Look())
    assert set(states) == {("running", "tokenizer"), ("running", "prior")}
    assert overview(read_history(recipe.folder)).state == "finished"
    assert not (recipe.folder / "process.json").exists()


def test_a_killed_run_is_stopped_and_its_broken_last_line_is_no_damage(tmp_path: Path) -> None:
    run = recorded_run(tmp_path / "faces", lines=30)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tokenizer", "step": 310, "seco')
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    (run / "process.json").write_text(json.dumps({"host": platform.node(), "pid": gone.pid}))
    found = overview(read_history(run))
    assert (found.state, found.stage, found.step, found.progress) == ("stopped", "tokenizer", 300, 0.6)
    assert found.bits_per_token is None
    (run / "process.json").write_text(json.dumps({"host": platform.node(), "pid": os.getpid()}))
    assert overview(read_history(run)).state == "running"


def test_a_run_on_another_machine_is_judged_by_its_files(tmp_path: Path) -> None:
    run = recorded_run(tmp_path / "faces", lines=30)
    (run / "process.json").write_text(json.dumps({"host": "elsewhere", "pid": 1}))
    assert overview(read_history(run)).state == "running"
    for path in (run / "metrics.jsonl", run / "process.json"):
        os.utime(path, (1e9, 1e9))
    assert overview(read_history(run)).state == "stopped"


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("metrics.jsonl", '{"stage": 7\n{"stage": "prior", "step": 5, "seconds": 1}\n', "line 1 cannot be read"),
        ("metrics.jsonl", '[1]\n{"stage": "prior", "step": 5, "seconds": 1}\n', "line 1 cannot be read"),
        ("config.yaml", "a: [", "config.yaml cannot be read"),
        ("config.yaml", "[]", "config.yaml holds no fields"),
        ("prior/checkpoints/last", "step-00000600\n", "all prior checkpoints are damaged: remove"),
    ],
)
def test_damage_is_named(tmp_path: Path, file: str, text: str, says: str) -> None:
    run = recorded_run(tmp_path / "faces")
    (run / file).parent.mkdir(parents=True, exist_ok=True)
    (run / file).write_text(text)
    found = overview(read_history(run))
    assert found.state == "damaged"
    assert any(says in note for note in found.notes), found.notes


def test_a_truncated_checkpoint_is_damage(recipe: Recipe) -> None:
    train(recipe)
    newest = recipe.folder / "prior" / "checkpoints" / "step-00000020" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    assert overview(read_history(recipe.folder)).notes == (
        "the newest prior checkpoint is damaged: --resume goes on from the one before",
    )


def test_a_run_that_began_again_has_one_curve(tmp_path: Path) -> None:
    run = recorded_run(tmp_path / "faces", lines=30)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "tokenizer", "step": 200, "seconds": 9, "loss": 0.5}\n')
    steps, losses = read_history(run).series("tokenizer", "loss")
    assert steps == list(range(10, 201, 10))
    assert losses[-1] == 0.5


def test_runs_are_found_in_folders(tmp_path: Path) -> None:
    a, b = recorded_run(tmp_path / "runs" / "a"), recorded_run(tmp_path / "runs" / "b")
    (tmp_path / "runs" / "notes").mkdir()
    assert find_runs([tmp_path / "runs"]) == [a, b]
    assert find_runs([b, tmp_path / "runs"]) == [b, a]
    with pytest.raises(ModelError, match="holds no training run"):
        find_runs([tmp_path / "runs" / "notes"])
    with pytest.raises(ModelError, match="there is no folder"):
        find_runs([tmp_path / "nowhere"])
    with pytest.raises(ModelError, match="not a training run"):
        read_history(tmp_path / "runs" / "notes")


def test_final_numbers_and_differences(tmp_path: Path) -> None:
    a = read_history(recorded_run(tmp_path / "a"))
    changed = {"prior": {"steps": 600, "learning_rate": {"peak": 0.001}}, "threads": 2, "name": "other"}
    b = read_history(recorded_run(tmp_path / "b", lines=60, **changed))
    numbers = final_numbers(a)
    assert numbers["PSNR, dB"] == numbers["PSNR, dB, best"] == 16.28
    assert numbers["bits per token"] == 4.593
    assert numbers["prior loss"] == pytest.approx((2.919 + 2.915 + 2.892 + 2.884 + 2.911) / 5, abs=0.02)
    assert final_numbers(b)["prior steps"] == 100
    assert differing_fields([a, b]) == {"prior.learning_rate.peak": [0.003, 0.001], "threads": [None, 2]}
    assert differing_fields([a, a]) == {}


def test_nothing_is_left_of_a_run_that_never_began(tmp_path: Path) -> None:
    def fail() -> None:
        with announced(tmp_path / "run"):
            assert (tmp_path / "run" / "process.json").is_file()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not (tmp_path / "run").exists()

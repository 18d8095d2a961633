"""A checkpoint is whole or not there; a damaged one is named and skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from smalti.errors import ModelError, OutputError
from smalti.training.checkpoints import damage, latest_checkpoint, load_checkpoint, load_optimizer, save_checkpoint

STATE = {
    "weights": {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(3, dtype=torch.int64)},
    "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "groups": [{"lr": 0.1, "betas": (0.9, 0.99), "x": None}]},
    "elapsed": 1.5,
    "half": torch.ones(2, dtype=torch.bfloat16),
}


def same(a: object, b: object) -> bool:
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def test_round_trip_keeps_types_and_integer_keys(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 7, STATE)
    assert same(STATE, load_checkpoint(path))
    assert (tmp_path / "last").read_text().strip() == path.name == "step-00000007"


def test_only_the_newest_stay(tmp_path: Path) -> None:
    for step in (1, 2, 3, 4):
        save_checkpoint(tmp_path, step, STATE, keep=2)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000003", "step-00000004"]
    assert latest_checkpoint(tmp_path) == tmp_path / "step-00000004"


@pytest.mark.parametrize("harm", ["cut", "flip", "no manifest", "no tensors", "bad manifest"])
def test_damage_is_named_and_skipped(tmp_path: Path, harm: str) -> None:
    good, bad = save_checkpoint(tmp_path, 1, STATE), save_checkpoint(tmp_path, 2, STATE)
    tensors, manifest = bad / "state.safetensors", bad / "manifest.json"
    match harm:
        case "cut":
            tensors.write_bytes(tensors.read_bytes()[:-3])
        case "flip":
            data = bytearray(tensors.read_bytes())
            data[-1] ^= 1
            tensors.write_bytes(data)
        case "no manifest":
            manifest.unlink()
        case "no tensors":
            tensors.unlink()
        case "bad manifest":
            manifest.write_text("{")
    said: list[str] = []
    assert latest_checkpoint(tmp_path, said.append) == good
    assert len(said) == 1
    assert str(bad) in said[0]
    with pytest.raises(ModelError, match="step-00000002"):
        load_checkpoint(bad)


def test_nothing_there(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path / "absent") is None


def test_a_disk_that_refuses(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        save_checkpoint(tmp_path / "file" / "below", 1, STATE)


def test_a_failed_write_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = save_checkpoint(tmp_path, 1, STATE)

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="disk is full"):
        save_checkpoint(tmp_path, 2, STATE)
    assert latest_checkpoint(tmp_path) == good
    assert not list(tmp_path.glob(".*"))


def test_moments_get_the_layout_of_their_weights(tmp_path: Path) -> None:
    def trained(steps: int) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        conv = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
        optimizer = torch.optim.AdamW(conv.parameters(), fused=True)
        advance(conv, optimizer, steps)
        return conv, optimizer

    def advance(conv: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: int) -> None:
        for step in range(steps):
            torch.manual_seed(step)
            conv(torch.randn(2, 4, 5, 5)).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()

    whole, optimizer = trained(3)
    path = save_checkpoint(tmp_path, 3, {"optimizer": optimizer.state_dict()})
    other = torch.nn.Conv2d(4, 4, 3).to(memory_format=torch.channels_last)
    other.load_state_dict(whole.state_dict())
    resumed = torch.optim.AdamW(other.parameters(), fused=True)
    load_optimizer(resumed, load_checkpoint(path)["optimizer"])
    advance(whole, optimizer, 2)
    advance(other, resumed, 2)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), other.parameters(), strict=True))


def test_a_step_saved_again_is_newer_and_never_replaces_before_it_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = save_checkpoint(tmp_path, 3, {"n": 1}, keep=1)
    real = os.replace

    def dies(source: Any, target: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", dies)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(tmp_path, 3, {"n": 2}, keep=1)
    assert latest_checkpoint(tmp_path) == first
    monkeypatch.setattr(os, "replace", real)
    save_checkpoint(tmp_path, 3, {"n": 1}, keep=1)
    again = save_checkpoint(tmp_path, 3, {"n": 2}, keep=1)
    assert latest_checkpoint(tmp_path) == again == tmp_path / (tmp_path / "last").read_text().strip()
    assert load_checkpoint(again)["n"] == 2
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == [again.name]


def test_what_a_run_went_back_from_is_forgotten(tmp_path: Path) -> None:
    """After a damaged step 3 a run goes on from 2: the damaged one must not take the place of a good one."""
    save_checkpoint(tmp_path, 2, STATE)
    (save_checkpoint(tmp_path, 9, STATE) / "state.json").unlink()
    save_checkpoint(tmp_path, 4, STATE)
    assert sorted(p.name for p in tmp_path.glob("step-*")) == ["step-00000002", "step-00000004"]


KILLED = """
import os, random, signal, sys
from pathlib import Path
import torch
from smalti.training.checkpoints import damage, latest_checkpoint, load_checkpoint, save_checkpoint

torch.set_num_threads(1)
folder, rounds, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(5)

def save_forever(n, ready):
    while True:
        n += 1
        state = {"n": n, "w": torch.full((40000,), float(n)), "m": [torch.full((9,), float(n))] * 20}
        save_checkpoint(folder, n // 3, state, keep=1)  # every step thrice, and none to fall back on
        os.write(ready, b".")

n = 0
for _ in range(rounds):
    heard, ready = os.pipe()
    child = os.fork()
    if not child:
        save_forever(n, ready)
    os.close(ready)
    said = len(os.read(heard, 1))  # at least one is whole
    for _ in range(chance.randrange(300000)):
        pass  # a random moment of the saves that follow
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    while more := os.read(heard, 1000):
        said += len(more)
    os.close(heard)
    last = folder / (folder / "last").read_text().strip()
    assert damage(last) is None, damage(last)
    state = load_checkpoint(latest_checkpoint(folder))
    assert state["n"] in (n + said, n + said + 1), (state["n"], n, said)  # the last one may be whole but unsaid
    assert all((t == state["n"]).all() for t in [state["w"], *state["m"]]), state["n"]
    n = state["n"]
print("survived", n)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_kill_at_random_moments_leaves_the_last_whole_checkpoint(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), "50"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("survived")
    save_checkpoint(tmp_path, 10**6, STATE)
    assert not list(tmp_path.glob(".step-*")), "what killed processes left is cleared away by the next save"
    newest = latest_checkpoint(tmp_path)
    assert newest is not None
    assert damage(newest) is None

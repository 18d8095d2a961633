"""Model folders from the command line: foreign checkpoints in and out, looking, checking, sharing."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from formats.models import (
    lean_tokenizer,
    official_prior,
    same_weights,
    taming_tokenizer,
    unleashing_tokenizer,
)
from smalti.cli.app import run
from smalti.formats import (
    export_diffusers,
    export_unleashing,
    hub,
    import_checkpoint,
    load_model,
    save_model,
    tokenizer_identity,
)


@pytest.fixture
def logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with logs/vqgan_x and logs/absorbing_x as the original's two trainings leave them."""
    monkeypatch.chdir(tmp_path)
    export_unleashing(unleashing_tokenizer(), official_prior(), "all", step=7)
    for name in ("vqgan", "absorbing"):
        place = Path("logs") / f"{name}_x" / "saved_models"
        place.mkdir(parents=True)
        (Path("all") / f"{name}_ema_7.th").rename(place / f"{name}_ema_7.th")
    return tmp_path


def ok(command: str) -> None:
    assert run(command.split()) == 0


def failed(command: str, capsys: pytest.CaptureFixture[str], code: int = 1) -> str:
    """The one line a command says before it gives up."""
    capsys.readouterr()
    assert run(command.split()) == code
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.count("\n") == 1, told.err
    return told.err


# --- import -----------------------------------------------------------------------------------------------------------


def test_import_a_run_and_make_a_picture(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("import logs/vqgan_x -o my-model --licence CC-BY-4.0")
    told = capsys.readouterr()
    assert told.out == "my-model\n"
    assert told.err == "8 attention heads assumed, files do not say; if it was another, give --heads\n"
    model = load_model("my-model")
    assert same_weights(model.tokenizer, unleashing_tokenizer())
    assert model.prior is not None
    assert same_weights(model.prior, official_prior())
    assert "license: cc-by-4.0" in Path("my-model/README.md").read_text("utf-8")
    ok("generate -m my-model --steps 2 -o x.png")
    ok("models verify my-model")
    assert capsys.readouterr().out == "x.png\nmy-model ok\n"


def test_what_files_do_not_say_can_be_given(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = "import logs/vqgan_x/saved_models/vqgan_ema_7.th -o m --prior logs/absorbing_x --heads 4 --image-size"
    assert run([*command.split(), "4x16"]) == 0
    assert capsys.readouterr() == ("m\n", "")
    prior = load_model("m").prior
    assert prior is not None
    assert (prior.config.n_heads, prior.window) == (4, (2, 8))
    assert "--image-size 4by4: write pixels" in failed(f"{command} 4by4 --force", capsys, 2)
    assert "image_size 5x5 is not a multiple" in failed(f"{command} 5 --force", capsys, 2)
    assert "knows 16 cells, not 8x8" in failed(f"{command} 16 --force", capsys, 2)
    assert "m exists already" in failed(f"{command} 8", capsys)
    assert run([*command.split(), "8", "--force"]) == 0


def test_import_taming_with_its_yaml(originals: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_folder = originals / "taming" / "gumbelvq"
    checkpoint, yaml = run_folder / "checkpoints" / "last.ckpt", run_folder / "configs" / "model.yaml"
    assert run(["import", str(checkpoint), "--config", str(yaml), "-o", str(tmp_path / "m")]) == 0
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'm'}\n"
    assert "no sampler found" in told.err
    expected = import_checkpoint(checkpoint, config=yaml)
    assert load_model(tmp_path / "m").identity == expected.identity
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(yaml.read_text("utf-8").replace("embed_dim: 16", "embed_dim: 99"), encoding="utf-8")
    command = f"import {checkpoint} -o {tmp_path / 'm2'} --config"
    assert "its YAML says embed_dim = 99, its weights say 16" in failed(f"{command} {wrong}", capsys)
    assert "none.yaml does not exist" in failed(f"{command} {tmp_path / 'none.yaml'}", capsys)


def test_import_refuses_in_one_line(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "nowhere does not exist" in failed("import nowhere -o m", capsys)
    (logs / "cut.th").write_bytes((logs / "logs/vqgan_x/saved_models/vqgan_ema_7.th").read_bytes()[:5000])
    assert "cut.th" in failed("import cut.th -o m", capsys)
    (logs / "notes.txt").write_text("hello", encoding="utf-8")
    assert "notes.txt" in failed("import notes.txt -o m", capsys)
    export_unleashing(unleashing_tokenizer(codebook_size=12), None, logs / "other", step=1)
    command = "import other/vqgan_ema_1.th --prior logs/absorbing_x -o m"
    assert "they do not belong together" in failed(command, capsys)
    assert "heads must be at least 1" in failed("import logs/vqgan_x --heads 0 -o m", capsys, 2)
    assert "5 heads do not divide: give --heads" in failed("import logs/vqgan_x --heads 5 -o m", capsys, 2)
    assert not (logs / "m").exists()


# --- export -----------------------------------------------------------------------------------------------------------


def test_export_to_unleashing_and_back(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model("m", unleashing_tokenizer(), official_prior(heads=4))
    ok("export m -o back --to unleashing")
    assert capsys.readouterr() == ("back\n", "the original needs to be told: 4 attention heads\n")
    model = import_checkpoint("back", heads=4)
    assert model.prior is not None
    assert same_weights(model.prior, official_prior(heads=4))
    assert same_weights(model.tokenizer, unleashing_tokenizer())
    assert "exists already" in failed("export m -o back --to unleashing", capsys)
    ok("export m -o back --to unleashing --force -q")


def test_export_to_diffusers_and_back(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model("m", taming_tokenizer(), official_prior())
    ok("export m -o vq --to diffusers")
    assert capsys.readouterr() == ("vq\n", "only the tokenizer was written: diffusers has no place for the prior\n")
    assert same_weights(import_checkpoint("vq").tokenizer, taming_tokenizer())
    assert "vq exists already" in failed("export m -o vq --to diffusers", capsys)
    export_diffusers(taming_tokenizer(), "vq2")
    ok("import vq2 -o from-diffusers -q")
    assert load_model("from-diffusers").identity == tokenizer_identity(taming_tokenizer())


def test_export_says_what_has_no_place_there(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_model("lean", lean_tokenizer(), None)
    for layout in ("diffusers", "unleashing"):
        assert "a lean tokenizer" in failed(f"export lean -o x --to {layout}", capsys, 2)
    assert "'onnx' is not one of 'diffusers', 'unleashing'" in failed("export lean -o x --to onnx", capsys, 2)
    assert "no model at nowhere" in failed("export nowhere -o x --to diffusers", capsys)
    assert not (logs / "x").exists()


# --- looking ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save_model("shelf/a", unleashing_tokenizer(), official_prior(), info={"name": "first", "licence": "MIT"})
    save_model("shelf/runs/b/model", lean_tokenizer(), None)
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_list(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("models list")
    builtin = capsys.readouterr().out.splitlines()
    ok("models list shelf")
    listed = capsys.readouterr().out.splitlines()
    assert len(listed) == len(builtin) + 2
    assert listed[-2].startswith("shelf/a ")
    assert listed[-2].endswith(" MB  24 codes, 2 pixels per cell, 4x4 cells")
    assert listed[-1].endswith(" MB  24 codes, 4 pixels per cell, tokenizer only")
    ok("models list shelf/a --json")
    assert json.loads(capsys.readouterr().out)[-1] == "shelf/a"
    for text, told in {"{}": "is not one of smalti's", "{": "is damaged", '{"format": 9}': "update smalti"}.items():
        (shelf / "shelf/a/model_index.json").write_text(text, encoding="utf-8")
        ok("models list shelf")
        listed = capsys.readouterr().out.splitlines()
        assert told in listed[-2]
        assert listed[-1].endswith("tokenizer only")
    assert failed("models list empty", capsys) == "error: empty holds no model folder\n"
    assert failed("models list nowhere", capsys) == "error: nowhere is not a folder\n"


def test_show_and_card(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("models show shelf/a")
    shown = json.loads(capsys.readouterr().out)
    assert (shown["name"], shown["codebook_size"], shown["window"]) == ("shelf/a", 24, [4, 4])
    assert shown["info"]["licence"] == "MIT"
    assert "prior/model.safetensors" in shown["sha256"]
    ok("models card shelf/a")
    assert "# first" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["show", "card", "verify"])
def test_a_model_that_is_not_there(shelf: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert "no model at nowhere: give a folder" in failed(f"models {command} nowhere", capsys)
    assert "no built-in model is called 'catz'" in failed(f"models {command} builtin:catz", capsys)
    assert "empty" in failed(f"models {command} empty", capsys)


def test_verify_names_the_file_that_differs(shelf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ok("models verify shelf/a")
    assert capsys.readouterr().out == "shelf/a ok\n"
    config = shelf / "shelf/a/prior/config.json"
    config.write_text(config.read_text("utf-8").replace("}", " }"), encoding="utf-8")
    assert "prior/config.json is not the file that was saved" in failed("models verify shelf/a", capsys)
    config.unlink()
    assert "prior/config.json is missing" in failed("models verify shelf/a", capsys)
    (shelf / "shelf/a/model_index.json").write_text("{", encoding="utf-8")
    assert "model_index.json is damaged" in failed("models show shelf/a", capsys)


# --- sharing ----------------------------------------------------------------------------------------------------------


def test_push_and_pull(shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Any] = []

    class Api:
        def create_repo(self, repository: str, *, private: bool, exist_ok: bool) -> None:
            calls.append((repository, private, exist_ok))

        def upload_folder(self, **options: Any) -> Any:
            calls.append((options["folder_path"], options["revision"], options["commit_message"]))
            return SimpleNamespace(commit_url="https://hub/commit/1")

    def download(repository: str, **options: Any) -> str:
        calls.append((repository, options["revision"], options["local_files_only"]))
        return "shelf/a"

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", download)
    ok("models push shelf/a me/mosaic --private --revision dev -m hello")
    ok("models pull me/mosaic --revision v1")
    assert capsys.readouterr().out == "https://hub/commit/1\nshelf/a\n"
    assert calls == [
        ("me/mosaic", True, True),
        (Path("shelf/a"), "dev", "hello"),
        ("me/mosaic", "v1", False),
    ]


def test_sharing_refuses_in_one_line(
    shelf: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise RuntimeError("Name or service not known")

    monkeypatch.setattr(hub, "HfApi", lambda: SimpleNamespace(create_repo=unreachable))
    monkeypatch.setattr(hub, "snapshot_download", unreachable)
    assert "cannot write to me/mosaic: Name or service" in failed("models push shelf/a me/mosaic", capsys)
    assert "me/mosaic cannot be downloaded: Name or service" in failed("models pull me/mosaic", capsys)
    (shelf / "shelf/a/vqgan/config.json").unlink()
    assert "vqgan/config.json is missing" in failed("models push shelf/a me/mosaic", capsys)

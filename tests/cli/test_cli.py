"""The command line as its users meet it: files, stdout, stderr, exit codes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from smalti.cli.app import run


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def ok(arguments: str, model: str) -> None:
    assert run([*arguments.split(), "-m", model]) == 0


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("generate -n 2 --seed 7 -o out/", ["out/generate-7.png", "out/generate-8.png"]),
        ("generate -n 2 -o x.png", ["x-0.png", "x-1.png"]),
        ("generate", ["generate-0.png"]),
        ("generate --size 3x12 --grid -n 3 -o sheet.png", ["sheet.png"]),
        ("generate -n 2 -o new/ --grid", ["new/generate-0.png", "new/generate-1.png", "new/grid.png"]),
        ("generate --animation fill.gif -o x.png", ["x.png", "fill.gif"]),
        ("keep a.png --region 0:2,0:2 -o k.webp", ["k.webp"]),
        ("inpaint a.png --region px:3:9,3:9 -o i.png", ["i.png"]),
        ("inpaint a.png --region px:3:9,3:9 --show-mask m.png", ["m.png"]),
        ("inpaint a.png --region top:1 --invert -o i.png", ["i.png"]),
        ("stitch --piece a.png@0:2,0:2 --piece b.png@1:3,1:3@3,4 -o s.png", ["s.png"]),
        ("extend a.png --left 2 --seam 1 -o e.png", ["e.png"]),
        ("variations a.png --amount 0.5 -o v.png", ["v.png"]),
        ("heal a.png -o h.png", ["h.png"]),
        ("encode a.png", ["a.codes.npz"]),
    ],
)
def test_results_are_paths_on_stdout(
    work: Path, model: str, capsys: pytest.CaptureFixture[str], command: str, expected: list[str]
) -> None:
    ok(command, model)
    assert lines(capsys) == expected
    assert all((work / name).stat().st_size > 0 for name in expected)
    assert not list(work.rglob("*.part"))


def test_json_is_one_object(work: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    ok("generate -n 2 --seed 3 -o x/ --json", model)
    answer = json.loads(capsys.readouterr().out)
    assert answer["outputs"] == ["x/generate-3.png", "x/generate-4.png"]
    assert answer["seeds"] == [3, 4]


def test_encode_decode_score_info_replay(work: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    ok("generate --seed 5 --steps 3 -o g.png", model)
    ok("encode g.png -o g.codes.npz", model)
    ok("decode g.codes.npz -o again.png", model)
    with Image.open("g.png") as g, Image.open("again.png") as again:
        assert np.array_equal(np.asarray(g), np.asarray(again))
    ok("score g.png -o surprise.png", model)
    capsys.readouterr()
    assert run(["info", "g.png", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["unchanged"]
    assert facts["recipe"]["seed"] == 5
    ok("replay g.png --check -o r.png", model)
    assert lines(capsys) == ["0 differing codes", "r.png"]
    assert Path("r.png").read_bytes() == Path("g.png").read_bytes()


def test_decode_gives_back_the_size_of_the_picture(work: Path, model: str) -> None:
    ok("encode a.png", model)
    ok("decode a.codes.npz -o d.png", model)
    with Image.open("d.png") as image:
        assert image.size == (61, 45)


def test_a_changed_picture_is_reencoded_and_the_user_is_told(
    work: Path, model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ok("generate -o g.png", model)
    with Image.open("g.png") as image:
        text = image.info["smalti"]
        changed = image.convert("RGB")
    changed.putpixel((0, 0), (1, 2, 3))
    info = PngInfo()
    info.add_itxt("smalti", text)
    changed.save("c.png", pnginfo=info)
    ok("heal c.png -o h.png", model)
    assert "re-encoded" in capsys.readouterr().err


def test_replay_says_that_a_picture_was_changed(work: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    ok("generate -o g.png", model)
    with Image.open("g.png") as image:
        info = PngInfo()
        info.add_itxt("smalti", image.info["smalti"])
        changed = image.convert("RGB")
    changed.putpixel((0, 0), (1, 2, 3))
    changed.save("c.png", pnginfo=info)
    ok("replay c.png --check --json", model)
    captured = capsys.readouterr()
    assert "changed since it was made" in captured.err
    assert json.loads(captured.out.splitlines()[-1]) == {"differing_codes": 0, "unchanged": False}


def test_replay_finds_the_model_folder_again(work: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(model, "models/mine")
    ok("generate -o g.png", "models/mine")
    capsys.readouterr()
    assert run(["replay", "g.png", "--check"]) == 0
    Path("models").rename("elsewhere")
    assert run(["replay", "g.png", "--check"]) == 1
    captured = capsys.readouterr()
    assert captured.out == "0 differing codes\n"
    assert "say where it is with -m" in captured.err
    assert run(["replay", "g.png", "--check", "-m", "elsewhere/mine"]) == 0


def test_an_odd_picture_is_edited_and_replayed_at_its_size(work: Path, model: str) -> None:
    ok("encode a.png -o a.npz", model)
    ok("inpaint a.npz --region top:2 -o edited.png", model)
    ok("heal a.png --amount 0.3 -o healed.png", model)
    for name in ("edited", "healed"):
        ok(f"replay {name}.png -o again.png --force", model)
        with Image.open(f"{name}.png") as before, Image.open("again.png") as after:
            assert before.size == after.size == (61, 45)
            assert before.tobytes() == after.tobytes()


def test_a_slash_means_a_folder(work: Path, model: str) -> None:
    ok("generate -o my.faces/", model)
    assert [path.name for path in Path("my.faces").iterdir()] == ["generate-0.png"]


def test_formats_that_lose_codes_say_so(work: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    ok("generate -o a.jpg", model)
    assert "only .png does" in capsys.readouterr().err


def test_no_metadata_leaves_no_trace(work: Path, model: str) -> None:
    ok("generate --no-metadata -o g.png", model)
    assert b"smalti" not in Path("g.png").read_bytes()


def test_nothing_is_overwritten_without_force(work: Path, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    ok("generate -o g.png", model)
    before = Path("g.png").read_bytes()
    assert run(["generate", "--seed", "1", "-o", "g.png", "-m", model]) == 1
    assert "exists already" in capsys.readouterr().err
    assert Path("g.png").read_bytes() == before
    ok("generate --seed 1 -o g.png --force", model)
    assert Path("g.png").read_bytes() != before


@pytest.mark.parametrize(
    ("command", "code", "message"),
    [
        ("inpaint nope.png --region 0:1,0:1", 1, "nope.png does not exist"),
        ("inpaint text.png --region 0:1,0:1", 1, "text.png is not a picture"),
        ("inpaint cut.png --region 0:1,0:1", 1, "cut.png is"),
        ("inpaint bomb.png --region 0:1,0:1", 1, "bomb.png"),
        ("inpaint a.png --region small.png", 2, "fit:mask.png"),
        ("inpaint a.png --region black.png", 2, "nothing would be remade"),
        ("inpaint a.png --region black.png --invert", 2, "nothing would be kept"),
        ("inpaint a.png --region 0:1,0:99", 2, "leaves the picture"),
        ("inpaint a.png --region nonsense", 2, "not understood"),
        ("generate --temperature nan", 2, "temperature"),
        ("generate --temperature -1", 2, "temperature"),
        ("generate --steps x", 2, "--steps"),
        ("generate --size 0x4", 2, "--size"),
        ("generate --order zigzag", 2, "order"),
        ("generate --animation film.mp4", 2, ".gif, .webp"),
        ("generate -o x.tga", 2, ".png"),
        ("generate -o -", 2, "not to standard output"),
        ("generate -o a.webp --animation a.webp", 2, "-o writes a file of this name"),
        ("generate --animation missing/a.gif", 1, "the folder does not exist"),
        ("generate -o " + "x" * 300 + ".png", 1, "the name is too long"),
        ("score a.png -o s.txt", 2, ".png"),
        ("encode a.png -o missing/a.npz", 1, "the folder does not exist"),
        ("replay a.png -o missing/a.png", 1, "the folder does not exist"),
        ("decode large.npz", 2, "2x2 codes are not those of 99x99 pixels"),
        ("stitch --piece a.png@0:2,0:2@-1,0", 2, "goes to ROW,COLUMN"),
        ("generate -n 2 --seed 4294967295", 2, "need seeds above"),
        ("generate -o missing/x.png", 1, "the folder does not exist"),
        ("generate --device cuda:77x", 2, "not available"),
        ("stitch --piece a.png", 2, "IMAGE@REGION"),
        ("decode wrong.npz", 1, "wrong.npz: code 77"),
        ("decode text.png", 1, "not a file of codes"),
        ("replay a.png --check", 2, "no smalti recipe"),
        ("frobnicate", 2, "No such command"),
        ("inpaint", 2, "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_the_right_exit_code(
    work: Path, model: str, capsys: pytest.CaptureFixture[str], command: str, code: int, message: str
) -> None:
    Path("text.png").write_text("this is no picture")
    Path("cut.png").write_bytes(Path("a.png").read_bytes()[:2000])
    Path("bomb.png").write_bytes(_huge_png())
    Image.new("L", (9, 9), 255).save("small.png")
    Image.new("L", (61, 45), 0).save("black.png")
    none = np.zeros(2, np.int64)
    np.savez("wrong.npz", codes=np.full((2, 2), 77, np.int32), codebook_size=np.int64(32), model=np.str_(""), size=none)
    zeros, large = np.zeros((2, 2), np.int32), np.array([99, 99])
    np.savez("large.npz", codes=zeros, codebook_size=np.int64(32), model=np.str_(""), size=large)
    before = set(work.rglob("*"))
    known = command.split()[0] not in ("frobnicate",)
    assert run([*command.split(), *(["-m", model] if known else [])]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    errors = captured.err.strip().splitlines()
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    assert message in errors[0]
    assert set(work.rglob("*")) == before


def _huge_png() -> bytes:
    """A PNG header that claims 60,000 x 60,000 pixels."""
    import struct
    import zlib

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 100)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("file", "damage", "message"),
    [
        ("prior/model.safetensors", "remove", "prior/model.safetensors is missing"),
        ("vqgan/model.safetensors", "cut", "vqgan/model.safetensors is damaged"),
        ("vqgan/model.safetensors", "flip", "vqgan/model.safetensors is not the file that was saved"),
        ("vqgan/config.json", "text", "vqgan/config.json is damaged"),
        ("model_index.json", "remove", "model_index.json is missing"),
    ],
)
def test_a_damaged_model_folder_is_named(
    work: Path, model: str, capsys: pytest.CaptureFixture[str], file: str, damage: str, message: str
) -> None:
    shutil.copytree(model, "broken")
    path = Path("broken") / file
    if damage == "remove":
        path.unlink()
    elif damage == "flip":
        data = bytearray(path.read_bytes())
        data[-10] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(path.read_bytes()[:100] if damage == "cut" else b"{nonsense")
    assert run(["generate", "-m", "broken"]) == 1
    assert message in capsys.readouterr().err


def test_disk_full_leaves_nothing_behind(
    work: Path, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    before = set(work.rglob("*"))
    assert run(["generate", "-o", "g.png", "-m", model]) == 1
    assert "the disk is full" in capsys.readouterr().err
    assert set(work.rglob("*")) == before


# a test run that was itself started in the background ignores SIGINT, and so would its children
MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from smalti.cli.app import main; main()"
)


def start(arguments: Sequence[str], cwd: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *arguments],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_real_process_writes_and_reports(work: Path, model: str) -> None:
    process = start(["inpaint", "a.png", "--region", "px:3:9,3:9", "-o", "i.png", "-m", model], work)
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out, err) == (0, "i.png\n", "")


def test_ctrl_c_keeps_what_is_finished(work: Path, model: str) -> None:
    process = start(["generate", "-n", "4000", "-o", "many/", "-m", model], work)
    assert process.stdout is not None
    first = process.stdout.readline().strip()
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert err == "interrupted: what was finished is kept\n"
    written = {first, *out.split()}
    assert {str(p.relative_to(work)) for p in (work / "many").iterdir()} == written
    assert 1 <= len(written) < 4000
    for path in written:
        with Image.open(work / path) as image:
            image.load()


def test_help_is_light_and_names_every_command(work: Path) -> None:
    code = (
        "import sys; from smalti.cli.app import run; code = run(['--help']); "
        "heavy = {'torch', 'fastapi', 'numpy', 'PIL'} & set(sys.modules); print(heavy); sys.exit(code or bool(heavy))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-200:]
    for verb in ("generate", "keep", "inpaint", "stitch", "extend", "variations", "heal", "replay", "train"):
        assert verb in done.stdout

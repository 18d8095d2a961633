"""`make demo`: commands spelled as the command line spells them, pictures that are there, checks that can fail."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import typer
from PIL import Image

from smalti.cli.app import app

ROOT = Path(__file__).resolve().parents[1]
VERBS = {"generate", "keep", "inpaint", "stitch", "extend", "variations", "heal"}


@pytest.fixture(scope="module")
def demo() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import demo

        yield demo
    finally:
        sys.path.remove(str(ROOT / "examples"))


def scenes(demo: ModuleType) -> list:
    return demo.scenes("demo-gallery", [], ["-m", "builtin:churches"])


def test_all_seven_verbs_are_shown(demo: ModuleType) -> None:
    assert {command[0] for scene in scenes(demo) for command in scene.commands} >= VERBS


def test_commands_are_spelled_right(demo: ModuleType) -> None:
    root = typer.main.get_command(app)
    with root.make_context("smalti", [], resilient_parsing=True) as context:
        for scene in scenes(demo):
            for name, *arguments in scene.commands:
                command = root.get_command(context, name)  # type: ignore[attr-defined]
                assert command is not None, name
                command.make_context(name, list(arguments), parent=context).close()


def test_sources_exist_and_results_are_written_by_a_command(demo: ModuleType) -> None:
    written = {word for scene in scenes(demo) for command in scene.commands for word in command}
    for scene in scenes(demo):
        for path, _ in [*scene.sources, *scene.results]:
            made = path in written or path.replace("-3.png", ".png").replace("-4.png", ".png") in written
            assert made or (ROOT / path).is_file(), path


def test_a_changed_pixel_is_noticed(demo: ModuleType, tmp_path: Path) -> None:
    before, after = tmp_path / "a.png", tmp_path / "b.png"
    picture = Image.new("RGB", (40, 30), "teal")
    picture.save(before)
    picture.putpixel((12, 12), (255, 0, 0))
    picture.save(after)
    assert "1,100 pixels" in demo.untouched(str(before), str(after), (10, 10, 20, 20))
    picture.putpixel((39, 29), (255, 0, 0))
    picture.save(after)
    with pytest.raises(AssertionError, match="outside the box"):
        demo.untouched(str(before), str(after), (10, 10, 20, 20))


def test_page_holds_its_pictures(demo: ModuleType) -> None:
    from gallery import Picture, Run, Section, command_line, page

    source = Picture(ROOT / "examples" / "pictures" / "face-a.png", "source")
    gone = Picture(ROOT / "examples" / "pictures" / "no-such.png", "gone")
    run = Run(["smalti", "inpaint", "a & b.png", "-o", "x.png"], 1.5, "remark <1>\nx.png\n")
    text = page([Section("Inpaint", "Another mouth.", [run], [source, gone])], hero=None, footer="made here")
    assert text.count("data:image/png;base64,") == 1
    assert "smalti inpaint &#x27;a &amp; b.png&#x27; -o x.png" in text
    assert "remark &lt;1&gt;" in text
    assert "$" not in text.replace('content: "$ "', "")
    assert "src=\"http" not in text
    long = command_line(["smalti", "stitch", *(f"--piece={'x' * 40}" for _ in range(3))])
    assert all(len(line) < 92 for line in long.splitlines())
    assert long.replace(" \\\n", "").split() == ["smalti", "stitch", *(f"--piece={'x' * 40}" for _ in range(3))]

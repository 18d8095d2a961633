"""The walls of the house: who may import whom, what a light import costs, and that names, texts and versions agree."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import smalti

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "smalti"
ROOMS = sorted(path.parent for path in PACKAGE.glob("*/__init__.py"))
LONGEST_FILE = 450  # lines; a longer one holds two ideas
HEAVY = ("torch", "fastapi", "numpy", "PIL", "pydantic", "accelerate")


def sources() -> Iterator[Path]:
    for folder in ("src", "tests", "benchmarks", "examples", "tools"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def texts() -> Iterator[Path]:
    """What a reader of the repository sees as text, this file aside (it names what must not be named)."""
    endings = {".py", ".md", ".toml", ".txt", ".yaml", ".yml", ".json", ".mjs", ".html", ".css", ".js", ".cfg", ""}
    tops = [p for p in ROOT.iterdir() if p.is_file()]
    folders = [p for name in (".ci", "src", "tests", "benchmarks", "examples", "tools", "docs", "data")
               for p in (ROOT / name).rglob("*") if p.is_file()]
    for path in [*tops, *folders]:
        if path.suffix in endings and path.name not in (".DS_Store", ".git") and path != Path(__file__).resolve():
            yield path


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)


def test_imports_point_inwards() -> None:
    """The contracts of pyproject.toml: layers of rooms, and an engine free of web, files and trainers."""
    ran = python("from importlinter.cli import lint_imports_command; lint_imports_command(['--no-cache'])")
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_importing_smalti_is_light() -> None:
    ran = python(f"import sys, smalti; print([name for name in {HEAVY} if name in sys.modules])")
    assert ran.stdout.strip() == "[]", ran.stdout + ran.stderr


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["generate", "--help"], ["train", "--help"]])
def test_help_is_light(arguments: list[str]) -> None:
    """Asking for help loads neither torch nor a web server; the list of modules is the proof, not a stopwatch."""
    ran = python(
        "import sys\n"
        "from smalti.cli.app import run\n"
        f"code = run({arguments})\n"
        "print('loaded:', [name for name in ('torch', 'fastapi', 'numpy', 'accelerate') if name in sys.modules])\n"
        "sys.exit(code)"
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip().endswith("loaded: []"), ran.stdout


def test_the_command_and_the_module_are_one() -> None:
    ran = subprocess.run([sys.executable, "-m", "smalti", "--version"], capture_output=True, text=True, check=False)
    assert ran.stdout.strip() == f"smalti {smalti.__version__}"


def test_public_names_are_sorted_and_complete() -> None:
    def place(name: str) -> tuple[int, str]:  # constants, classes, the rest: how ruff sorts names
        return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)

    assert smalti.__all__ == sorted(smalti.__all__, key=place)
    assert set(smalti.__all__) == {*smalti._HOME, "__version__"}
    assert dir(smalti) == sorted(smalti.__all__)


def test_public_names_are_typed_where_they_are_found() -> None:
    """What a type checker reads (`if TYPE_CHECKING`) and what is loaded (`_HOME`) are the same."""
    tree = ast.parse((PACKAGE / "__init__.py").read_text("utf-8"))
    typed = {
        alias.asname or alias.name: node.module
        for block in tree.body
        if isinstance(block, ast.If)
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == smalti._HOME


@pytest.mark.parametrize("name", smalti.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(smalti, name) is not None


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Pipelin'"):
        smalti.Pipelin  # noqa: B018


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_room_says_what_it_is(room: Path) -> None:
    """Each room opens with what it does, and what it lists as its names exists."""
    tree = ast.parse((room / "__init__.py").read_text("utf-8"))
    assert len(ast.get_docstring(tree) or "") > 40, f"{room.name}/__init__.py needs a docstring: what it does"
    module = importlib.import_module(f"smalti.{room.name}")
    for name in getattr(module, "__all__", []):
        assert hasattr(module, name), f"smalti.{room.name}.__all__ lists {name}, which is not there"


def test_every_module_imports() -> None:
    found = [name for _, name, _ in pkgutil.walk_packages([str(PACKAGE)], "smalti.") if not name.endswith("__main__")]
    assert len(found) > 30
    for name in found:
        importlib.import_module(name)


def test_no_file_is_long() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in sources()
        if (count := len(path.read_text("utf-8").splitlines())) > LONGEST_FILE
    }
    assert not long


def test_no_drawer_for_everything() -> None:
    """A helper lives in the room that needs it, or earns a noun."""
    drawers = {"utils", "helpers", "common", "misc", "util", "tools"}
    assert not [path for path in PACKAGE.rglob("*") if path.stem in drawers]


def test_nothing_names_a_machine() -> None:
    """No path of a developer's machine, no private package index."""
    machine = re.compile(
        r"(?<![\w.])(/work/|/home/[a-z]|/Users/[A-Za-z]|/opt/(?:wheels|pypi)|C:\\Users)|index-url\s*=?\s*https?:|"
        r"https?://(?:localhost|10\.|192\.168\.)[^\s]*simple"
    )
    named = {
        f"{path.relative_to(ROOT)}:{number}": line.strip()[:100]
        for path in texts()
        for number, line in enumerate(path.read_text("utf-8", errors="replace").splitlines(), 1)
        if machine.search(line)
    }
    assert not named


def test_version_and_changelog_agree() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    headings = re.findall(r"^## \[([^\]]+)\]", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert headings[1] == smalti.__version__ == project["version"]


def test_attribution_travels_with_the_pictures() -> None:
    """CC BY 4.0 asks for it wherever Adventurer faces, or a model trained on them, are given away."""
    cards = [p for p in (PACKAGE / "builtin").glob("*/README.md") if "dventurer" in p.read_text("utf-8")]
    for path in [ROOT / "NOTICE", ROOT / "examples" / "pictures" / "README.md", *cards]:
        text = path.read_text("utf-8")
        for part in ("Adventurer", "Lisa Wischofsky", "creativecommons.org/licenses/by/4.0", "DiceBear"):
            assert part in text, f"{path.relative_to(ROOT)} lacks {part!r}"


def test_links_between_documents_lead_somewhere() -> None:
    broken = []
    for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md"),
                 *(ROOT / "benchmarks").rglob("*.md")]:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text("utf-8")):
            if not (page.parent / target).exists():
                broken.append(f"{page.relative_to(ROOT)} -> {target}")
    assert not broken

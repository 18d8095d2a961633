"""All seven verbs on sample pictures, through the real command line: `make demo`.

Writes a folder with every picture and an `index.html` that shows them beside the commands that made them.

    python examples/demo.py [--out demo-gallery] [--faces builtin:faces] [--churches builtin:churches]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image, ImageChops

from gallery import Picture, Run, Section, command_line, page, strip

ROOT = Path(__file__).resolve().parents[1]
SMALTI = Path(sys.executable).with_name("smalti")
NAME = "examples/pictures"


@dataclass(frozen=True)
class Scene:
    """A section before it is run. Paths are relative to the repository, as in the commands."""

    title: str
    sentence: str
    commands: Sequence[Sequence[str]]
    sources: Sequence[tuple[str, str]] = ()
    """Files and captions, shown on the left."""
    results: Sequence[tuple[str, str]] = ()
    """Files and captions, shown on the right. A folder stands for all pictures in it."""
    checks: Sequence[Callable[[], str]] = field(default=())
    """Say in words what they verified; raise AssertionError if it is not so."""
    after: bool = False
    """Reads what other scenes wrote."""


def scenes(out: str, faces: Sequence[str], churches: Sequence[str]) -> list[Scene]:
    """What the demo shows. `faces`, `churches`: the `-m` option of each model."""
    return [
        Scene(
            "Generate",
            "From nothing: every cell is empty, and the model fills them all. Result i uses seed + i.",
            [
                ["generate", *faces, "-n", "9", "--seed", "7", "--grid", "-o", f"{out}/faces.png",
                 "--animation", f"{out}/faces.webp"],
                ["generate", *churches, "-n", "9", "--seed", "7", "--grid", "-o", f"{out}/churches.png"],
            ],
            results=[(f"{out}/faces.webp", "the order in which cells are filled"), (f"{out}/faces.png", "nine faces"),
                     (f"{out}/churches.png", "nine churches")],
        ),
        Scene(
            "Generate, larger",
            "A canvas of any height and width: three model windows wide here. It grows from the middle outwards, so "
            "that the sky stays one sky.",
            [["generate", *churches, "--size", "16x48", "-n", "2", "--seed", "3", "-o", f"{out}/panorama.png"]],
            results=[(f"{out}/panorama-3.png", "16 x 48 cells, seed 3"), (f"{out}/panorama-4.png", "seed 4")],
        ),
        Scene(
            "Keep",
            "One part of a picture stays as it is; everything around it is made anew, to fit.",
            [
                ["keep", f"{NAME}/church-a.png", *churches, "--region", "0:10,5:11", "--show-mask",
                 f"{out}/keep-mask.png"],
                ["keep", f"{NAME}/church-a.png", *churches, "--region", "0:10,5:11", "-n", "4", "--seed", "1", "--grid",
                 "-o", f"{out}/keep.png"],
            ],
            sources=[(f"{NAME}/church-a.png", "source"), (f"{out}/keep-mask.png", "hatched: made anew")],
            results=[(f"{out}/keep.png", "four churches under one tower")],
        ),
        Scene(
            "Inpaint",
            "Empty a box, get another mouth: as many times as you like, with everything else untouched.",
            [
                ["inpaint", f"{NAME}/face-a.png", *faces, "--region", "9:14,4:10", "--show-mask",
                 f"{out}/mouth-mask.png"],
                ["inpaint", f"{NAME}/face-a.png", *faces, "--region", "9:14,4:10", "-n", "9", "--seed", "11", "--grid",
                 "-o", f"{out}/mouths.png"],
            ],
            sources=[(f"{NAME}/face-a.png", "source"), (f"{out}/mouth-mask.png", "hatched: made anew")],
            results=[(f"{out}/mouths.png", "nine mouths")],
        ),
        Scene(
            "Inpaint with a mask",
            "A mask picture selects what is white, as drawn in any editor.",
            [["inpaint", f"{NAME}/face-c.png", *faces, "--region", f"{NAME}/mask.png", "-n", "4", "--seed", "5",
              "--grid", "-o", f"{out}/eyes.png"]],
            sources=[(f"{NAME}/face-c.png", "source"), (f"{NAME}/mask.png", "mask")],
            results=[(f"{out}/eyes.png", "four pairs of eyes")],
        ),
        Scene(
            "Any size, byte for byte",
            "A picture need not consist of whole cells: this one is 125 x 123 pixels, the box is given in pixels, and "
            "every pixel outside it comes back as it was.",
            [["inpaint", f"{NAME}/face-odd.png", *faces, "--region", "px:75:111,33:79", "--seed", "4",
              "-o", f"{out}/odd.png"]],
            sources=[(f"{NAME}/face-odd.png", "source")],
            results=[(f"{out}/odd.png", "another mouth")],
            checks=[lambda: untouched(f"{NAME}/face-odd.png", f"{out}/odd.png", (33, 75, 79, 111))],
        ),
        Scene(
            "Stitch",
            "Pieces of several pictures on one grid: the eyes of one, the mouth of another, and a face around both.",
            [["stitch", *faces, "--piece", f"{NAME}/face-a.png@6:10,2:11", "--piece", f"{NAME}/face-b.png@10:13,4:10",
              "-n", "4", "--seed", "4", "--grid", "-o", f"{out}/stitch.png"]],
            sources=[(f"{NAME}/face-a.png", "eyes: rows 6-9, columns 2-10"),
                     (f"{NAME}/face-b.png", "mouth: rows 10-12, columns 4-9")],
            results=[(f"{out}/stitch.png", "four faces with those eyes and that mouth")],
        ),
        Scene(
            "Extend",
            "A picture grows beyond its borders; the animation shows the new cells as they come.",
            [["extend", f"{NAME}/church-c.png", *churches, "--left", "12", "--right", "12", "--seed", "6",
              "-o", f"{out}/wide.png", "--animation", f"{out}/wide.webp"]],
            sources=[(f"{NAME}/church-c.png", "source")],
            results=[(f"{out}/wide.webp", "the fill"), (f"{out}/wide.png", "12 columns of cells on either side")],
            checks=[lambda: inside(f"{NAME}/church-c.png", f"{out}/wide.png", (96, 0))],
        ),
        Scene(
            "Variations",
            "A random share of the cells is emptied and filled again, another one for every result.",
            [["variations", f"{NAME}/face-d.png", *faces, "--amount", "0.4", "-n", "9", "--seed", "1",
              "--grid", "-o", f"{out}/variations.png"]],
            sources=[(f"{NAME}/face-d.png", "source")],
            results=[(f"{out}/variations.png", "40% of the cells, nine times")],
        ),
        Scene(
            "Heal",
            "The model finds the cells that surprise it most and makes those again. Nobody says where they are.",
            [
                ["score", f"{NAME}/face-damaged.png", *faces, "-o", f"{out}/surprise.png"],
                ["heal", f"{NAME}/face-damaged.png", *faces, "--amount", "0.12", "--seed", "3",
                 "-o", f"{out}/healed.png"],
            ],
            sources=[(f"{NAME}/face-damaged.png", "source")],
            results=[(f"{out}/surprise.png", "surprise: yellow is what the model did not expect"),
                     (f"{out}/healed.png", "healed")],
        ),
        Scene(
            "Look and replay",
            "A picture carries its codes and its recipe, so it can be made again, code for code.",
            [["info", f"{out}/panorama-3.png"], ["replay", f"{out}/panorama-3.png", *churches, "--check"]],
            after=True,
        ),
    ]


def untouched(before: str, after: str, box: tuple[int, int, int, int]) -> str:
    """All pixels outside `box` (left, top, right, bottom) are the same."""
    a, b = (Image.open(ROOT / path).convert("RGB") for path in (before, after))
    assert a.size == b.size, f"{after} has another size than {before}"
    difference = ImageChops.difference(a, b)
    changed = difference.crop(box).getbbox()
    difference.paste((0, 0, 0), box)
    assert difference.getbbox() is None, f"{after} differs from {before} outside the box, in {difference.getbbox()}"
    kept = a.width * a.height - (box[2] - box[0]) * (box[3] - box[1])
    assert changed, f"{after}: nothing changed inside the box"
    return f"{kept:,} pixels outside the box compared with the source: all identical"


def inside(before: str, after: str, at: tuple[int, int]) -> str:
    """The source stands in the result at `at` (x, y), pixel for pixel."""
    a, b = (Image.open(ROOT / path).convert("RGB") for path in (before, after))
    part = b.crop((*at, at[0] + a.width, at[1] + a.height))
    difference = ImageChops.difference(a, part).getbbox()
    assert difference is None, f"{after} differs from {before} in {difference}"
    return f"{a.width * a.height:,} pixels of the source found again in the result: all identical"


def run(arguments: Sequence[str], threads: int) -> Run:
    """Run `smalti ...` from the repository's root, exactly as shown."""
    program = [str(SMALTI)] if SMALTI.exists() else [sys.executable, "-m", "smalti"]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"}
    started = time.perf_counter()
    done = subprocess.run(
        [*program, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    seconds = time.perf_counter() - started
    result = Run(["smalti", *arguments], seconds, done.stdout + done.stderr, done.returncode)
    print(f"{seconds:6.1f} s  {' '.join(result.command)}", flush=True)
    if done.returncode:
        print(f"          exit code {done.returncode}: {done.stderr.strip()}", file=sys.stderr, flush=True)
    return result


def shown(files: Sequence[tuple[str, str]]) -> list[Picture]:
    return [Picture(ROOT / path, caption) for path, caption in files]


def section(scene: Scene, runs: Sequence[Run]) -> tuple[Section, list[str]]:
    """A finished section and what went wrong in it."""
    wrong = [f"{command_line(r.command)}\n{r.output.strip()}" for r in runs if r.code]
    facts = []
    if not wrong:
        for check in scene.checks:
            try:
                facts.append(check())
            except AssertionError as error:
                wrong.append(str(error))
    return Section(scene.title, scene.sentence, runs, shown(scene.sources), shown(scene.results), facts), wrong


def fresh(folder: Path) -> None:
    """An empty folder. One that this demo did not write is left alone."""
    if folder.exists():
        if any(folder.iterdir()) and not (folder / "index.html").exists():
            sys.exit(f"{folder} holds other things: name another folder with --out")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)


def main() -> int:
    words = argparse.ArgumentParser(description="Run all verbs on the sample pictures and write a gallery.")
    words.add_argument("--out", default="demo-gallery", help="folder for the gallery, in the repository")
    words.add_argument("--faces", default="builtin:faces", help="model for the faces")
    words.add_argument("--churches", default="builtin:churches", help="model for the churches")
    given = words.parse_args()
    folder = ROOT / given.out
    started = time.perf_counter()
    fresh(folder)
    (folder / "index.html").write_text("<!doctype html><title>smalti</title>The demo is running.", "utf-8")

    faces = [] if given.faces == "builtin:faces" else ["-m", given.faces]  # the command line's own default
    plan = scenes(given.out, faces, ["-m", given.churches])
    # loading Python and torch is single-threaded, so several commands at once use a small machine better than one
    cores = os.cpu_count() or 1
    workers = min(4, cores)
    done: dict[int, list[Run]] = {}
    with ThreadPoolExecutor(workers) as pool:
        for later in (False, True):
            jobs = {
                i: [pool.submit(run, command, cores // workers) for command in scene.commands]
                for i, scene in enumerate(plan)
                if scene.after == later
            }
            done |= {i: [job.result() for job in started_jobs] for i, started_jobs in jobs.items()}

    finished = [section(scene, done[i]) for i, scene in enumerate(plan)]
    wrong = [problem for _, problems in finished for problem in problems]
    hero = folder / "hero.png"
    best = [ROOT / f"{given.out}/{name}" for name in ("mouths.png", "wide.png", "stitch.png")]
    if all(path.exists() for path in best):
        hero.write_bytes(strip(best, height=256))
    seconds = time.perf_counter() - started
    footer = (
        f"Made in {seconds:.0f} seconds on {cores} processor core{'s' * (cores > 1)}. "
        'Faces: <a href="https://www.figma.com/community/file/1184595184137881796">“Adventurer”</a> by '
        '<a href="https://www.instagram.com/lischi_art/">Lisa Wischofsky</a>, licensed under '
        '<a href="https://creativecommons.org/licenses/by/4.0/">CC BY 4.0</a>, drawn with DiceBear (MIT); recoloured, '
        "cropped and rendered at low resolution; results are made by a model trained on them. Churches: CC0 1.0."
    )
    text = page([s for s, _ in finished], hero=hero, footer=footer)
    (folder / "index.html").write_text(text, "utf-8")

    print(f"\n{len(finished)} sections in {seconds:.0f} s. Open {folder / 'index.html'}")
    for problem in wrong:
        print(f"\nfailed: {problem}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

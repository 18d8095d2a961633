"""Draw random churches in flat colours: sky, hills, a nave with aisles, towers or a dome, trees. Needs Pillow only.

    python tools/draw_churches.py data/drawn/churches-train.npy --count 20000
    python tools/draw_churches.py data/drawn/churches-val.npy --first 1000000 --count 1000
    python tools/draw_churches.py some-folder --count 50 --size 256

A name ending in .npy gets one array, uint8 (count, size, size, 3); any other name a folder of PNGs with
attributes.jsonl. The picture depends only on its index and the size, to the pixel: the order of the random draws below
is part of the data set, so change nothing that draws. About 110 pictures of 128x128 a second on one core.
"""

from __future__ import annotations

import argparse
import json
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Tones = tuple[Colour, Colour]  # light, dark (of the sky: top, horizon)

SKIES: list[Tones] = [
    ((74, 144, 226), (200, 228, 250)),
    ((255, 170, 110), (255, 226, 180)),
    ((44, 62, 110), (160, 140, 190)),
    ((120, 180, 230), (240, 244, 248)),
    ((240, 130, 120), (250, 210, 160)),
    ((150, 165, 180), (215, 222, 228)),
    ((30, 36, 72), (70, 80, 130)),
    ((90, 170, 200), (225, 240, 230)),
]
STONES: list[Tones] = [
    ((214, 196, 160), (176, 154, 118)),
    ((200, 170, 130), (160, 126, 90)),
    ((178, 92, 66), (138, 64, 46)),
    ((228, 222, 210), (190, 182, 168)),
    ((168, 168, 172), (128, 128, 136)),
    ((240, 236, 228), (206, 200, 190)),
    ((150, 120, 96), (112, 86, 66)),
    ((222, 184, 150), (184, 142, 108)),
]
ROOFS: list[Colour] = [
    (110, 58, 48), (84, 96, 110), (70, 110, 100), (150, 74, 52),
    (60, 62, 72), (96, 134, 120), (120, 90, 70), (52, 80, 120),
]  # fmt: skip
GROUNDS: list[Tones] = [
    ((104, 150, 84), (78, 120, 62)),
    ((150, 170, 90), (120, 140, 70)),
    ((196, 178, 140), (166, 146, 110)),
    ((226, 232, 238), (198, 208, 218)),
    ((120, 130, 120), (96, 104, 98)),
]
GLASS: list[Colour] = [(52, 66, 96), (60, 54, 70), (90, 130, 170), (200, 150, 70), (70, 100, 110)]
CROSSES: list[Colour] = [(212, 175, 55), (70, 60, 60), (230, 225, 215)]
DOORS: list[Colour] = [(86, 54, 36), (60, 44, 40), (120, 40, 36), (44, 66, 60)]
HILLS: list[Colour] = [(96, 120, 140), (90, 130, 90), (130, 120, 110)]
LEAVES: list[Colour] = [(62, 110, 62), (84, 128, 58), (46, 88, 66), (150, 110, 50)]
BELFRY, CLOCK_FACE, CLOCK_HAND = (40, 36, 44), (245, 240, 228), (40, 40, 40)
TRUNK, SNOWY_LEAVES = (90, 66, 48), (70, 100, 90)

OVERSAMPLING = 4


def mix(a: Colour, b: Colour, t: float) -> Colour:
    """From a (t = 0) to b (t = 1)."""
    r, g, blue = (int(x + (y - x) * t) for x, y in zip(a, b, strict=True))
    return r, g, blue


def shade(colour: Colour, factor: float) -> Colour:
    """Darker (factor < 1) or lighter."""
    r, g, b = (max(0, min(255, int(value * factor))) for value in colour)
    return r, g, b


class Pen:
    """Draws in a square of 128 units, scaled by `zoom` about (x, y), and remembers how far it reached."""

    def __init__(self, draw: ImageDraw.ImageDraw, unit: float, x: float = 0, y: float = 0, zoom: float = 1) -> None:
        self.draw, self.unit, self.x, self.y, self.zoom = draw, unit, x, y, zoom
        self.left, self.top, self.right = 1e9, 1e9, -1e9

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The pixel of a point."""
        self.left, self.top, self.right = min(self.left, x), min(self.top, y), max(self.right, x)
        return (self.x + (x - self.x) * self.zoom) * self.unit, (self.y + (y - self.y) * self.zoom) * self.unit

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.draw.rectangle([self.at(x0, y0), self.at(x1, y1)], fill=colour)

    def polygon(self, points: Sequence[tuple[float, float]], colour: Colour) -> None:
        self.draw.polygon([self.at(x, y) for x, y in points], fill=colour)

    def oval(self, x0: float, y0: float, x1: float, y1: float, colour: Colour) -> None:
        self.draw.ellipse([self.at(x0, y0), self.at(x1, y1)], fill=colour)

    def slice(self, x0: float, y0: float, x1: float, y1: float, start: float, end: float, colour: Colour) -> None:
        self.draw.pieslice([self.at(x0, y0), self.at(x1, y1)], start, end, fill=colour)

    def line(self, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour) -> None:
        pixels = max(1, int(width * self.zoom * self.unit))
        self.draw.line([self.at(x0, y0), self.at(x1, y1)], fill=colour, width=pixels)

    def arch(self, x: float, top: float, bottom: float, width: float, colour: Colour, pointed: bool) -> None:
        """A window or door with a pointed or a round top, centred at x."""
        rise, half = width * (0.9 if pointed else 0.5), width / 2
        if pointed:
            shoulder = top + rise * 0.45
            self.polygon(
                [(x - half, bottom), (x - half, top + rise), (x - width * 0.3, shoulder), (x, top),
                 (x + width * 0.3, shoulder), (x + half, top + rise), (x + half, bottom)],
                colour,
            )  # fmt: skip
        else:
            self.box(x - half, top + rise, x + half, bottom, colour)
            self.oval(x - half, top, x + half, top + 2 * rise, colour)

    def cross(self, x: float, y: float, size: float, colour: Colour) -> None:
        """A cross standing on (x, y)."""
        self.box(x - size * 0.09, y - size, x + size * 0.09, y + 0.2, colour)
        self.box(x - size * 0.32, y - size * 0.72, x + size * 0.32, y - size * 0.54, colour)


# --- tops of towers; each returns the height of its tip ---------------------------------------------------------------


def pointed_top(pen: Pen, x: float, y: float, half: float, height: float, roof: Colour) -> float:
    pen.polygon([(x - half, y), (x, y - height), (x, y)], roof)
    pen.polygon([(x + half, y), (x, y - height), (x, y)], shade(roof, 0.78))
    return y - height


def onion_top(pen: Pen, x: float, y: float, width: float, roof: Colour, stone: Tones) -> float:
    girth, height, parts = width * 1.12, width * 1.12 * 0.95, 24
    pen.box(x - width * 0.3, y - width * 0.16, x + width * 0.3, y, stone[1])
    y -= width * 0.12
    outline = []
    for i in range(parts + 1):
        t = i / parts
        bulge = math.sin(math.pi * min(1, t * 1.0) ** 0.75) * 0.95 + 0.28 * (1 - t)
        outline.append(((girth / 2) * bulge * (1 - t**6), y - height * t * 1.25))
    right = [(x + radius, level) for radius, level in reversed(outline)]
    pen.polygon([(x - radius, level) for radius, level in outline] + right, roof)
    pen.polygon([(x + radius * 0.25, level) for radius, level in outline] + right, shade(roof, 0.8))
    return y - height * 1.25


def dome_top(pen: Pen, x: float, y: float, width: float, roof: Colour, stone: Tones) -> float:
    pen.box(x - width * 0.46, y - width * 0.2, x + width * 0.46, y, stone[1])
    y -= width * 0.18
    pen.slice(x - width * 0.52, y - width * 0.52, x + width * 0.52, y + width * 0.52, 180, 360, roof)
    pen.slice(x - width * 0.1, y - width * 0.52, x + width * 0.52, y + width * 0.52, 270, 360, shade(roof, 0.82))
    pen.box(x - width * 0.1, y - width * 0.74, x + width * 0.1, y - width * 0.46, stone[0])
    tip = y - width * 0.95
    pen.polygon([(x - width * 0.14, y - width * 0.72), (x, tip), (x + width * 0.14, y - width * 0.72)], roof)
    return tip


def battlements(pen: Pen, x: float, y: float, width: float, stone: Tones) -> float:
    merlons = 4
    pen.box(x - width * 0.56, y - width * 0.1, x + width * 0.56, y + width * 0.06, stone[1])
    for i in range(merlons):
        left = x - width * 0.56 + i * width * 1.12 / (merlons - 0.35)
        pen.box(left, y - width * 0.26, left + width * 0.17, y - width * 0.08, stone[0])
    return y - width * 0.26


def tower_top(
    pen: Pen, rng: random.Random, kind: str, x: float, y: float, width: float, roof: Colour, stone: Tones
) -> float:
    match kind:
        case "spire":
            return pointed_top(pen, x, y, width * 0.56, width * rng.uniform(1.6, 2.8), roof)
        case "pyramid":
            return pointed_top(pen, x, y, width * 0.6, width * rng.uniform(0.6, 1.1), roof)
        case "onion":
            return onion_top(pen, x, y, width, roof, stone)
        case "dome":
            return dome_top(pen, x, y, width, roof, stone)
    return battlements(pen, x, y, width, stone)


# --- the building -----------------------------------------------------------------------------------------------------


def tower(
    pen: Pen, rng: random.Random, x: float, width: float, bottom: float, top: float,
    stone: Tones, roof: Colour, glass: Colour, kind: str, pointed: bool,
) -> float:  # fmt: skip
    """A tower with one to three storeys of windows, the uppermost open; returns the height of its tip."""
    pen.box(x - width / 2, top, x + width / 2, bottom, stone[0])
    pen.box(x + width * 0.18, top, x + width / 2, bottom, shade(stone[0], 0.9))
    pen.box(x - width * 0.54, top - width * 0.03, x + width * 0.54, top + width * 0.08, stone[1])
    storeys = rng.choice([1, 2, 2, 3])
    storey = (bottom - top) / (storeys + 0.6)
    for i in range(storeys):
        y = top + width * 0.22 + i * storey * 0.82
        windows = rng.choice([1, 2])
        for j in range(windows):
            centre = x + (j - (windows - 1) / 2) * width * 0.42
            opening = width * (0.34 if windows == 1 else 0.26)
            pen.arch(centre, y, y + min(storey * 0.55, width * 0.75), opening, glass if i else BELFRY, pointed)
        if i < storeys - 1:
            ledge = y + storey * 0.64
            pen.box(x - width * 0.52, ledge, x + width * 0.52, ledge + width * 0.06, stone[1])
    return tower_top(pen, rng, kind, x, top, width, roof, stone)


def aisles(
    pen: Pen, rng: random.Random, x: float, base: float, nave: float, wall: float,
    stone: Tones, roof: Colour, glass: Colour, pointed: bool,
) -> None:  # fmt: skip
    width = rng.uniform(10, 18)
    height = wall * rng.uniform(0.5, 0.68)
    for side in (-1, 1):
        inner, outer = x + side * nave / 2, x + side * (nave / 2 + width)
        low, high = min(inner, outer), max(inner, outer)
        pen.box(low, base - height, high, base, shade(stone[0], 0.94))
        slope = [(inner, base - height - width * 0.55), (outer + side * 1.5, base - height), (inner, base - height)]
        pen.polygon(slope, shade(roof, 0.9))
        pen.arch((low + high) / 2, base - height + 3, base - 5, width * 0.36, glass, pointed)


def rose_window(pen: Pen, rng: random.Random, x: float, top: float, nave: float, stone: Tones, glass: Colour) -> None:
    radius = nave * rng.uniform(0.1, 0.16)
    y = top + rng.uniform(1, 6)
    rim = radius + 1.4
    pen.oval(x - rim, y - rim, x + rim, y + rim, stone[1])
    pen.oval(x - radius, y - radius, x + radius, y + radius, glass)
    for i in range(rng.choice([6, 8])):
        angle = i * math.pi * 2 / 8
        pen.line(x, y, x + radius * math.cos(angle), y + radius * math.sin(angle), 0.8, stone[0])
    pen.oval(x - radius * 0.3, y - radius * 0.3, x + radius * 0.3, y + radius * 0.3, stone[0])


def clock(pen: Pen, x: float, top: float) -> None:
    radius = 4.2
    pen.oval(x - radius, top - 2 - radius, x + radius, top - 2 + radius, CLOCK_FACE)
    pen.box(x - 0.4, top - 4.8, x + 0.4, top - 2, CLOCK_HAND)
    pen.box(x - 0.2, top - 2.4, x + 2.6, top - 1.6, CLOCK_HAND)


def building(pen: Pen, rng: random.Random, base: float, x: float) -> tuple[float, dict[str, Any]]:
    """The whole church standing on height `base`, centred at x; returns the width of its door and what it is."""
    stone, roof = rng.choice(STONES), rng.choice(ROOFS)
    tower_roof = roof if rng.random() < 0.7 else rng.choice(ROOFS)
    glass = rng.choice(GLASS)
    pointed = rng.random() < 0.55
    nave, wall, gable = rng.uniform(44, 62), rng.uniform(26, 36), rng.uniform(14, 26)
    top = base - wall
    plan = rng.choice(["single", "twin", "side", "dome", "none", "twin", "single"])
    kind = rng.choice(["spire", "spire", "pyramid", "onion", "dome", "flat"])
    tower_width = rng.uniform(15, 21)
    gilt = rng.choice(CROSSES)

    if rng.random() < 0.75:
        aisles(pen, rng, x, base, nave, wall, stone, roof, glass, pointed)
    if plan == "dome":
        drum = nave * rng.uniform(0.5, 0.7)
        pen.box(x - drum / 2, top - gable - 4, x + drum / 2, top, stone[1])
        for i in range(5):
            pen.arch(x - drum * 0.38 + i * drum * 0.19, top - gable - 2, top - gable + 7, drum * 0.1, glass, False)
        crown = rng.choice(["dome", "dome", "onion"])
        pen.cross(x, tower_top(pen, rng, crown, x, top - gable - 4, drum * 1.02, tower_roof, stone), 7, gilt)
    if plan == "single":
        height = top - gable - rng.uniform(8, 20)
        tip = tower(pen, rng, x, tower_width, top, height, stone, tower_roof, glass, kind, pointed)
        pen.cross(x, tip, 7, gilt)
    if plan == "side":
        centre = x + rng.choice([-1, 1]) * (nave / 2 + tower_width * 0.2)
        height = top - gable - rng.uniform(2, 20)
        tip = tower(pen, rng, centre, tower_width, base, height, stone, tower_roof, glass, kind, pointed)
        pen.cross(centre, tip, 6, gilt)

    pen.box(x - nave / 2, top, x + nave / 2, base, stone[0])
    pen.polygon([(x - nave / 2 - 2, top + 0.5), (x, top - gable), (x + nave / 2 + 2, top + 0.5)], roof)
    pen.polygon([(x - nave / 2 + 3, top + 0.5), (x, top - gable + 4.5), (x + nave / 2 - 3, top + 0.5)], stone[0])
    pen.box(x - nave / 2, base - 3, x + nave / 2, base, stone[1])
    if plan == "none":
        pen.cross(x, top - gable, 6, gilt)
    for side in (-1, 1):
        if rng.random() < 0.6:
            buttress = x + side * nave * 0.47
            pen.box(buttress - 2, top + 4, buttress + 2, base, stone[1])

    facade = rng.choice(["rose", "rose", "lancets", "clock"])
    if facade == "rose":
        rose_window(pen, rng, x, top, nave, stone, glass)
    elif facade == "lancets":
        for i in (-1, 0, 1):
            pen.arch(x + i * nave * 0.13, top - 4 - (3 if i == 0 else 0), top + 9, nave * 0.085, glass, pointed)
    else:
        clock(pen, x, top)

    door, door_height = nave * rng.uniform(0.17, 0.26), wall * rng.uniform(0.42, 0.56)
    wood = rng.choice(DOORS)
    pen.arch(x, base - door_height - 2, base, door + 3.4, stone[1], pointed)
    pen.arch(x, base - door_height, base, door, wood, pointed)
    pen.box(x - 0.4, base - door_height + 3, x + 0.4, base, shade(wood, 0.7))
    for side in (-1, 1):
        pen.arch(x + side * nave * 0.3, base - wall * 0.62, base - wall * 0.2, nave * 0.1, glass, pointed)

    if plan == "twin":
        height = top - gable + rng.uniform(-6, 10)
        state = rng.getstate()
        for side in (-1, 1):
            rng.setstate(state)  # the second tower is the first one again
            centre = x + side * (nave / 2 - 1)
            tip = tower(pen, rng, centre, tower_width * 0.9, base, height, stone, tower_roof, glass, kind, pointed)
            pen.cross(centre, tip, 6, gilt)
    what = {"plan": plan, "tower": kind, "facade": facade, "stone": STONES.index(stone), "roof": ROOFS.index(roof)}
    return door, what


# --- the scene --------------------------------------------------------------------------------------------------------


def clouds(pen: Pen, rng: random.Random, horizon_colour: Colour) -> None:
    for _ in range(rng.choice([0, 1, 2, 3, 4])):
        x, y, size = rng.uniform(-10, 128), rng.uniform(8, 58), rng.uniform(5, 11)
        white = mix(horizon_colour, (255, 255, 255), 0.65)
        for j in range(4):
            left = x + j * size * 0.75
            pen.oval(left - size, y - size * (0.35 + 0.3 * (j in (1, 2))), left + size, y + size * 0.42, white)


def hills(pen: Pen, rng: random.Random, horizon: float, horizon_colour: Colour) -> None:
    for i in range(rng.choice([0, 1, 2])):
        colour = mix(rng.choice(HILLS), horizon_colour, 0.55 - 0.2 * i)
        y = horizon - rng.uniform(8, 22) * (1 - 0.4 * i)
        waves, phase = rng.randint(3, 6), rng.uniform(0, 6)
        ridge = [
            (t * 128 / 24, y + 4 * math.sin(phase + t * waves / 6) + 2 * math.sin(phase * 2 + t * waves / 2.3))
            for t in range(25)
        ]
        pen.polygon([(0, 130), *ridge, (128, 130)], colour)


def trees(pen: Pen, rng: random.Random, base: float, ground: Colour) -> None:
    for _ in range(rng.choice([0, 1, 2, 2, 3])):
        x = rng.choice([rng.uniform(2, 26), rng.uniform(102, 126)])
        y, size = base + rng.uniform(0, 10), rng.uniform(5, 10)
        leaves = rng.choice(LEAVES) if ground[2] < 200 else SNOWY_LEAVES
        pen.box(x - 0.9, y - size * 0.9, x + 0.9, y, TRUNK)
        if rng.random() < 0.5:
            for j in range(3):
                half, foot = size * (0.75 - 0.16 * j), y - size * (0.5 + 0.55 * j)
                tip = y - size * (1.5 + 0.55 * j)
                pen.polygon([(x - half, foot), (x, tip), (x + half, foot)], shade(leaves, 1 + 0.06 * j))
        else:
            pen.oval(x - size * 0.8, y - size * 2.1, x + size * 0.8, y - size * 0.55, leaves)
            pen.oval(x - size * 0.5, y - size * 2.1, x + size * 0.4, y - size * 1.1, shade(leaves, 1.14))


def church(index: int, size: int = 128) -> tuple[Image.Image, dict[str, Any]]:
    """Picture `index` in `size` x `size` pixels, and the choices it was drawn from."""
    rng = random.Random(index)
    unit, side = OVERSAMPLING * size / 128, int(size * OVERSAMPLING)
    image = Image.new("RGB", (side, side))
    draw = ImageDraw.Draw(image)
    pen = Pen(draw, unit)

    sky = rng.choice(SKIES)
    horizon = rng.uniform(92, 104)
    for y in range(side):
        draw.line([(0, y), (side, y)], fill=mix(*sky, min(1, y / (horizon * unit))))
    if rng.random() < 0.35:
        x, height, radius = rng.uniform(12, 116), rng.uniform(10, 34), rng.uniform(5, 9)
        sun = mix(sky[1], (255, 250, 225), 0.8)
        pen.oval(x - radius, height - radius, x + radius, height + radius, sun)
    clouds(pen, rng, sky[1])
    hills(pen, rng, horizon, sky[1])
    ground = rng.choice(GROUNDS)
    pen.box(0, horizon, 128, 128, ground[0])
    pen.polygon([(0, horizon + 8), (128, horizon + rng.uniform(2, 16)), (128, 128), (0, 128)], ground[1])

    base, x = min(horizon + rng.uniform(4, 11), 114), 64 + rng.uniform(-5, 5)
    state = rng.getstate()
    probe = Pen(ImageDraw.Draw(Image.new("RGB", (8, 8))), 0.01)  # once unseen, to learn how large it gets
    building(probe, rng, base, x)
    half = max(x - probe.left, probe.right - x)
    zoom = min(1.45, (base - 5) / (base - probe.top), (min(x, 128 - x) - 2) / half)
    rng.setstate(state)
    door, what = building(Pen(draw, unit, x, base, zoom), rng, base, x)
    door *= zoom

    path = [(x - door * 0.7, base), (x + door * 0.7, base), (x + door * 1.7, 128), (x - door * 1.7, 128)]
    pen.polygon(path, mix(ground[1], (220, 205, 175), 0.55))
    trees(pen, rng, base, ground[0])
    picture = image.resize((size, size), Image.Resampling.LANCZOS)
    return picture, {**what, "sky": SKIES.index(sky), "ground": GROUNDS.index(ground)}


# --- files ------------------------------------------------------------------------------------------------------------


def write(pictures: Iterator[tuple[int, Image.Image, dict[str, Any]]], target: Path, count: int, size: int) -> None:
    """(index, picture, attributes) as one .npy or as a folder of PNGs."""
    if target.suffix == ".npy":
        target.parent.mkdir(parents=True, exist_ok=True)
        beside = target.with_name(f".{target.name}.part")
        pixels = np.lib.format.open_memmap(beside, "w+", np.uint8, (count, size, size, 3))
        for row, (_, image, _) in enumerate(pictures):
            pixels[row] = np.asarray(image)
        pixels.flush()
        beside.rename(target)
        return
    target.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, image, what in pictures:
        name = f"church-{index:06d}.png"
        image.save(target / name)
        lines.append(json.dumps({"file": name, "index": index, **what}) + "\n")
    (target / "attributes.jsonl").write_text("".join(lines), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description="Draw random churches.")
    parser.add_argument("target", type=Path, help="NAME.npy, or a folder for PNGs")
    parser.add_argument("--first", type=int, default=0, help="index of the first picture (validation: 1000000)")
    parser.add_argument("--count", type=int, default=20_000, help="how many")
    parser.add_argument("--size", type=int, default=128, help="pixels per side")
    given = parser.parse_args()
    indices = range(given.first, given.first + given.count)
    write(((i, *church(i, given.size)) for i in indices), given.target, given.count, given.size)
    print(given.target)


if __name__ == "__main__":
    main()

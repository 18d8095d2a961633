"""The page that `make demo` leaves behind: one HTML file with its pictures inside."""

from __future__ import annotations

import base64
import html
import io
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from PIL import Image

KINDS = {".png": "image/png", ".webp": "image/webp", ".gif": "image/gif", ".jpg": "image/jpeg"}


@dataclass(frozen=True)
class Picture:
    """A file to show, and what to call it."""

    path: Path
    caption: str


@dataclass(frozen=True)
class Run:
    """A command as it was run, and what came of it."""

    command: Sequence[str]
    seconds: float
    output: str
    """What it printed; shown when it is more than a file name."""
    code: int = 0


@dataclass(frozen=True)
class Section:
    """One thing smalti does."""

    title: str
    sentence: str
    runs: Sequence[Run]
    sources: Sequence[Picture] = ()
    results: Sequence[Picture] = ()
    facts: Sequence[str] = field(default=())
    """What was checked, in words."""


def page(sections: Sequence[Section], *, hero: Path | None, footer: str) -> str:
    """The whole document. Pictures that do not exist, after a failed command, are left out."""
    template = Template((Path(__file__).parent / "gallery.html").read_text("utf-8"))
    return template.substitute(
        contents="".join(f'<a href="#{_anchor(s.title)}">{html.escape(s.title)}</a>' for s in sections),
        hero=_figure(Picture(hero, "")) if hero is not None and hero.exists() else "",
        sections="\n".join(_section(number, section) for number, section in enumerate(sections, 1)),
        footer=footer,
    )


def _section(number: int, section: Section) -> str:
    sources, results = (
        "".join(_figure(p) for p in pictures if p.path.exists()) for pictures in (section.sources, section.results)
    )
    arrow = '<span class="arrow" aria-hidden="true">→</span>' if sources and results else ""
    facts = "".join(f"<li>{html.escape(fact)}</li>" for fact in section.facts)
    return f"""
<section id="{_anchor(section.title)}">
  <header><span class="number">{number}</span><h2>{html.escape(section.title)}</h2></header>
  <p>{html.escape(section.sentence)}</p>
  {"".join(_run(run) for run in section.runs)}
  <div class="row">
    {f'<div class="pictures sources">{sources}</div>' if sources else ""}{arrow}
    {f'<div class="pictures results">{results}</div>' if results else ""}
  </div>
  {f'<ul class="facts">{facts}</ul>' if facts else ""}
</section>"""


def _run(run: Run) -> str:
    said = [line for line in run.output.splitlines() if not line.endswith(tuple(KINDS)) and line.strip()]
    output = f'<span class="said">{html.escape(chr(10).join(said))}</span>' if said else ""
    failed = ' class="failed"' if run.code else ""
    command = html.escape(command_line(run.command))
    return (
        f'<pre{failed}><button type="button" title="Copy">copy</button><code>{command}</code>'
        f'<span class="time">{run.seconds:.1f} s</span>{output}</pre>'
    )


def command_line(command: Sequence[str], width: int = 88) -> str:
    """As one would type it: broken before an option where it is long."""
    parts: list[str] = []
    for word in map(shlex.quote, command):
        if parts and not word.startswith("-") and (parts[-1].startswith("-") or len(parts) == 1):
            parts[-1] += f" {word}"  # an option and its value, or the verb and its picture, stay together
        else:
            parts.append(word)
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + len(part) > width:
            lines[-1] += " \\"
            lines.append("   ")
        lines[-1] += f" {part}"
    return "\n".join(lines)


def _figure(picture: Picture) -> str:
    """A picture at twice its size, smoothly, or as wide as there is room."""
    with Image.open(picture.path) as opened:
        width, height = opened.size
    alt = html.escape(picture.caption or picture.path.stem)
    caption = f"<figcaption>{html.escape(picture.caption)}</figcaption>" if picture.caption else ""
    wide = ' class="wide"' if width > 2 * height else ""
    data = base64.b64encode(picture.path.read_bytes()).decode()
    return (
        f'<figure{wide}><img src="data:{KINDS[picture.path.suffix]};base64,{data}" alt="{alt}" '
        f'style="width:{2 * width}px;aspect-ratio:{width}/{height}">{caption}</figure>'
    )


def _anchor(title: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in title.lower()).strip("-")


def strip(pictures: Sequence[Path], height: int = 128, gap: int = 6) -> bytes:
    """Pictures side by side at one height, as PNG: the head of the page."""
    opened = [Image.open(p).convert("RGB") for p in pictures]
    scaled = [i.resize((round(i.width * height / i.height), height), Image.Resampling.LANCZOS) for i in opened]
    wide = Image.new("RGBA", (sum(i.width + gap for i in scaled) - gap, height))
    x = 0
    for image in scaled:
        wide.paste(image, (x, 0))
        x += image.width + gap
    buffer = io.BytesIO()
    wide.save(buffer, "PNG")
    return buffer.getvalue()

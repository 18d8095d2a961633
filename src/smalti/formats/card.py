"""The model card: what a model was trained on, what it reaches, what it may be used for."""

from __future__ import annotations

from typing import Any

from smalti.formats.classes import listed


def model_card(index: dict[str, Any]) -> str:
    """Markdown for the README.md of a model folder, from its index. Unknown facts are left out, not invented."""
    info = index.get("info", {})
    name = info.get("name", "a smalti model")
    front = ["---", "library_name: smalti", "tags: [vqgan, discrete-diffusion, inpainting]"]
    if "licence" in info:
        front.append(f"license: {info['licence'].split()[0].lower()}")
    lines = [*front, "---", "", f"# {name}", ""]
    if "summary" in info:
        lines += [info["summary"], ""]
    window = index.get("window")
    size = f", made for {window[0]}x{window[1]} cells" if window else ", tokenizer only"
    lines += [f"{index['codebook_size']} codes, {index['cell']} pixels per cell{size}.", ""]
    if isinstance(info.get("classes"), list):
        lines += [f"{len(info['classes'])} classes: {listed(info['classes'])}.", ""]
    for title, key in [
        ("Source", "source"),
        ("Data", "data"),
        ("Licence and attribution", "attribution"),
        ("Training", "training"),
        ("Numbers", "metrics"),
        ("Limits", "limits"),
    ]:
        if key in info:
            lines += [f"## {title}", "", *_body(info[key]), ""]
    path = info.get("load", "path/to/this/folder")
    lines += [
        "## Use",
        "",
        "```python",
        "from smalti import Pipeline",
        "",
        f'pipe = Pipeline.from_pretrained("{path}")',
        "pipe.generate(num_images=4).contact_sheet()",
        "```",
    ]
    return "\n".join(lines) + "\n"


def _body(value: Any) -> list[str]:
    if isinstance(value, dict):
        return ["| | |", "| --- | --- |", *(f"| {key} | {item} |" for key, item in value.items())]
    if isinstance(value, list):
        return [f"- {item}" for item in value]
    return [str(value)]

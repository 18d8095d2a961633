"""Every option defined once, and the way commands share them."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from smalti.errors import UsageError

MODEL = "Model"
SAMPLING = "Sampling"
OUTPUT = "Output"

Model = Annotated[
    str,
    typer.Option(
        "-m", "--model", help="builtin:faces, builtin:churches, a model folder, or user/repo.", rich_help_panel=MODEL
    ),
]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or mps.", rich_help_panel=MODEL)]
Dtype = Annotated[
    str, typer.Option(help="auto, float32 or bfloat16; auto takes the faster one.", rich_help_panel=MODEL)
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object on stdout instead of paths.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress, no remarks.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite outputs that exist.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="The file to write.", rich_help_panel=OUTPUT)]
Outputs = Annotated[
    str | None,  # a path would forget the slash
    typer.Option(
        "-o", "--output", help="A file, or a folder (ending in /) for one file per result.", rich_help_panel=OUTPUT
    ),
]
Seed = Annotated[int, typer.Option(help="Result i uses seed + i.", min=0, max=2**32 - 1, rich_help_panel=SAMPLING)]
Label = Annotated[
    str | None,
    typer.Option(help="A class of the model, by name or number (`smalti models show`).", rich_help_panel=SAMPLING),
]
RegionOption = Annotated[
    str,
    typer.Option(
        "--region",
        help="5:8,3:13 (rows,columns of cells) · center:8x6 · top:4 bottom:4 left:4 right:4 · mask.png (white) · "
        "fit:mask.png (resized) · px:40:90,32:120 (pixels) · joined with +",
    ),
]
Invert = Annotated[bool, typer.Option("--invert", help="Everything but the region.")]
Paste = Annotated[
    bool,
    typer.Option(
        "--paste-original/--no-paste",
        help="Give kept pixels back byte-identical, or show the pure decode.",
        rich_help_panel=OUTPUT,
    ),
]
Feather = Annotated[
    int | None,
    typer.Option(help="Pixels over which a change fades in, inside the changed area.", rich_help_panel=OUTPUT),
]
Size = Annotated[str | None, typer.Option(help="Rows x columns of cells, 16x48, or pixels high x wide, 128x384px.")]


@dataclass(frozen=True)
class MakeOptions:
    """What all seven verbs take."""

    model: Model = "builtin:faces"
    num_images: Annotated[
        int, typer.Option("-n", "--num-images", help="How many results.", min=1, rich_help_panel=SAMPLING)
    ] = 1
    seed: Seed = 0
    preset: Annotated[str | None, typer.Option(help="fast, balanced or best.", rich_help_panel=SAMPLING)] = None
    steps: Annotated[
        int | None,
        typer.Option(help="Steps of the fill, at most one per cell; 24 by default.", min=1, rich_help_panel=SAMPLING),
    ] = None
    temperature: Annotated[
        float | None,
        typer.Option(
            help="1 samples the model; below tidier, above stranger. The built-in models start at 0.85.",
            rich_help_panel=SAMPLING,
        ),
    ] = None
    order: Annotated[
        str | None,
        typer.Option(help="bluenoise, random, ancestral, halton, raster or confidence.", rich_help_panel=SAMPLING),
    ] = None
    schedule: Annotated[
        str | None, typer.Option(help="linear or cosine: how many cells per step.", rich_help_panel=SAMPLING)
    ] = None
    label: Label = None
    guidance: Annotated[
        float | None,
        typer.Option(help="How much more typical of --label than the model itself; 1 to 4 is usual.", min=0,
                     rich_help_panel=SAMPLING),
    ] = None
    top_k: Annotated[
        int | None, typer.Option(help="Draw from the k likeliest codes; 0 = all.", rich_help_panel=SAMPLING)
    ] = None
    top_p: Annotated[
        float | None, typer.Option(help="Draw from the likeliest codes of this mass.", rich_help_panel=SAMPLING)
    ] = None
    windows: Annotated[
        str | None, typer.Option(help="On large canvases: outward, tiles or overlap.", rich_help_panel=SAMPLING)
    ] = None
    overlap: Annotated[
        int | None, typer.Option(help="Cells shared by neighbouring windows.", rich_help_panel=SAMPLING)
    ] = None
    output: Outputs = None
    grid: Annotated[
        bool, typer.Option("--grid/--separate", help="One contact sheet of all results.", rich_help_panel=OUTPUT)
    ] = False
    animation: Annotated[
        Path | None, typer.Option(help="Also write the fill as .gif or .webp.", rich_help_panel=OUTPUT)
    ] = None
    metadata: Annotated[
        bool,
        typer.Option("--metadata/--no-metadata", help="Codes and recipe inside the PNG.", rich_help_panel=OUTPUT),
    ] = True
    device: Device = "auto"
    dtype: Dtype = "auto"
    json: Json = False
    force: Force = False
    quiet: Quiet = False

    @property
    def request_fields(self) -> dict[str, Any]:
        """The part that becomes a request, in the Python API's names; options not given are left out."""
        given = {
            "num_images": self.num_images,
            "seed": self.seed,
            "preset": self.preset,
            "num_inference_steps": self.steps,
            "temperature": self.temperature,
            "order": self.order,
            "schedule": self.schedule,
            "label": self.label,
            "guidance": self.guidance,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "windows": self.windows,
            "overlap": self.overlap,
        }
        return {name: value for name, value in given.items() if value is not None}


def shares(options: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the fields of a dataclass as options; it receives them as one argument, `shared`."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        own = [
            p.replace(annotation=hints[p.name])
            for p in inspect.signature(command).parameters.values()
            if p.name != "shared"
        ]
        shared_hints = get_type_hints(options, include_extras=True)
        extra = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if field.default is MISSING else field.default,
                annotation=shared_hints[field.name],
            )
            for field in fields(options)
        ]

        @functools.wraps(command)
        def run(**given: Any) -> None:
            names = {p.name for p in extra}
            shared = options(**{name: value for name, value in given.items() if name in names})
            command(**{name: value for name, value in given.items() if name not in names}, shared=shared)

        keyword = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own]
        run.__signature__ = inspect.Signature([*keyword, *extra])  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in [*keyword, *extra]}
        return run

    return decorate


def parse_size(text: str | None, cell: int) -> tuple[int | None, int | None]:
    """`16x48` -> 16 rows, 48 columns of cells; `128x384px` -> the cells that cover it. None -> the model's own."""
    if text is None:
        return None, None
    match = re.fullmatch(r"(\d+)x(\d+)(px)?", text.strip().lower())
    if not match or "0" in match.groups():
        raise UsageError(f"--size {text}: write rows x columns of cells, 16x48, or pixels, 128x384px", field="size")
    high, wide = int(match[1]), int(match[2])
    return (-(-high // cell), -(-wide // cell)) if match[3] else (high, wide)

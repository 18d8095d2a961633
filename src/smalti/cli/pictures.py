"""Where a command's pictures come from and go to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

from smalti.errors import ModelError, OutputError, UsageError
from smalti.files import check_output, explained

if TYPE_CHECKING:
    from PIL import Image

    from smalti.cli.options import MakeOptions
    from smalti.pipeline.output import Output
    from smalti.pipeline.pipeline import Pipeline
    from smalti.pipeline.results import Result

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
ANIMATIONS = (".gif", ".webp")


def load_pipeline(model: str, device: str, dtype: str, *, local_files_only: bool = False) -> Pipeline:
    """A model on a device; `auto` takes CUDA, then MPS, then the CPU. Raises UsageError for one that is not there."""
    import torch

    from smalti.pipeline.pipeline import Pipeline
    from smalti.prior.kernels import DType

    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if device == "auto":
        device = next(name for name, there in available.items() if there)
    if not available.get(device.split(":")[0], False):
        there = ", ".join(name for name, ok in available.items() if ok)
        raise UsageError(f"--device {device} is not available here; there is: {there}", field="device")
    if dtype not in get_args(DType):
        raise UsageError(f"--dtype must be one of {', '.join(get_args(DType))}, not {dtype}", field="dtype")
    return Pipeline.from_pretrained(model, device=device, dtype=cast("DType", dtype), local_files_only=local_files_only)


def made_with(image: Path, name: str, device: str, dtype: str) -> Pipeline:
    """The model that a picture's recipe names. Raises ModelError saying how to name another place."""
    try:
        # a name that came with a picture is a stranger's word: it must not start a download
        return load_pipeline(name, device, dtype, local_files_only=True)
    except ModelError as error:
        raise ModelError(f"{image} was made with the model {name}, which is not found ({error}): "
                         "say where it is with -m") from None  # fmt: skip


def check_picture(path: Path, suffixes: Sequence[str] = SUFFIXES, *, option: str = "-o", force: bool = False) -> None:
    """Refuse before any work a name that could not be written after."""
    if path.suffix.lower() not in suffixes:
        raise UsageError(f"{option} {path}: the name must end in one of {', '.join(suffixes)}", field="output")
    check_output(path, force=force)


def write_image(image: Image.Image, path: Path, *, metadata: bool = True, force: bool = False) -> None:
    """Write a picture by its suffix, atomically; only PNG carries codes and recipe."""
    from smalti.pipeline.recipe import save_image

    save_image(image, path, metadata=metadata, force=force)


class Destination:
    """Turns `-o`, `--grid` and `--animation` into files, and refuses before any work what it could not write after."""

    def __init__(self, verb: str, seed: int, count: int, options: MakeOptions) -> None:
        self.options, self.verb, self.count = options, verb, count
        given = options.output or (f"{verb}-{seed}.png" if options.grid or count == 1 else f"{verb}s/")
        if given == "-":
            raise UsageError("-o -: pictures are written to files, not to standard output", field="output")
        self.output = Path(given)
        with explained(self.output):
            self.folder = given.endswith("/") or self.output.is_dir() or not self.output.suffix
        pictures = [self._name(seed + i) for i in range(count)] if self._separate else []
        pictures += [self.sheet] if self.sheet is not None else []
        if options.animation is not None and options.animation in pictures:
            raise UsageError(f"--animation {options.animation}: -o writes a file of this name", field="animation")
        if self.folder:
            _make_folder(self.output)
        for path in pictures:
            check_picture(path, force=options.force)
        if options.animation is not None:
            check_picture(options.animation, ANIMATIONS, option="--animation", force=options.force)

    @property
    def loses_codes(self) -> bool:
        """Whether pictures are written in a format that cannot carry their codes and recipe."""
        return self._separate and not self.folder and self.output.suffix.lower() != ".png"

    @property
    def _separate(self) -> bool:
        return self.folder or not self.options.grid

    @property
    def sheet(self) -> Path | None:
        """Where the contact sheet goes, if one is wanted."""
        if not self.options.grid:
            return None
        return self.output / "grid.png" if self.folder else self.output

    def _name(self, seed: int) -> Path:
        if self.folder:
            return self.output / f"{self.verb}-{seed}.png"
        if self.count == 1:
            return self.output
        return self.output.with_name(f"{self.output.stem}-{seed}{self.output.suffix}")

    def write(self, result: Result) -> Path | None:
        """Write one finished result, unless only a sheet is wanted."""
        if not self._separate:
            return None
        path = self._name(result.seed)
        write_image(result.image, path, metadata=self.options.metadata, force=self.options.force)
        return path

    def close(self, output: Output) -> Iterator[Path]:
        """Write the contact sheet and the animation of what is finished."""
        if self.sheet is not None:
            write_image(output.contact_sheet(), self.sheet, force=self.options.force)
            yield self.sheet
        if self.options.animation is not None:
            output.animate(self.options.animation, force=self.options.force)
            yield self.options.animation


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot create the folder {folder}: {error.strerror}") from None

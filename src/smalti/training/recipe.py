"""`Recipe`: everything a training run is made of, from YAML and `--set a.b=c`.

A wrong key is an error that names the nearest right one. Paths are relative to where the command runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from textwrap import wrap
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from smalti.errors import SmaltiError, UsageError
from smalti.prior import SIZES as PRIOR_SIZES
from smalti.prior import PriorConfig
from smalti.sampling import SamplerOptions
from smalti.tokenizer import SIZES as TOKENIZER_SIZES
from smalti.tokenizer import TokenizerConfig
from smalti.training.batches import check_batch
from smalti.training.parallel import processes_planned
from smalti.training.prior_stage import PriorOptions
from smalti.training.tokenizer_stage import TokenizerOptions
from smalti.training.tracking import TrackerName

Model = TypeVar("Model", bound=BaseModel)
_CONFIG = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class DataOptions(BaseModel):
    """Which pictures, and how they are prepared."""

    model_config = _CONFIG

    path: str | None = None
    """A folder of pictures (with subfolders), a .zip, tar shards, parquet, an LMDB folder of LSUN, or a .npy of uint8
    (count, height, width, 3)."""
    codes: str | None = None
    """In place of `path`, for the prior alone: the codes themselves, as a latents file of unleashing-transformers or a
    .npy of integers (count, rows, columns). They must be those of the tokenizer (`from_model`)."""
    validation: str | None = None
    """The same for validation; without it, `validation_share` of the pictures is held out."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.05
    """Share held out, at most 1,000 pictures, always the same ones."""
    size: tuple[Annotated[int, Field(ge=8)], Annotated[int, Field(ge=8)]] = (128, 128)
    """Height and width in pixels, 96x128; pictures are scaled to cover it and cut. One number means a square."""
    cuts: Annotated[int, Field(ge=1, le=64)] = 1
    """Parts taken of each picture: the middle, and this many less one at random places."""
    zoom: Annotated[float, Field(ge=1, le=8)] = 1.0
    """Random parts are magnified by up to this, on top of covering `size`."""
    flip: bool = False
    """Mirror pictures at random; wrong where left and right mean something."""
    labels: bool = False
    """Teach the prior what each picture is: the folders that pictures are sorted into, or the classes that shards and
    tables name. Pictures can then be asked for by class, and guided towards it."""
    classes: tuple[str, ...] = ()
    """With `labels`: names of the classes in the order of their numbers; if none are given, those found, sorted."""
    make: str | None = None
    """The command that makes the data, shown if there is none."""

    @field_validator("size", mode="before")
    @classmethod
    def _square(cls, value: Any) -> Any:
        if isinstance(value, int):
            return (value, value)
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+)x(\d+)", value.strip())
            if match is None:
                raise ValueError("write a number, or height x width as 96x128")
            return (int(match[1]), int(match[2]))
        return value


class Recipe(BaseModel):
    """A training run: data, both stages, and what is written on the result."""

    model_config = _CONFIG

    name: Annotated[str, Field(pattern=r"^[\w.-]+$")] = "mine"
    """Names the run's folder and the model."""
    run: str | None = None
    """Folder for checkpoints, metrics, samples and the model; default runs/<name>."""
    stage: Literal["both", "tokenizer", "decoder", "prior"] = "both"
    """What to train. The prior alone takes the tokenizer of this run, or `from_model`. The decoder alone is that of
    `start_from`: pictures get better while codes stay what they are, and with them the prior."""
    from_model: str | None = None
    """A model whose tokenizer is used instead of training one: a folder, builtin:NAME, or user/repo on the Hub."""
    start_from: str | None = None
    """A model, named in the same ways, whose weights the stages begin with: to train on, or on other pictures."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Decides initial weights, the order of pictures, masks and samples."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")] = "auto"
    """Where to train: auto = CUDA if there is one, else the CPU."""
    threads: Annotated[int, Field(ge=1)] | None = None
    """CPU threads; default = all."""
    data: DataOptions = DataOptions()
    """The pictures."""
    tokenizer: TokenizerOptions = TokenizerOptions()
    """The first stage."""
    prior: PriorOptions = PriorOptions()
    """The second stage."""
    track: TrackerName = "none"
    """Where metrics and grids also go while training: tensorboard (files in the run's folder, extra `track`), trackio
    or wandb. metrics.jsonl is written always."""
    dtype: Literal["float32", "float16"] = "float32"
    """How the model's weights are stored; float16 halves the files."""
    sampler: dict[str, Any] = Field(default_factory=dict)
    """Defaults of the model's sampler that differ from smalti's (see `SamplerOptions`)."""
    info: dict[str, Any] = Field(default_factory=dict)
    """For the model card: summary, licence, data, attribution, limits."""

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.run) if self.run else Path("runs") / self.name

    def tokenizer_config(self) -> TokenizerConfig:
        """The tokenizer's architecture. Raises UsageError for an unknown size or a wrong field."""
        base = _named(self.tokenizer.size, TOKENIZER_SIZES, "tokenizer.size")
        return _configured(TokenizerConfig, base.model_dump(mode="json"), self.tokenizer.model, "tokenizer.model")

    def prior_config(self, codebook_size: int, cell: int) -> PriorConfig:
        """The prior's architecture for codes of that tokenizer. Raises UsageError as `tokenizer_config` does."""
        base = _named(self.prior.size, PRIOR_SIZES, "prior.size")
        window = {"height": -(-self.data.size[0] // cell), "width": -(-self.data.size[1] // cell)}
        fields = {**base, "codebook_size": codebook_size, **window}
        if self.data.labels:
            fields["n_classes"] = len(self.data.classes)
        return _configured(PriorConfig, fields, self.prior.model, "prior.model")

    def check(self) -> None:
        """Raise UsageError for what can be known to be wrong before any picture is read."""
        if self.data.codes is not None:
            self._check_codes()
        elif self.data.path is None:
            hint = self.data.make or "--set data.path=FOLDER (or .zip, .tar, .npy)"
            raise UsageError(f"the recipe has no data: {hint}", field="data.path")
        losses, trains = self.tokenizer.losses, self.stage != "prior" and self.from_model is None
        if trains and losses.lpips and not losses.lpips_files:
            raise UsageError(
                "tokenizer.losses.lpips compares by a VGG-16 that you bring: --set tokenizer.losses.lpips_files="
                "[vgg16.pth,lpips.pth], or tokenizer.losses.lpips=0 and tokenizer.losses.perceptual=1 instead",
                field="tokenizer.losses.lpips_files",
            )
        if self.stage == "decoder" and self.start_from is None:
            raise UsageError("the decoder alone needs a model to start from: --set start_from=FOLDER",
                             field="start_from")  # fmt: skip
        if self.data.labels and "n_classes" in self.prior.model:
            raise UsageError("the number of classes follows from data.labels: leave n_classes out", field="prior.model")
        for name in ("height", "width", "codebook_size"):
            if name in self.prior.model:
                raise UsageError(f"prior.model: {name} follows from data.size and the tokenizer: leave it out "
                                 "(the network's width is d_model)", field="prior.model")  # fmt: skip
        self.prior.check()
        length = self.tokenizer
        if trains and losses.critic and length.budget_minutes is None and losses.gan_start >= length.steps:
            raise UsageError(
                f"the critic would never be heard: tokenizer.losses.gan_start is {losses.gan_start}, and the tokenizer "
                f"trains for {length.steps} steps",
                field="tokenizer.losses.gan_start",
            )
        if self.data.path is not None:
            pictures = Path(self.data.path).resolve()
            if self.folder.resolve() in (pictures, *pictures.parents):
                raise UsageError(f"run: {self.folder} holds the pictures: give the run another folder", field="run")
        if self.data.zoom > 1 and self.data.cuts == 1:
            raise UsageError("data.zoom is for random parts: --set data.cuts=4 (or more)", field="data.zoom")
        cell = self.tokenizer_config().cell
        if self.from_model is None and any(side % cell for side in self.data.size):
            raise UsageError(f"data.size {self.data.size} is not a multiple of the tokenizer's cell of {cell} pixels",
                             field="data.size")  # fmt: skip
        self.prior_config(1024, cell)
        SamplerOptions(**self.sampler)
        self.check_batches(processes_planned())

    def check_batches(self, processes: int, pictures: int | None = None) -> None:
        """Raise UsageError for a batch that cannot be divided among `processes`, or is larger than the data set."""
        if self.stage != "prior" and self.from_model is None:
            check_batch("tokenizer", self.tokenizer.batch, self.tokenizer.accumulate, processes, pictures)
        if self.stage in ("both", "prior"):
            views = None if pictures is None else pictures * (2 if self.data.flip else 1)
            check_batch("prior", self.prior.batch, self.prior.accumulate, processes, views)

    def _check_codes(self) -> None:
        if self.stage != "prior":
            raise UsageError("data.codes trains the prior alone: --set stage=prior", field="stage")
        if self.data.path is not None:
            raise UsageError("give data.codes or data.path, not both", field="data.codes")
        if self.data.labels:
            raise UsageError("codes have no class names: data.labels needs pictures", field="data.labels")
        if self.data.flip:
            raise UsageError("codes cannot be mirrored as pictures can: data.flip must be false", field="data.flip")


def load_recipe(recipe: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """The recipe called so, or in that YAML file, with `changes` such as "prior.steps=2000" applied.

    Raises UsageError naming the file, the field, and the nearest known name.
    """
    text, source = _read(recipe)
    try:
        fields = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UsageError(f"{source} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(fields, dict):
        raise UsageError(f"{source} holds no fields")
    for change in changes:
        _apply(fields, change)
    path = Path(recipe)
    if path.suffix.lower() in (".yaml", ".yml") and path.stem != "config":  # which is what runs call their own
        fields.setdefault("name", re.sub(r"[^\w.-]+", "-", path.stem))
    try:
        return Recipe.model_validate(fields)
    except ValidationError as error:
        raise _explained(error, Recipe, source) from None


def explained_yaml(recipe: Recipe) -> str:
    """The recipe as YAML with every field filled in, and above each what it means."""
    return "\n".join(_explained_lines(recipe, "")) + "\n"


def _explained_lines(model: BaseModel, indent: str) -> Iterator[str]:
    width = 118 - len(indent)
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        yield from (f"{indent}# {line}" for line in wrap(" ".join((field.description or "").split()), width))
        if isinstance(value, BaseModel):
            yield f"{indent}{name}:"
            yield from _explained_lines(value, indent + "  ")
            continue
        plain = model.model_dump(mode="json", include={name})
        text = yaml.safe_dump(plain, sort_keys=False, allow_unicode=True, default_flow_style=True, width=1 << 20)
        yield indent + text.strip()[1:-1]  # "{field: value}" without the braces: always one line


def preset_names() -> list[str]:
    """The recipes that ship with smalti."""
    folder = resources.files("smalti.training") / "recipes"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


# --- parts ------------------------------------------------------------------------------------------------------------


def _read(recipe: str | Path) -> tuple[str, str]:
    """(text, name for messages)."""
    path = Path(recipe)
    if path.suffix.lower() in (".yaml", ".yml") or path.is_file():
        try:
            return path.read_text("utf-8"), str(path)
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"recipe {path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    name, known = str(recipe), preset_names()
    if name not in known:
        raise UsageError(f"no recipe is called {name!r}{nearest(name, known)}; a file's name ends in .yaml")
    return (resources.files("smalti.training") / "recipes" / f"{name}.yaml").read_text("utf-8"), name


def _apply(fields: dict[str, Any], change: str) -> None:
    """Set one field, "a.b=c" with c in YAML."""
    place, equals, value = change.partition("=")
    keys = place.strip().split(".")
    if not equals or not all(keys):
        raise UsageError(f"--set {change}: write it as field=value, for example prior.steps=2000")
    for key in keys[:-1]:
        if fields.get(key) is None:
            fields[key] = {}
        fields = fields[key]
        if not isinstance(fields, dict):
            raise UsageError(f"--set {change}: {key} has no fields", field=place)
    try:
        fields[keys[-1]] = yaml.safe_load(value)
    except yaml.YAMLError:
        fields[keys[-1]] = value


def _explained(error: ValidationError, model: type[BaseModel], source: str) -> UsageError:
    """The first complaint of pydantic in one line."""
    first = error.errors()[0]
    where = [str(part) for part in first["loc"]]
    field = ".".join(where)
    if first["type"] == "extra_forbidden":
        known = list(_fields_at(model, where[:-1]))
        inside = ".".join(where[:-1])
        hint = nearest(where[-1], known, f"{inside}." if inside else "")
        return UsageError(f"{source}: there is no field {field}{hint}", field=field)
    message = first["msg"].removeprefix("Value error, ")
    given = first.get("input")
    shown = f" (given: {given})" if isinstance(given, str | int | float | bool) else ""
    return UsageError(": ".join(part for part in (source, field, f"{message}{shown}") if part), field=field)


def _fields_at(model: type[BaseModel], where: Sequence[str]) -> Sequence[str]:
    """Names of the fields of the nested model at `where`."""
    for name in where:
        inner = model.model_fields[name].annotation if name in model.model_fields else None
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        model = inner
    return list(model.model_fields)


def nearest(name: str, known: Sequence[str], before: str = "") -> str:
    near = get_close_matches(name, known, 1)
    if near:
        return f"; did you mean {before}{near[0]}?"
    return f"; there are: {', '.join(known)}" if known else ""


def _named(name: str, table: Any, field: str) -> Any:
    if name not in table:
        raise UsageError(f"{field}: no size is called {name!r}{nearest(name, list(table))}", field=field)
    return table[name]


def _configured(model: type[Model], base: dict[str, Any], changes: dict[str, Any], field: str) -> Model:
    """`model` from `base` with `changes`, which may reach into nested fields."""
    merged = dict(base)
    for key, value in changes.items():
        inner = merged.get(key)
        merged[key] = {**inner, **value} if isinstance(inner, dict) and isinstance(value, dict) else value
    try:
        return model(**merged)
    except SmaltiError:
        raise
    except ValidationError as error:
        raise _explained(error, model, field) from None

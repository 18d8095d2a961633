"""One validated request per verb: the same object behind Python methods, CLI commands, HTTP jobs and PNG recipes.

Sizes and places are in cells unless a field says pixels. A request names its pictures by their place in the list of
sources that travels beside it; it holds no pixels and no paths, so it is plain JSON.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from smalti.errors import UsageError
from smalti.sampling import SamplerOptions

Cells = Annotated[int, Field(ge=0, le=512)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]
Label = Annotated[str, Field(max_length=200)] | Annotated[int, Field(ge=0)]
MAX_SEED = 2**32 - 1


class VerbRequest(BaseModel):
    """What every verb takes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_images: int = Field(1, ge=1, le=4096, description="how many results")
    seed: int = Field(0, ge=0, le=MAX_SEED, description="result i uses seed + i")
    label: Label | tuple[Label, ...] | None = Field(
        None, description="class of the results, by name or number, or one for each result; for models with classes"
    )
    sampler: SamplerOptions = Field(SamplerOptions(), description="order, schedule, steps, temperature ...")

    @model_validator(mode="after")
    def _one_seed_each(self) -> Self:
        if self.seed + self.num_images - 1 > MAX_SEED:
            raise ValueError(f"seed: {self.num_images} results from {self.seed} on need seeds above {MAX_SEED}")
        return self

    @model_validator(mode="after")
    def _one_label_each(self) -> Self:
        if isinstance(self.label, tuple) and len(self.label) != self.num_images:
            raise ValueError(f"label: {self.num_images} results need one label, or {self.num_images} of them, "
                             f"not {len(self.label)}")  # fmt: skip
        return self

    def one(self, index: int) -> Self:
        """The request of result `index` alone."""
        label = self.label[index] if isinstance(self.label, tuple) else self.label
        return self.model_copy(update={"seed": self.seed + index, "num_images": 1, "label": label})


class EditRequest(VerbRequest):
    """A verb that changes a picture and gives the rest of it back."""

    paste_original: bool = Field(True, description="kept pixels come back byte-identical")
    feather: int = Field(6, ge=0, le=64, description="pixels over which a change fades in, inside the changed area")


class Generate(VerbRequest):
    """Make pictures from nothing, of any size."""

    kind: Literal["generate"] = "generate"
    height: int | None = Field(None, ge=1, le=4096, description="rows of cells; the model's own by default")
    width: int | None = Field(None, ge=1, le=4096, description="columns of cells; the model's own by default")


class Keep(EditRequest):
    """Keep a region and remake everything else."""

    kind: Literal["keep"] = "keep"
    region: str = Field(description="what stays")
    grow: Cells = Field(0, description="also remake this many rings of cells inside the kept region's rim")


class Inpaint(EditRequest):
    """Remake a region and keep everything else."""

    kind: Literal["inpaint"] = "inpaint"
    region: str = Field(description="what is remade")
    grow: Cells = Field(0, description="also remake this many rings of cells around the region")


class StitchPiece(BaseModel):
    """A part of a source and where it goes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: int = Field(ge=0, description="which source, counted from 0")
    region: str = Field(description="what is taken")
    to: tuple[int, int] | None = Field(None, description="row, column of the region's top left; in place by default")


class Stitch(EditRequest):
    """Lay pieces of several pictures on an empty grid and fill the gaps."""

    kind: Literal["stitch"] = "stitch"
    pieces: tuple[StitchPiece, ...] = Field(min_length=1, description="later ones win where they overlap")
    height: int | None = Field(None, ge=1, le=4096, description="rows of cells; the first source's by default")
    width: int | None = Field(None, ge=1, le=4096, description="columns of cells; the first source's by default")
    seam: Cells = Field(0, description="also remake this many rings of cells inside the rim of each piece")
    # the decoder blends pieces into one picture; their own pixels would show where hair or light were others
    paste_original: bool = Field(False, description="pixels of the pieces come back byte-identical")


class Extend(EditRequest):
    """Grow a picture beyond its borders."""

    kind: Literal["extend"] = "extend"
    top: Cells = Field(0, description="rows of cells to add above")
    right: Cells = Field(0, description="columns of cells to add on the right")
    bottom: Cells = Field(0, description="rows of cells to add below")
    left: Cells = Field(0, description="columns of cells to add on the left")
    seam: Cells = Field(0, description="also remake this many cells of the picture along the new margin")

    @model_validator(mode="after")
    def _grows(self) -> Extend:
        if not (self.top or self.right or self.bottom or self.left):
            raise ValueError("nothing to add: give at least one of top, right, bottom, left")
        return self


class Variations(EditRequest):
    """Empty a random share of the cells, a new choice for every result, and fill them again."""

    kind: Literal["variations"] = "variations"
    amount: Share = Field(0.3, description="share of the cells that is remade, 0..1")
    feather: int = Field(2, ge=0, le=64, description="pixels over which a change fades in, inside the changed area")


class Heal(EditRequest):
    """Empty the cells that surprise the model most and fill them again."""

    kind: Literal["heal"] = "heal"
    amount: Share = Field(0.1, description="share of the cells that is remade, 0..1")
    feather: int = Field(2, ge=0, le=64, description="pixels over which a change fades in, inside the changed area")


class Fill(VerbRequest):
    """Fill the empty cells of a given grid: the primitive that all other verbs are lowered to."""

    kind: Literal["fill"] = "fill"


Request = Annotated[Generate | Keep | Inpaint | Stitch | Extend | Variations | Heal | Fill, Field(discriminator="kind")]
"""Any verb; `kind` says which."""

request_adapter: TypeAdapter[Request] = TypeAdapter(Request)
"""Parses a request from JSON."""


def validated(fields: dict[str, Any]) -> Request:
    """A request from its fields. Raises UsageError naming the first field that is wrong."""
    try:
        return request_adapter.validate_python(fields)
    except ValidationError as error:
        first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    message = first["msg"].removeprefix("Value error, ")
    raise UsageError(f"{where}: {message}" if where else message, field=where or None)

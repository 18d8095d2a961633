"""Models that a recipe names: the one that training begins with, and the one whose codes the prior learns."""

from __future__ import annotations

from smalti.errors import ModelError, UsageError
from smalti.formats.catalog import resolve
from smalti.formats.folder import LoadedModel, load_model
from smalti.training.loop import check_same_configuration
from smalti.training.recipe import Recipe


def given_model(name: str, *, fetch: bool = False) -> LoadedModel:
    """A folder, `builtin:NAME`, or `user/repo` on the Hub. Raises ModelError if it is missing or damaged.

    fetch: whether the network may be used; `check_given_models` does, so that hours later nothing needs it.
    """
    return load_model(resolve(name, local_files_only=not fetch)[1])


def check_given_models(recipe: Recipe) -> None:
    """Raise ModelError or UsageError for models that cannot serve, before hours are spent on what comes first."""
    tokenizer = recipe.tokenizer_config()
    codebook_size, cell = tokenizer.codebook_size, tokenizer.cell
    if recipe.from_model is not None:
        source = _named(recipe.from_model, "from_model").tokenizer
        codebook_size, cell = source.codebook_size, source.cell
        if recipe.data.codes is None and any(side % cell for side in recipe.data.size):
            size = "x".join(map(str, recipe.data.size))
            raise UsageError(f"data.size {size} is not a multiple of the {cell} pixels of a cell of from_model",
                             field="data.size")  # fmt: skip
    if recipe.start_from is None:
        return
    start = _named(recipe.start_from, "start_from")
    if recipe.stage != "prior" and recipe.from_model is None:
        check_same_configuration(start.tokenizer.config, tokenizer, "tokenizer")
    if recipe.stage == "prior" and start.prior is None:
        raise UsageError(f"start_from: {recipe.start_from} has no prior to start from", field="start_from")
    if recipe.stage in ("both", "prior") and start.prior is not None and not recipe.data.labels:  # classes: see later
        check_same_configuration(start.prior.config, recipe.prior_config(codebook_size, cell), "prior")


def _named(name: str, field: str) -> LoadedModel:
    try:
        return given_model(name, fetch=True)
    except ModelError as error:
        raise ModelError(f"{field}: {error}") from None

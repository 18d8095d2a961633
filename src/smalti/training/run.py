"""`train`: from a recipe to a model folder."""

from __future__ import annotations

import platform
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from smalti.data import Pictures, cached_codes, code_labels, exists, held_out, load_pictures, open_source, split
from smalti.errors import DataError, ModelError, UsageError
from smalti.files import sha256_bytes
from smalti.formats.catalog import resolve
from smalti.formats.classes import listed
from smalti.formats.folder import LoadedModel, read_index, save_model
from smalti.prior import AbsorbingTransformer
from smalti.randomness import Purpose, permutation
from smalti.sampling import SamplerOptions
from smalti.tokenizer import VQGAN
from smalti.training.checkpoints import latest_checkpoint, load_checkpoint
from smalti.training.given_codes import given_codes
from smalti.training.given_models import check_given_models, given_model
from smalti.training.history import is_run, read_history
from smalti.training.overview import announced
from smalti.training.parallel import Processes, check_precision, processes_planned
from smalti.training.prior_stage import train_prior, validate
from smalti.training.progress import Progress, Report, Several, SilentProgress, duration
from smalti.training.recipe import Recipe, explained_yaml, load_recipe
from smalti.training.reconstructions import measure
from smalti.training.runs import RunFolder
from smalti.training.schedules import Clock
from smalti.training.tokenizer_stage import train_tokenizer
from smalti.training.tracking import TrackerProgress
from smalti.training.warnings import WarningProgress

_NO_TOKENIZER = "the prior needs a tokenizer: {run} has none; train it (stage: both) or give from_model: FOLDER"
Ints: TypeAlias = npt.NDArray[np.integer[Any]]


def train(recipe: Recipe, *, resume: bool = False, progress: Progress | None = None) -> Path:
    """Train what the recipe asks for and return the model folder, `<run>/model`.

    resume: go on from the newest checkpoints of the run's folder; it is an error if there are none. Without it, it is
    an error if there are any. Raises SmaltiError with one line for whatever a user can get wrong; KeyboardInterrupt or
    SystemExit(143) after Ctrl-C or SIGTERM, once a checkpoint is written. In each of several processes that a launcher
    started (Accelerate, torchrun) it does its part; the first one writes. The run's folder must then be on a disk that
    all share.
    """
    recipe.check()
    processes = Processes(_device(recipe.device))
    device = processes.device
    for stage in _stages(recipe):
        check_precision(getattr(recipe, stage).precision, device)
    watcher = watching(recipe, progress or SilentProgress()) if processes.leads else SilentProgress()
    run = RunFolder(recipe.folder, watcher, writes=processes.leads)
    _check_resume(run, recipe, resume)
    check_given_models(recipe)
    if recipe.threads:
        torch.set_num_threads(recipe.threads)
    with announced(run.path) if run.writes else nullcontext(), watcher:
        facts: dict[str, Any] = {}
        labels = held_labels = None
        if recipe.data.codes is not None:
            tokenizer = _tokenizer(recipe, run, None, resume, device)
            codes, held = given_codes(recipe.data, tokenizer.codebook_size, tokenizer.cell)
            recipe.check_batches(processes.count, len(codes))
            run.keep_config(explained_yaml(recipe), resume=resume)
        else:
            with processes.first():
                training, validation = pictures = _pictures(recipe, run)
            recipe.check_batches(processes.count, len(training))
            if recipe.data.labels:
                recipe = _with_classes(recipe, training.classes)
                pictures = training, validation = _labelled(recipe, training), _labelled(recipe, validation, held=True)
                run.progress.message(f"{len(recipe.data.classes)} classes: {listed(recipe.data.classes)}")
            run.keep_config(explained_yaml(recipe), resume=resume)
            tokenizer = _tokenizer(recipe, run, pictures, resume, device)
            facts = measure(tokenizer, validation, device)
            if recipe.stage in ("tokenizer", "decoder"):
                return _save(recipe, run, tokenizer, _start(recipe).prior if recipe.stage == "decoder" else None, facts)
            processes.alike(tokenizer)  # codes are cached by its weights
            with processes.first():
                encoding = _reporting(run, "codes")
                codes = cached_codes(training, tokenizer, run.cache, flip=recipe.data.flip, report=encoding)
                held = cached_codes(validation, tokenizer, run.cache)
            if recipe.data.labels:
                # mixed, as its first pictures stand for all of them and folders come class by class
                mixed = permutation(0, Purpose.CHOOSE, len(held))
                held, held_labels = held[mixed], code_labels(validation)[mixed]
                labels = code_labels(training, flip=recipe.data.flip)
        prior, more = _prior(recipe, run, tokenizer, (codes, labels), (held, held_labels), resume, device)
        return _save(recipe, run, tokenizer, prior, facts | more)


def watching(recipe: Recipe, progress: Progress) -> Progress:
    """`progress`, the recipe's tracker, and warnings told to both. Raises UsageError if the tracker is missing."""
    resolved = recipe.model_dump(mode="json")
    watchers = [progress]
    if recipe.track != "none":
        told = progress.message
        watchers.append(TrackerProgress(recipe.track, recipe.folder, recipe.name, resolved, say=told))
    before = read_history(recipe.folder).reports if is_run(recipe.folder) else {}
    return WarningProgress(Several(*watchers), before)


def export(run_folder: str | Path, target: str | Path, *, force: bool = False) -> Path:
    """The model of a run as it is now, from its newest checkpoints, as a model folder at `target`.

    For a look at a run that is still going. Raises ModelError if the folder holds no run with a tokenizer.
    """
    folder = Path(run_folder)
    if not (folder / "config.yaml").is_file():
        raise ModelError(f"{folder} is not a training run: config.yaml is missing")
    recipe = load_recipe(folder / "config.yaml", [f"run={folder}"])
    run = RunFolder(folder)
    tokenizer = stored(_trained_tokenizer(recipe, run), recipe.dtype)
    prior = None
    state = latest_checkpoint(run.stage("prior").checkpoints)
    if state is not None:
        prior = AbsorbingTransformer(recipe.prior_config(tokenizer.codebook_size, tokenizer.cell)).eval()
        prior.load_state_dict(load_checkpoint(state)["ema"])
    _write(recipe, Path(target), tokenizer, prior, {}, force)
    return Path(target)


# --- the parts of a run -----------------------------------------------------------------------------------------------


def _stages(recipe: Recipe) -> tuple[Literal["tokenizer", "prior"], ...]:
    """The stages that are trained."""
    if recipe.stage == "prior" or recipe.from_model is not None:
        return ("prior",)
    return ("tokenizer",) if recipe.stage in ("tokenizer", "decoder") else ("tokenizer", "prior")


def _check_resume(run: RunFolder, recipe: Recipe, resume: bool) -> None:
    names = _stages(recipe)
    if resume and not any(run.stage(name).started() for name in names):
        raise ModelError(f"nothing to resume in {run.path}: no {' or '.join(names)} checkpoint there; "
                         "start it without --resume")  # fmt: skip
    if not resume:
        for name in names:
            run.stage(name).check_fresh()
    if recipe.stage == "prior" and recipe.from_model is None and not run.stage("tokenizer").started():
        raise UsageError(_NO_TOKENIZER.format(run=run.path), field="from_model")


def _pictures(recipe: Recipe, run: RunFolder) -> tuple[Pictures, Pictures]:
    data = recipe.data
    assert data.path is not None
    for path in (data.path, data.validation):
        if path is not None and not exists(path):
            hint = f"; make it with: {data.make}" if data.make else ""
            raise DataError(f"no data at {path}{hint}")
    message = run.progress.message
    source = open_source(data.path)  # what its list tells is known before hours of reading
    if data.labels and source.labels is None:
        raise DataError(f"data.labels: {data.path}: these pictures have no classes: put those of each class into a "
                        "folder of its own")  # fmt: skip
    count = len(source.names)
    held = 0 if data.validation is not None else held_out(count, data.validation_share)
    if count > held:
        recipe.check_batches(processes_planned(), (count - held) * data.cuts)
    reading = _reporting(run, "pictures")
    pictures = load_pictures(
        source, data.size, run.cache, cuts=data.cuts, zoom=data.zoom, message=message, report=reading
    )
    if data.validation is not None:
        return pictures, load_pictures(data.validation, data.size, run.cache, message=message)
    return split(pictures, data.validation_share)


def _with_classes(recipe: Recipe, found: tuple[str, ...]) -> Recipe:
    """The recipe with the names of the classes that the training pictures have, if it does not give them itself."""
    data = recipe.data.model_copy(update={"classes": recipe.data.classes or found})
    return recipe.model_copy(update={"data": data})


def _labelled(recipe: Recipe, pictures: Pictures, *, held: bool = False) -> Pictures:
    data = recipe.data
    try:
        return pictures.with_classes(data.classes)
    except DataError as error:
        path = data.validation if held and data.validation is not None else data.path
        raise DataError(f"data.labels: {path}: {error}") from None


def _tokenizer(
    recipe: Recipe, run: RunFolder, pictures: tuple[Pictures, Pictures] | None, resume: bool, device: torch.device
) -> VQGAN:
    """The tokenizer whose codes the prior learns: trained now, or taken from where the recipe says."""
    if pictures is not None and recipe.stage != "prior" and recipe.from_model is None:
        training, validation = pictures
        tokenizer = train_tokenizer(
            training,
            recipe.tokenizer_config(),
            recipe.tokenizer,
            run,
            validation=validation,
            start=None if recipe.start_from is None else _start(recipe).tokenizer,
            decoder_only=recipe.stage == "decoder",
            flip=recipe.data.flip,
            seed=recipe.seed,
            resume=resume and run.stage("tokenizer").started(),
            device=device,
        )
    else:
        tokenizer = _trained_tokenizer(recipe, run)
    return stored(tokenizer, recipe.dtype).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _start(recipe: Recipe) -> LoadedModel:
    """The model that training begins with."""
    assert recipe.start_from is not None
    return given_model(recipe.start_from)


def _trained_tokenizer(recipe: Recipe, run: RunFolder) -> VQGAN:
    if recipe.from_model is not None:
        return given_model(recipe.from_model).tokenizer
    stage = run.stage("tokenizer")
    path = latest_checkpoint(stage.checkpoints, run.progress.message)
    if path is None:
        raise UsageError(_NO_TOKENIZER.format(run=run.path), field="from_model")
    state, config = load_checkpoint(path), recipe.tokenizer_config()
    if state["model"] != config.model_dump_json():
        raise UsageError(f"{path} is of another tokenizer configuration: use the recipe it was trained with")
    best = stage.best() if recipe.tokenizer.keep == "best" else None
    tokenizer = VQGAN(config).eval()
    tokenizer.load_state_dict((best or state)["ema"])
    return tokenizer


def stored(tokenizer: VQGAN, dtype: str) -> VQGAN:
    """`tokenizer` with weights rounded as they will be stored, so that the prior learns the shipped one's codes."""
    if dtype == "float16":
        with torch.no_grad():
            for value in tokenizer.state_dict().values():
                if value.is_floating_point():
                    value.copy_(value.half())
    return tokenizer


def _prior(
    recipe: Recipe,
    run: RunFolder,
    tokenizer: VQGAN,
    training: tuple[Ints, Ints | None],
    held: tuple[Ints, Ints | None],
    resume: bool,
    device: torch.device,
) -> tuple[AbsorbingTransformer, dict[str, Any]]:
    """`training`, `held`: codes and their labels."""
    config = recipe.prior_config(tokenizer.codebook_size, tokenizer.cell)
    prior = train_prior(
        training[0],
        config,
        recipe.prior,
        run,
        labels=training[1],
        validation=held[0],
        validation_labels=held[1],
        tokenizer=tokenizer,
        start=None if recipe.start_from is None else _first_prior(recipe),
        seed=recipe.seed,
        resume=resume and run.stage("prior").started(),
        device=device,
    )
    table, told = (None if part is None else _on_device(part[:1000], device) for part in held)
    assert table is not None
    bits = validate(prior, table, "float32", recipe.seed, told)
    return prior, {"bits per token (bound)": f"{bits:.3f} on {len(table)} validation pictures"}


def _first_prior(recipe: Recipe) -> AbsorbingTransformer | None:
    """The prior that training begins with, which must mean the same by its class numbers."""
    model = _start(recipe)
    known = tuple(model.info.get("classes", ()))
    if recipe.data.labels and model.prior is not None and known != recipe.data.classes:
        raise UsageError(
            f"{recipe.start_from} knows the classes {listed(known) or '(none)'}, not {listed(recipe.data.classes)}",
            field="start_from",
        )
    return model.prior


def _on_device(values: Ints, device: torch.device) -> Tensor:
    return torch.from_numpy(np.asarray(values).astype(np.int64)).to(device)


def _reporting(run: RunFolder, what: str) -> Callable[[int, int], None]:
    clock = Clock()

    def report(done: int, total: int) -> None:
        pace = done / max(clock.elapsed, 1e-9)
        run.progress.report(Report(what, done, done / total, clock.elapsed, pace))

    return report


def _save(
    recipe: Recipe, run: RunFolder, tokenizer: VQGAN, prior: AbsorbingTransformer | None, metrics: dict[str, Any]
) -> Path:
    if run.writes:
        _write(recipe, run.model, tokenizer, prior, _how(recipe, run) | {"metrics": metrics}, force=True)
    run.progress.message(f"model: {run.model}")
    return run.model


def _write(
    recipe: Recipe,
    target: Path,
    tokenizer: VQGAN,
    prior: AbsorbingTransformer | None,
    facts: dict[str, Any],
    force: bool,
) -> None:
    classes = _classes(recipe) if prior is not None else {}
    info = {"name": recipe.name, **_owed(recipe), **facts, **recipe.info, **classes}
    sampler = SamplerOptions(**recipe.sampler).model_dump(mode="json", exclude_unset=True)
    save_model(
        target, tokenizer, prior, info=info, sampler_options=sampler, dtype=getattr(torch, recipe.dtype), force=force
    )


def _classes(recipe: Recipe) -> dict[str, Any]:
    """What the model's index must say about classes, if its prior has any."""
    if recipe.stage == "decoder":  # the prior is the one of the model that training began with
        return {name: value for name, value in _start(recipe).info.items() if name == "classes"}
    return {"classes": list(recipe.data.classes)} if recipe.data.labels else {}


def _owed(recipe: Recipe) -> dict[str, Any]:
    """What the card must go on saying about weights that were made elsewhere."""
    owed: dict[str, Any] = {}
    for model in (recipe.start_from, recipe.from_model):
        info = {} if model is None else read_index(resolve(model, local_files_only=True)[1]).get("info", {})
        owed |= {key: info[key] for key in ("licence", "source", "attribution") if key in info}
    return owed


def _how(recipe: Recipe, run: RunFolder) -> dict[str, Any]:
    """What the card says about the training, from the checkpoints."""
    lines = []
    for name in ("tokenizer", "prior"):
        path = latest_checkpoint(run.stage(name).checkpoints)
        if path is not None:
            state = load_checkpoint(path)
            lines.append(f"{name}: {state['step']} steps in {duration(state['elapsed'])}")
    machine = torch.cuda.get_device_name() if recipe.device.startswith("cuda") else platform.processor() or "CPU"
    lines.append(f"on {machine}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    digest = sha256_bytes(recipe.model_dump_json().encode())[:12]
    lines.append(f"recipe {recipe.name} ({digest}), seed {recipe.seed}")
    return {"training": lines}


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError("device cuda: this torch sees no CUDA device", field="device")
    return torch.device(name)

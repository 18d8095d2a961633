"""`Pipeline`: a model and seven verbs. Every verb builds a request; every request is one fill."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Unpack, cast

import torch
from PIL import Image

from smalti.codes import CodeGrid
from smalti.errors import ModelError, UsageError
from smalti.formats.catalog import resolve
from smalti.formats.classes import class_names
from smalti.formats.folder import load_model, save_model
from smalti.images import to_pil
from smalti.pipeline import labels
from smalti.pipeline import recipe as recipes
from smalti.pipeline import requests as ask
from smalti.pipeline.compose import paste
from smalti.pipeline.options import Options, StepCallback
from smalti.pipeline.output import HistoryStep, Output, joined, marked, merge_histories, surprise_map
from smalti.pipeline.replay import replayed, with_recipe
from smalti.pipeline.results import Result, Score
from smalti.pipeline.sources import Area, Opened, Picture, open_source, region_text
from smalti.pipeline.verbs import FillJob, Model, lower
from smalti.prior import AbsorbingTransformer
from smalti.prior.kernels import DType, InferenceDenoiser, optimize_for_inference
from smalti.regions import Piece
from smalti.sampling import PRESETS, FillStep, SamplerOptions, elbo_bits, fill_steps, surprise
from smalti.tokenizer import VQGAN, check_codes
from smalti.types import EMPTY, Codes

BATCH = 8
CPU_BATCH = 2
"""Results filled together when the caller does not say. A CPU is no faster with more, and each is shown when done,
so that little is lost to Ctrl-C."""


class Pipeline:
    """A tokenizer, a prior, and what people do with them. Not thread-safe; share one per device and thread."""

    def __init__(
        self,
        tokenizer: VQGAN,
        prior: AbsorbingTransformer | None,
        *,
        name: str = "unnamed",
        identity: str | None = None,
        sampler: SamplerOptions | None = None,
        info: dict[str, Any] | None = None,
        dtype: DType = "auto",
    ) -> None:
        """`identity` is the hash that ties codes to this tokenizer; `dtype` is auto, float32 or bfloat16."""
        self.tokenizer = tokenizer.eval().requires_grad_(False)
        self.prior = prior.eval().requires_grad_(False) if prior is not None else None
        self.name, self.identity = name, identity
        self.sampler = sampler or SamplerOptions()
        self.info_: dict[str, Any] = info or {}
        self.dtype = dtype
        self.num_timesteps = 0
        self._interrupted = False
        self._denoiser = optimize_for_inference(self.prior, dtype=dtype) if self.prior is not None else None

    # --- models -------------------------------------------------------------------------------------------------

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        local_files_only: bool = False,
        device: str | torch.device = "cpu",
        dtype: DType = "auto",
    ) -> Pipeline:
        """Load `builtin:faces`, a model folder, or `user/repo` from the Hub. Raises ModelError naming the bad file."""
        known_as, folder = resolve(name, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only)
        model = load_model(folder)
        if model.tokenizer is None:
            raise ModelError(f"{folder} holds no tokenizer")
        return cls(
            model.tokenizer,
            model.prior,
            name=known_as,
            identity=model.identity,
            sampler=SamplerOptions.model_validate(model.sampler_options),
            info=model.info,
            dtype=dtype,
        ).to(device)

    def save_pretrained(self, folder: str | Path, *, force: bool = False) -> None:
        """Write a model folder: weights as safetensors, configuration as JSON, a card."""
        save_model(
            folder,
            self.tokenizer,
            self.prior,
            info=self.info_,
            sampler_options=self.sampler.model_dump(mode="json"),
            force=force,
        )

    def push_to_hub(self, repository: str, *, private: bool = False, message: str = "Upload a smalti model") -> str:
        """Upload this model as `user/repo`, made if it does not exist; returns the address of the commit.

        Raises OutputError, in one line, if the Hub refuses or cannot be reached.
        """
        from smalti.formats.hub import push

        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "model"
            options = self.sampler.model_dump(mode="json")
            info = {**self.info_, "load": repository}  # the card's example
            save_model(folder, self.tokenizer, self.prior, info=info, sampler_options=options)
            return push(folder, repository, private=private, message=message)

    def to(self, device: str | torch.device) -> Pipeline:
        """Move the model; returns itself."""
        self.tokenizer.to(device)
        if self.prior is not None:
            self.prior.to(device)
            self._denoiser = optimize_for_inference(self.prior, dtype=self.dtype)
        return self

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.tokenizer.device

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that `label` can ask for; () if the model has none."""
        return class_names(self.info_, self.prior.config.n_classes) if self.prior is not None else ()

    # --- verbs --------------------------------------------------------------------------------------------------

    def generate(self, *, height: int | None = None, width: int | None = None, **options: Unpack[Options]) -> Output:
        """Make pictures from nothing, `height` x `width` cells (the model's own size by default)."""
        return self._verb({"kind": "generate", "height": height, "width": width}, [], options)

    def keep(self, image: Picture, region: Area, *, grow: int = 0, **options: Unpack[Options]) -> Output:
        """Keep a region (or the white part of a mask) and remake everything else."""
        return self._verb({"kind": "keep", "region": region_text(region), "grow": grow}, [image], options)

    def inpaint(self, image: Picture, region: Area, *, grow: int = 0, **options: Unpack[Options]) -> Output:
        """Remake a region (or the white part of a mask) and keep everything else."""
        return self._verb({"kind": "inpaint", "region": region_text(region), "grow": grow}, [image], options)

    def stitch(
        self,
        pieces: Sequence[Piece],
        *,
        height: int | None = None,
        width: int | None = None,
        seam: int = 0,
        **options: Unpack[Options],
    ) -> Output:
        """Lay pieces of several pictures on a `height` x `width` grid and fill the gaps; later pieces lie on top.

        The decoder blends them into one picture; `paste_original=True` gives their pixels back as they were.
        """
        images: list[Any] = []
        rows = []
        for piece in pieces:
            known = [i for i, image in enumerate(images) if image is piece.image]
            if not known:
                images.append(piece.image)
            source = known[0] if known else len(images) - 1
            rows.append({"source": source, "region": region_text(piece.region), "to": piece.to})
        request = {"kind": "stitch", "pieces": rows, "height": height, "width": width, "seam": seam}
        return self._verb(request, images, options)

    def extend(
        self,
        image: Picture,
        *,
        top: int = 0,
        right: int = 0,
        bottom: int = 0,
        left: int = 0,
        seam: int = 0,
        **options: Unpack[Options],
    ) -> Output:
        """Grow a picture by rows and columns of cells."""
        request = {"kind": "extend", "top": top, "right": right, "bottom": bottom, "left": left, "seam": seam}
        return self._verb(request, [image], options)

    def variations(self, image: Picture, amount: float = 0.3, **options: Unpack[Options]) -> Output:
        """Remake a random share of the cells, another one for each result."""
        return self._verb({"kind": "variations", "amount": amount}, [image], options)

    def heal(self, image: Picture, amount: float = 0.1, **options: Unpack[Options]) -> Output:
        """Remake the share of cells that surprise the model most."""
        return self._verb({"kind": "heal", "amount": amount}, [image], options)

    def __call__(self, codes: CodeGrid | torch.Tensor, **options: Unpack[Options]) -> Output:
        """Fill the empty cells (-1) of a grid `(h, w)`: what all verbs come down to."""
        grid = codes if isinstance(codes, CodeGrid) else CodeGrid(codes, self.tokenizer.codebook_size, self.identity)
        return self._verb({"kind": "fill"}, [grid], options)

    def interrupt(self) -> None:
        """Stop after the current step: the verb raises KeyboardInterrupt. `results` has yielded what was finished."""
        self._interrupted = True

    def _verb(self, verb: dict[str, Any], images: Sequence[Any], options: Options) -> Output:
        given = dict(options)
        callback = cast("StepCallback | None", given.pop("callback_on_step_end", None))
        record = bool(given.pop("record_history", False))
        generator = given.pop("generator", None)
        if generator is not None:
            generators = [generator] if isinstance(generator, torch.Generator) else list(cast("Any", generator))
            wanted = given.get("num_images", len(generators))
            if not generators or (len(generators) > 1 and wanted != len(generators)):
                count = len(generators)
                raise UsageError(f"{wanted} results need one generator, or one each, not {count}", field="generator")
            seeds = [int(torch.randint(ask.MAX_SEED, (), generator=g)) for g in generators]
            if len(seeds) > 1:  # seeds of their own
                whole = self.request(verb, {**given, "num_images": len(seeds)})
                requests = [whole.one(i).model_copy(update={"seed": seed}) for i, seed in enumerate(seeds)]
                return joined([self.run(r, images, callback=callback, record_history=record) for r in requests])
            given["seed"] = seeds[0]
        return self.run(self.request(verb, given), images, callback=callback, record_history=record)

    def request(self, verb: dict[str, Any], options: dict[str, Any]) -> ask.Request:
        """A validated request from a verb's own fields and the shared options, on top of the model's defaults.

        As many labels are as many results, if `num_images` is not given. Raises UsageError naming the first field that
        is wrong, also for a label that the model does not know and for guidance without a label.
        """
        sampler_fields = set(SamplerOptions.model_fields)
        given = {k: v for k, v in options.items() if k not in sampler_fields | {"sampler", "preset"}}
        preset = options.get("preset")
        if preset is not None and preset not in PRESETS:
            raise UsageError(f"preset must be one of {', '.join(PRESETS)}, not {preset!r}", field="preset")
        base: SamplerOptions = options.get("sampler") or self.sampler
        sampler: dict[str, Any] = {
            **base.model_dump(),
            **(PRESETS[preset].model_dump(exclude_unset=True) if preset else {}),
            **{k: v for k, v in options.items() if k in sampler_fields and v is not None},
        }
        if isinstance(label := given.get("label"), Sequence) and not isinstance(label, str):
            given = {"num_images": len(label), **given}
        given["label"] = labels.named(label, self.classes, self.name)
        labels.check_guidance(options.get("guidance"), given["label"], self.classes, self.name)
        if given["label"] is None:
            sampler["guidance"] = 0.0  # the model's default is for where there is a label
        return ask.validated({**verb, **given, "sampler": sampler})

    # --- running a request --------------------------------------------------------------------------------------

    def run(
        self,
        request: ask.Request,
        images: Sequence[Picture] = (),
        *,
        callback: StepCallback | None = None,
        record_history: bool = False,
    ) -> Output:
        """All results of a request."""
        results = list(self.results(request, images, callback=callback, record_history=record_history))
        return self.collect(request, results)

    def collect(self, request: ask.Request, results: Sequence[Result]) -> Output:
        """One output of results that came one by one."""
        return Output(
            images=[r.image for r in results],
            codes=torch.stack([r.codes for r in results]),
            seeds=[r.seed for r in results],
            params=request.model_dump(mode="json"),
            codebook_size=self.tokenizer.codebook_size,
            model=self.identity,
            cell=self.tokenizer.cell,
            history=merge_histories([r.history for r in results]),
        )

    def open(self, image: Picture) -> Opened:
        """A picture as a source of codes and pixels; `.remark` says why its own codes are not used."""
        return open_source(image, self.tokenizer, self.identity)

    def show_mask(self, request: ask.Request, images: Sequence[Picture]) -> Image.Image:
        """The picture a request would work on, with the cells it would fill hatched."""
        sources = [self.open(image) for image in images]
        job = lower(request, [s.source for s in sources], self._model(request))
        base = job.original or (sources[0].source.picture if sources else None)
        return marked(base, job.codes[0] == EMPTY, self.tokenizer.cell, job.size)

    def results(
        self,
        request: ask.Request,
        images: Sequence[Picture] = (),
        *,
        batch: int | None = None,
        callback: StepCallback | None = None,
        on_step: Callable[[int, FillStep], None] | None = None,
        record_history: bool = False,
    ) -> Iterator[Result]:
        """Results one by one, as they are finished, `batch` of them filled together (by default as suits the device).

        `on_step(first index of the batch, step)` watches; `callback` may edit the codes (see `StepCallback`).
        Raises UsageError for a request that does not fit, KeyboardInterrupt after `interrupt()`.
        """
        self._interrupted = False
        sources = [self.open(image) for image in images]
        job = lower(request, [s.source for s in sources], self._model(request))
        denoiser = self._denoiser_for(job.codes)
        told = self._numbers(request)
        batch = batch or (CPU_BATCH if self.device.type == "cpu" else BATCH)
        for first in range(0, len(job.codes), batch):
            start = job.codes[first : first + batch]
            seeds = [request.seed + first + i for i in range(len(start))]
            final, history = start, []
            label = None if told is None else told[first : first + batch]
            steps = fill_steps(denoiser, start, seeds=seeds, options=request.sampler, label=label)
            edited: Codes | None = None
            while True:
                try:
                    step = steps.send(edited) if edited is not None else next(steps)
                except StopIteration:
                    break
                final, edited = step.codes, None
                self.num_timesteps = step.of
                if record_history:
                    history.append(HistoryStep(step.index, step.codes, step.revealed))
                if on_step is not None:
                    on_step(first, step)
                if callback is not None:
                    left = int((final == EMPTY).sum())
                    answer = callback(self, step.index, left, {"codes": final.clone()})
                    if not isinstance(answer, dict) or "codes" not in answer:
                        raise UsageError("callback_on_step_end must return its last argument, with the codes in it")
                    edited = final = answer["codes"]
                if self._interrupted:
                    raise KeyboardInterrupt
            yield from self._finish(request, job, first, final, history, sources)

    def _finish(
        self,
        request: ask.Request,
        job: FillJob,
        first: int,
        codes: Codes,
        history: list[HistoryStep],
        sources: Sequence[Opened],
    ) -> Iterator[Result]:
        for i, grid in enumerate(codes):
            index = first + i
            width, height = job.size
            decoded = self.tokenizer.decode_tiled(grid[None])[:, :, :height, :width]
            image = to_pil(decoded)[0]
            if job.original is not None and job.regenerate is not None:
                mask = job.regenerate[index if len(job.regenerate) > 1 else 0]
                image = paste(job.original, image, mask, feather=job.feather)
            own = request.one(index)
            recipe = recipes.make(
                own.model_dump(mode="json"),
                codes=CodeGrid(grid, self.tokenizer.codebook_size, self.identity),
                filled=job.codes[index] == EMPTY,
                model=self.name,
                sources=[s.provenance for s in sources],
                pasted=job.original is not None,
            )
            mine = [HistoryStep(s.step, s.codes[i : i + 1], s.revealed[i : i + 1]) for s in history]
            yield Result(index, recipes.embed(image, recipe), grid, own.seed, mine)

    # --- looking ------------------------------------------------------------------------------------------------

    def encode(self, image: Picture) -> CodeGrid:
        """The codes of a picture: its own if it carries them, else what the tokenizer sees."""
        return CodeGrid(self.open(image).source.encode(None), self.tokenizer.codebook_size, self.identity)

    def decode(self, codes: CodeGrid | Codes) -> list[Image.Image]:
        """Pictures of a grid, or of codes `(n, h, w)`. Raises UsageError for empty cells or codes out of range."""
        tensor = codes.codes if isinstance(codes, CodeGrid) else codes
        tensor = tensor[None] if tensor.ndim == 2 else tensor
        if isinstance(codes, CodeGrid) and codes.model and self.identity and codes.model != self.identity:
            raise UsageError(f"these codes belong to another model than {self.name}; decode them with their own")
        try:
            check_codes(tensor, self.tokenizer.codebook_size)
        except ValueError as error:
            raise UsageError(str(error), field="codes") from None
        return [to_pil(self.tokenizer.decode_tiled(grid[None]))[0] for grid in tensor]

    def reconstruct(self, image: Picture) -> Image.Image:
        """The picture as the model sees it: encoded and decoded, at its own size."""
        opened = self.open(image)
        width, height = opened.source.size
        return self.decode(opened.source.encode(None)[None])[0].crop((0, 0, width, height))

    def score(
        self,
        image: Picture,
        *,
        seed: int = 0,
        label: str | int | None = None,
        on_progress: Callable[[float], None] = lambda done: None,
    ) -> Score:
        """How likely the model finds the picture's codes, in bits, and where it is surprised; `label`: as one of that
        class. Raises UsageError for a class that the model does not know."""
        number = labels.numbers(label, 1, self.classes, self.name)
        opened = self.open(image)
        codes = opened.source.encode(None)[None]
        denoiser = self._denoiser_for(codes)
        bits = float(elbo_bits(denoiser, codes, seeds=[seed], label=number, report=lambda d: on_progress(0.8 * d))[0])
        cells = surprise(denoiser, codes, label=number, report=lambda d: on_progress(0.8 + 0.2 * d))[0]
        values = 3 * opened.source.size[0] * opened.source.size[1]
        picture = surprise_map(cells, self.tokenizer.cell, opened.source.size)
        return Score(bits, bits * codes.numel() / values, cells, picture)

    def check_replay(self, image: Picture) -> tuple[Output, int]:
        """Fill again what a picture's recipe says was filled; the result, and how many cells differ from its codes.

        Kept pixels are taken from the picture itself; from one that was changed since, none are, and the result is the
        decoder's throughout. Raises UsageError if the picture carries no recipe, or codes of another model.
        """
        return replayed(self, image)

    @classmethod
    def replay(cls, image: Picture, *, model: str | Path | None = None) -> Output:
        """Make a picture again from its recipe, with the model that it names (or another place to find it)."""
        picture, recipe = with_recipe(image)
        # a name that came with a picture is a stranger's word: it must not start a download
        return cls.from_pretrained(model or recipe.model.name, local_files_only=model is None).check_replay(picture)[0]

    # --- parts --------------------------------------------------------------------------------------------------

    def _denoiser_for(self, codes: Codes) -> InferenceDenoiser:
        """The prior for a canvas; on one larger than its window, a window is no longer the whole picture."""
        if self._denoiser is None:
            raise ModelError(f"{self.name} is a tokenizer only: it can encode and decode, but not fill; train a prior")
        height, width = self._denoiser.window
        larger = codes.shape[-2] > height or codes.shape[-1] > width
        return self._denoiser.unplaced() if larger else self._denoiser

    def _model(self, request: ask.Request) -> Model:
        window = self.prior.window if self.prior is not None else (1, 1)

        def bits(codes: Codes) -> torch.Tensor:
            told = self._numbers(request)  # of several classes, none is the picture's
            label = told[:1] if told is not None and bool((told == told[0]).all()) else None
            return surprise(self._denoiser_for(codes), codes[None], label=label)[0]

        return Model(self.tokenizer.cell, window, bits)

    def _numbers(self, request: ask.Request) -> torch.Tensor | None:
        """int64 `(num_images,)`: the class of each result of a request, if it asks for any."""
        return labels.numbers(request.label, request.num_images, self.classes, self.name)

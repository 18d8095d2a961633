"""Training pace of both stages against the original training loops, on networks of the same size.

    python benchmarks/train.py [--prior mini] [--tokenizer vqgan_lean] [--threads 2] [--device cpu]

Random pictures and codes: the time of a step does not depend on them. See benchmarks/README.md for what is compared.
"""

from __future__ import annotations

import argparse
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from smalti.data import Pictures
from smalti.prior import SIZES, AbsorbingTransformer, PriorConfig, fastest_dtype, named_size, training_loss
from smalti.tokenizer import SIZES as TOKENIZERS
from smalti.tokenizer import VQGAN, TokenizerConfig
from smalti.training import PriorOptions, RunFolder, TokenizerOptions, train_prior, train_tokenizer
from smalti.training.progress import Report, SilentProgress

Pace = Callable[[], float]
"""Trains for a while and returns samples per second."""
WARM_UP = 2  # steps that are not counted: pools of threads, choice of kernels


@dataclass(frozen=True)
class Terms:
    """What is the same for all loops."""

    device: torch.device
    batch: int
    steps: int
    now: Callable[[], float]
    """Seconds: of the clock on the wall, or of this process on its processor."""

    def time(self) -> float:
        """`now`, once the device has done what it was asked for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.now()


# --- the original's second stage, in our own words --------------------------------------------------------------------


class OriginalBlock(nn.Module):
    """Pre-norm attention with three separate projections and an explicit softmax, then a two-layer GELU network."""

    def __init__(self, d: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(d), nn.LayerNorm(d)
        self.query, self.key, self.value, self.out = (nn.Linear(d, d) for _ in range(4))
        self.mlp = nn.Sequential(nn.Linear(d, 4 * d), nn.GELU(), nn.Linear(4 * d, d))

    def forward(self, x: Tensor) -> Tensor:
        n, cells, d = x.shape
        h = self.norm1(x)
        q, k, v = (f(h).view(n, cells, self.heads, -1).transpose(1, 2) for f in (self.query, self.key, self.value))
        weights = F.softmax(q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1]), dim=-1)  # (n, heads, N, N)
        x = x + self.out((weights @ v).transpose(1, 2).contiguous().view(n, cells, d))
        return x + self.mlp(self.norm2(x))


class OriginalTransformer(nn.Module):
    """Codes `(n, N)`, K = mask -> logits of all cells `(n, N, K)`."""

    def __init__(self, config: PriorConfig) -> None:
        super().__init__()
        self.tokens = nn.Embedding(config.codebook_size + 1, config.d_model)
        self.places = nn.Parameter(torch.zeros(1, config.cells, config.d_model))
        self.blocks = nn.Sequential(*(OriginalBlock(config.d_model, config.n_heads) for _ in range(config.n_layers)))
        self.norm = nn.LayerNorm(config.d_model)
        self.head = nn.Linear(config.d_model, config.codebook_size, bias=False)

    def forward(self, codes: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.tokens(codes) + self.places)))


def original_prior(codes: Tensor, config: PriorConfig, terms: Terms) -> float:
    """Samples per second of the original loop: float32, int64 codes from a DataLoader, each cell masked with
    probability t/T, the reweighted bound on logits of all cells, Adam, a wait for the loss in every step, an average
    of the weights every tenth."""
    device, batch = terms.device, terms.batch
    network = OriginalTransformer(config).to(device).train()
    average = OriginalTransformer(config).to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4)
    loader = DataLoader(TensorDataset(codes.flatten(1).long()), batch, shuffle=True, drop_last=True)
    total, losses, history = 256, [], torch.zeros(257, device=device)
    for step, (x,) in enumerate(repeated(loader)):
        if step == WARM_UP:
            started = terms.time()
        if step == WARM_UP + terms.steps:
            break
        x = x.to(device, non_blocking=True)
        t = torch.randint(1, total + 1, (batch,), device=device)
        mask = torch.rand_like(x.float()) < t.float()[:, None] / total
        noised, targets = x.clone(), x.clone()
        noised[mask] = config.codebook_size
        targets[~mask] = -1
        logits = network(noised).permute(0, 2, 1)  # (n, K, N)
        entropy = F.cross_entropy(logits, targets, ignore_index=-1, reduction="none").sum(1)
        history.scatter_(0, t, 0.1 * entropy.detach().square() + 0.9 * history[t])
        loss = ((1 - t / total) * entropy / (math.log(2) * x.shape[1])).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if step % 10 == 0:
            averaged(average, network, 0.995)
    return terms.steps * batch / (terms.time() - started)


# --- the original's first stage ---------------------------------------------------------------------------------------


class OneHotQuantizer(nn.Module):
    """Nearest codes as a product of one-hot vectors, `(n h w, K)` of them, with the codebook."""

    def __init__(self, codebook_size: int, code_dim: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(codebook_size, code_dim)
        nn.init.uniform_(self.embedding.weight, -1 / codebook_size, 1 / codebook_size)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        z = z.permute(0, 2, 3, 1).contiguous()
        flat, e = z.view(-1, z.shape[-1]), self.embedding.weight
        distances = (flat**2).sum(1, keepdim=True) + (e**2).sum(1) - 2 * flat @ e.t()
        nearest = distances.argmin(1, keepdim=True)
        one_hot = torch.zeros(len(flat), len(e), device=z.device).scatter_(1, nearest, 1)
        q = (one_hot @ e).view(z.shape)
        loss = ((q.detach() - z) ** 2).mean() + 0.25 * ((q - z.detach()) ** 2).mean()
        used = one_hot.mean(0)
        perplexity = torch.exp(-(used * torch.log(used + 1e-10)).sum())
        return (z + (q - z).detach()).permute(0, 3, 1, 2).contiguous(), loss, perplexity


def original_tokenizer(pixels: Tensor, config: TokenizerConfig, terms: Terms) -> float:
    """Samples per second of the original loop on our encoder and decoder: float32 in the default memory layout, the
    one-hot quantiser, float pictures from a DataLoader, Adam, waits for three statistics in every step, an average of
    the weights every tenth. As in the smalti column, losses of pixels alone: a critic costs both the same."""

    device, batch = terms.device, terms.batch

    def parts() -> nn.ModuleList:
        network = VQGAN(config)
        quantizer = OneHotQuantizer(config.codebook_size, config.code_dim)
        return nn.ModuleList([network.encoder, quantizer, network.decoder]).to(device)

    network, average = parts().train(), parts()
    encoder, quantizer, decoder = network
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    loader = DataLoader(TensorDataset(pixels), batch, shuffle=True, drop_last=True)
    stats = []
    for step, (raw,) in enumerate(repeated(loader)):
        if step == WARM_UP:
            started = terms.time()
        if step == WARM_UP + terms.steps:
            break
        images = (raw.permute(0, 3, 1, 2).float() / 127.5 - 1).to(device, non_blocking=True)
        vectors, quantizer_loss, perplexity = quantizer(encoder(images))
        difference = decoder(vectors) - images
        slopes = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        near = difference.abs().mean() + 2 * difference.square().mean() + 0.5 * slopes
        loss = near + 0.25 * quantizer_loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        stats.append((loss.item(), quantizer_loss.item(), perplexity.item()))
        if step % 10 == 0:
            averaged(average, network, 0.995)
    return terms.steps * batch / (terms.time() - started)


def averaged(average: nn.Module, network: nn.Module, decay: float) -> None:
    """One parameter after the other."""
    with torch.no_grad():
        for mine, theirs in zip(average.parameters(), network.parameters(), strict=True):
            mine.copy_(mine * decay + theirs * (1 - decay))


def repeated(loader: DataLoader[tuple[Tensor, ...]]):  # type: ignore[no-untyped-def]
    while True:
        yield from loader


# --- ours, as `smalti train` runs it ----------------------------------------------------------------------------------


class Watch(SilentProgress):
    """Seconds between the last two reports."""

    def __init__(self, terms: Terms) -> None:
        self._terms, self._last, self.seconds = terms, 0.0, 0.0

    def report(self, report: Report) -> None:
        now = self._terms.time()
        self._last, self.seconds = now, now - self._last


def in_words(terms: Terms, optimizer: str) -> dict[str, Any]:
    """Options of both stages: two reports, of which the first ends the warm-up, and no checkpoint between."""
    steps = {"steps": 2 * terms.steps, "log_every": terms.steps, "checkpoint_every": 10**9}
    return {"batch": terms.batch, "optimizer": optimizer, **steps}


def our_prior(codes: Tensor, config: PriorConfig, terms: Terms, optimizer: str = "adamw") -> float:
    """Samples per second of `train_prior` with its default objective."""
    watch, options = Watch(terms), PriorOptions.model_validate(in_words(terms, optimizer))
    with tempfile.TemporaryDirectory() as folder:
        train_prior(codes, config, options, RunFolder(folder, watch), device=terms.device)
    return terms.steps * terms.batch / watch.seconds


def our_tokenizer(pixels: Tensor, config: TokenizerConfig, terms: Terms, optimizer: str = "adamw") -> float:
    """Samples per second of `train_tokenizer`; looks for dead codes are too rare to be among them."""
    watch, options = Watch(terms), TokenizerOptions.model_validate(in_words(terms, optimizer))
    pictures = Pictures(pixels.numpy(), np.arange(len(pixels)), "random")
    with tempfile.TemporaryDirectory() as folder:
        train_tokenizer(pictures, config, options, RunFolder(folder, watch), device=terms.device)
    return terms.steps * terms.batch / watch.seconds


# --- counting and timing ----------------------------------------------------------------------------------------------


def matmul_peak(dtype: torch.dtype, terms: Terms) -> float:
    """Operations per second of the best of some square products."""
    side = 8192 if terms.device.type == "cuda" else 2048
    a, b = (torch.randn(side, side, device=terms.device, dtype=dtype) for _ in range(2))
    best = math.inf
    for _ in range(8):
        started = terms.time()
        a @ b
        best = min(best, terms.time() - started)
    return 2 * side**3 / best


def prior_operations(codes: Tensor, config: PriorConfig, device: torch.device) -> float:
    """Operations of all products of one training step of ours per sample, forward and back."""
    network = AbsorbingTransformer(config).to(device).train()
    with FlopCounterMode(display=False) as counter:
        training_loss(network, codes[:16].to(device).long()).loss.backward()
    return counter.get_total_flops() / 16


def tokenizer_operations(config: TokenizerConfig, side: int, device: torch.device) -> float:
    """The same of the first stage."""
    network = VQGAN(config).to(device).train()
    with FlopCounterMode(display=False) as counter:
        result = network(torch.zeros(1, 3, side, side, device=device))
        (result.images.square().mean() + result.quantized.loss).backward()
    return counter.get_total_flops()


def table(stage: str, loops: dict[str, Pace], repeat: int, operations: float, peak: float) -> None:
    """Runs the loops in turn, `repeat` times, and prints the median of each; ratios are medians of those of a turn."""
    turns = [{name: loop() for name, loop in loops.items()} for _ in range(repeat)]
    first = next(iter(loops))
    for name in loops:
        pace = statistics.median(turn[name] for turn in turns)
        ratios = sorted(turn[name] / turn[first] for turn in turns)
        ratio = "" if name == first else f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        share = "" if name == first else f"{pace * operations / peak:.0%}"
        print(f"| {stage} | {name} | {pace:.1f} | {ratio} | {share} |", flush=True)


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--prior", default="mini", choices=list(SIZES), help="named size of the prior")
    words.add_argument("--tokenizer", default="vqgan_lean", choices=list(TOKENIZERS), help="and of the tokenizer")
    words.add_argument("--batch", type=int, default=16, help="samples per step of the prior; the tokenizer has half")
    words.add_argument("--pixels", type=int, default=128, help="side of a picture")
    words.add_argument("--steps", type=int, default=4, help="steps per turn that are timed")
    words.add_argument("--repeat", type=int, default=3, help="turns; the median counts")
    words.add_argument("--threads", type=int, default=torch.get_num_threads())
    words.add_argument("--busy", action="store_true", help="the machine does other things, too: count the seconds of "
                       "this process on its processor (one thread, CPU only)")  # fmt: skip
    words.add_argument("--device", default="cpu")
    given = words.parse_args()
    if given.busy and (given.device != "cpu" or given.threads != 1):
        words.error("--busy is for --device cpu --threads 1")
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    now = time.process_time if given.busy else time.perf_counter
    of_codes = Terms(torch.device(given.device), given.batch, given.steps, now)
    of_pictures = replace(of_codes, batch=max(1, given.batch // 2))
    device = of_codes.device
    dtype = fastest_dtype(device)
    peak = matmul_peak(dtype, of_codes)

    prior, tokenizer = named_size(given.prior), TOKENIZERS[given.tokenizer]
    codes = torch.randint(prior.codebook_size, (2048, prior.height, prior.width), dtype=torch.int16)
    pixels = torch.randint(256, (256, given.pixels, given.pixels, 3), dtype=torch.uint8)
    print(
        f"prior {given.prior} (batch {of_codes.batch}), tokenizer {given.tokenizer} (batch {of_pictures.batch}, "
        f"{given.pixels}x{given.pixels} pixels) on {device}, {given.threads} thread(s), torch {torch.__version__}"
        f"{', processor seconds' if given.busy else ''}; original in float32, smalti in {dtype}, "
        f"in which products reach {peak / 1e9:.0f} GFLOP/s".replace("torch.", "")
    )
    print("| stage | loop | samples/s | times faster (range) | share of that |")
    print("| --- | --- | ---: | ---: | ---: |")
    table(
        "prior",
        {
            "original": lambda: original_prior(codes, prior, of_codes),
            "smalti": lambda: our_prior(codes, prior, of_codes),
            "smalti, muon": lambda: our_prior(codes, prior, of_codes, "muon"),
        },
        given.repeat,
        prior_operations(codes, prior, device),
        peak,
    )
    table(
        "tokenizer",
        {
            "original": lambda: original_tokenizer(pixels, tokenizer, of_pictures),
            "smalti": lambda: our_tokenizer(pixels, tokenizer, of_pictures),
            "smalti, muon": lambda: our_tokenizer(pixels, tokenizer, of_pictures, "muon"),
        },
        given.repeat,
        tokenizer_operations(tokenizer, given.pixels, device),
        peak,
    )


if __name__ == "__main__":
    main()

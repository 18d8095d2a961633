"""Sampling time against the original algorithm's loop, on one and the same network.

    python benchmarks/sample.py [--size small] [--images 1] [--threads 2] [--device cpu]

The weights are random: the time of a step does not depend on them. See benchmarks/README.md for what is compared.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor

from smalti.prior import SIZES, AbsorbingTransformer, named_size, optimize_for_inference
from smalti.sampling import Denoiser, SamplerOptions, fill_steps
from smalti.types import EMPTY, Codes

STEPS = (8, 16, 24, 32, 64, 256)
Result = TypeVar("Result")
MOUTH = 30  # cells of a small edit: 5 rows x 6 columns


@torch.no_grad()
def original_loop(network: AbsorbingTransformer, images: int, steps: int) -> Codes:
    """The paper's sampling (Bond-Taylor et al. 2022, section 3.2 with the linear schedule), as its authors run it.

    At step t = S..1 each still hidden cell is uncovered with probability 1/t; the network gives logits for all cells,
    a code is drawn for all of them, and the drawn codes are kept where a cell was uncovered. Steps that uncover nothing
    cost as much as the others.
    """
    height, width = network.window
    codes = torch.full((images, height * width), EMPTY, device=network.device)
    hidden = torch.ones_like(codes, dtype=torch.bool)
    for t in range(steps, 0, -1):
        uncovered = hidden & (torch.rand(codes.shape, device=codes.device) < 1 / t)
        logits = network(codes.view(-1, height, width))  # (n, N, K)
        drawn = torch.distributions.Categorical(logits=logits).sample()  # type: ignore[no-untyped-call]
        codes = torch.where(uncovered, drawn, codes)
        hidden &= ~uncovered
    return codes.view(images, height, width)


def ours(denoiser: Denoiser, start: Codes, steps: int) -> tuple[Codes, int]:
    """Filled codes, and how many windows the network looked at."""
    codes, evaluations = start, 0
    options = SamplerOptions(num_inference_steps=steps)
    for step in fill_steps(denoiser, start, seeds=range(len(start)), options=options):
        codes, evaluations = step.codes, step.evaluations
    return codes, evaluations


def best_time(work: Callable[[], Result], repeat: int) -> tuple[float, Result]:
    """Shortest of `repeat` runs, in seconds: the one least disturbed."""
    shortest, result = float("inf"), None
    for _ in range(repeat):
        started = time.perf_counter()
        result = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        shortest = min(shortest, time.perf_counter() - started)
    assert result is not None
    return shortest, result


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--size", default="small", choices=list(SIZES), help="named size of the network")
    words.add_argument("--images", type=int, default=1, help="pictures at once")
    words.add_argument("--repeat", type=int, default=2, help="runs of which the shortest counts")
    words.add_argument("--threads", type=int, default=torch.get_num_threads())
    words.add_argument("--device", default="cpu")
    given = words.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    network = AbsorbingTransformer(named_size(given.size)).eval().requires_grad_(False).to(given.device)
    fast = optimize_for_inference(network)
    height, width = network.window
    weights = sum(p.numel() for p in network.parameters()) / 1e6
    print(
        f"network {given.size}: {weights:.1f} M weights, {height}x{width} cells, {network.codebook_size} codes; "
        f"{given.images} picture(s) on {given.device}, {given.threads} thread(s), torch {torch.__version__}; "
        f"loop in float32, smalti in {fast.dtype}".replace("torch.", "")
    )
    original_loop(network, given.images, 2)  # the first call of each kind pays for set-up
    ours(fast, _empty(given.images, height, width), 2)

    loop: dict[int, float] = {}
    print("| steps | original loop, s | smalti, s | windows seen | faster at equal steps | than the loop's 256 |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    rows: list[tuple[str, float | None, float, int]] = []
    for steps in STEPS:
        loop[steps], _ = best_time(partial(original_loop, network, given.images, steps), given.repeat)
        start = _empty(given.images, height, width)
        seconds, (_, seen) = best_time(partial(ours, fast, start, steps), given.repeat)
        rows.append((str(steps), loop[steps], seconds, seen))
    start = torch.zeros(given.images, height, width, dtype=torch.int64)
    start[:, 9:14, 4:10] = EMPTY
    seconds, (_, seen) = best_time(partial(ours, fast, start, 256), given.repeat)
    rows.append((f"256, {MOUTH} empty cells", None, seconds, seen))
    for name, before, now, seen in rows:
        equal = f"{before / now:.1f}x" if before else ""
        was = f"{before:.2f}" if before else ""
        print(f"| {name} | {was} | {now:.3f} | {seen} | {equal} | {loop[256] / now:.1f}x |")


def _empty(images: int, height: int, width: int) -> Tensor:
    return torch.full((images, height, width), EMPTY)


if __name__ == "__main__":
    main()

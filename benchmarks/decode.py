"""Time and peak memory of turning codes into a large picture: in one piece and tile by tile.

    python benchmarks/decode.py [--size vqgan_lean] [--threads 2]

Each line is a process of its own, so its peak is its own. The weights are random: neither time nor
memory depend on them.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import torch

from smalti.tokenizer import SIZES, VQGAN

ONE_PIECE = (512, 1024, 2048)
TILED = (512, 1024, 2048, 4096)


def measure(size: str, way: str, pixels: int, threads: int) -> dict[str, float]:
    """In this process: seconds and peak megabytes beyond what was used before. The picture itself counts."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    tokenizer = VQGAN(SIZES[size]).eval().requires_grad_(False)
    cells = pixels // tokenizer.cell
    codes = torch.randint(tokenizer.codebook_size, (1, cells, cells))
    tokenizer.decode(codes[:, :8, :8])  # the first call sets up thread pools and kernels
    before = _peak_megabytes()
    started = time.perf_counter()
    picture = tokenizer.decode(codes) if way == "one piece" else tokenizer.decode_tiled(codes)
    seconds = time.perf_counter() - started
    return {"seconds": seconds, "peak": _peak_megabytes() - before, "picture": picture.nbytes / 2**20}


def difference(size: str, pixels: int) -> float:
    """Largest difference of a colour value between the two ways, on the 0..255 scale."""
    torch.manual_seed(0)
    tokenizer = VQGAN(SIZES[size]).eval().requires_grad_(False)
    codes = torch.randint(tokenizer.codebook_size, (1, pixels // tokenizer.cell, pixels // tokenizer.cell))
    return float((tokenizer.decode(codes) - tokenizer.decode_tiled(codes)).abs().max()) * 127.5


def _peak_megabytes() -> float:
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--size", default="vqgan_lean", choices=list(SIZES), help="named size of the tokenizer")
    words.add_argument("--threads", type=int, default=torch.get_num_threads())
    words.add_argument("--one", nargs=2, metavar=("WAY", "PIXELS"), help=argparse.SUPPRESS)
    given = words.parse_args()
    if given.one:
        print(json.dumps(measure(given.size, given.one[0], int(given.one[1]), given.threads)))
        return
    print(f"tokenizer {given.size}, {given.threads} thread(s), torch {torch.__version__}")
    print("| picture | way | seconds | peak memory, MB | of which the picture |")
    print("| ---: | --- | ---: | ---: | ---: |")
    options = ["--size", given.size, "--threads", str(given.threads)]
    for way, sizes in (("one piece", ONE_PIECE), ("tiled", TILED)):
        for pixels in sizes:
            ran = subprocess.run(
                [sys.executable, __file__, *options, "--one", way, str(pixels)],
                capture_output=True,
                text=True,
                check=True,
            )
            m = json.loads(ran.stdout)
            seconds, peak, picture = m["seconds"], m["peak"], m["picture"]
            print(f"| {pixels}x{pixels} | {way} | {seconds:.1f} | {peak:.0f} | {picture:.0f} |", flush=True)
    print(f"\nlargest difference of the two ways at 1024x1024: {difference(given.size, 1024):.1e} of 255 levels")


if __name__ == "__main__":
    main()

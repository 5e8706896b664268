"""Bytes and multiply-adds of the CUDA kernels, counted from what they load, store and multiply: no GPU, and no time.

    python benchmarks/count_cuda_traffic.py --output_dir benchmarks/results

A test holds the counts against the kernels themselves, run in Triton's interpreter. `floor_bytes` is what any kernel for these sizes
has to move (sima_hf/bench/floor.py); what is loaded beyond it is read a second time, from cache where the head still is there.
torch's own small launches, which add up pieces, are not in it.
"""

import argparse
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from sima_hf.bench.attention import CHANNELS, HEADS
from sima_hf.bench.tables import write_csv
from sima_hf.ops.triton import blocks_for, launch
from sima_hf.version import __version__


SIZES = ((256, 197), (1, 4096), (1, 16384), (1, 65536))  # (batch, tokens)
MULTIPROCESSORS = 132  # of an H100 or H200: it decides on how many programs tokens are split


@dataclass(frozen=True)
class Traffic:
    """One direction at one size, bfloat16; `float32_bytes` among the loaded and stored are sums and D x D matrices."""

    mode: str
    batch: int
    tokens: int
    heads: int
    channels: int
    dtype: str
    pieces: int
    writing_pieces: int
    block: int
    launches: int
    programs: int
    loaded_bytes: int
    stored_bytes: int
    float32_bytes: int
    floor_bytes: int
    multiply_adds: int
    multiprocessors: int
    sima_hf: str


def traffic(mode: str, batch: int, tokens: int, dtype: torch.dtype = torch.bfloat16, save: bool = False) -> Traffic:
    """Count one call, "forward" or "backward"; `save` for a forward that keeps what backward needs."""
    block = blocks_for(CHANNELS, CHANNELS, dtype).tokens
    pieces, spread = launch(batch * HEADS, tokens, block, MULTIPROCESSORS)
    heads, blocks = batch * HEADS, math.ceil(tokens / block)
    writing = math.ceil(blocks / math.ceil(blocks / spread))  # pieces that have tokens; each reads the matrices once
    one = heads * tokens * CHANNELS * dtype.itemsize  # a tensor
    sums = 4 * heads * pieces * (2 * CHANNELS + CHANNELS**2 + 1)
    matrices, vectors, numbers = 4 * heads * CHANNELS**2, 4 * heads * CHANNELS, 4 * heads
    if mode == "forward":
        launches, programs = (1, heads * pieces) if pieces == 1 else (2, heads * (pieces + spread))
        stored_sums = sums if save or pieces > 1 else 0
        applied = writing * (matrices + 2 * vectors + numbers) if pieces > 1 else 0
        small = stored_sums + applied
        loaded = 4 * one + applied  # k and v once, q twice
        stored, floor, products = one + stored_sums, 4 * one, 2
    else:
        launches, programs = 2, heads * (pieces + spread)
        partial = matrices * pieces
        read = spread * (3 * vectors + numbers) + writing * (3 * matrices + 2 * vectors)
        small = partial + read
        loaded = 7 * one + read  # v once, q, k and the gradient twice
        stored, floor, products = 3 * one + partial, 7 * one, 4
    return Traffic(
        mode=mode,
        batch=batch,
        tokens=tokens,
        heads=HEADS,
        channels=CHANNELS,
        dtype=str(dtype).removeprefix("torch."),
        pieces=pieces,
        writing_pieces=writing,
        block=block,
        launches=launches,
        programs=programs,
        loaded_bytes=loaded,
        stored_bytes=stored,
        float32_bytes=small,
        floor_bytes=floor,
        multiply_adds=products * heads * tokens * CHANNELS**2,
        multiprocessors=MULTIPROCESSORS,
        sima_hf=__version__,
    )


def main() -> None:
    """Write `attention_cuda_counted.csv`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path())
    folder = parser.parse_args().output_dir
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "attention_cuda_counted.csv"
    write_csv([traffic(mode, *size) for mode in ("forward", "backward") for size in SIZES], path)
    print(path)


if __name__ == "__main__":
    main()

"""Bytes that processes exchange where the tokens of one image are split over them, counted call by call, beside ring attention's.

    python benchmarks/count_group_traffic.py --output_dir benchmarks/results --page docs/parallel.md

Every collective and every exchange of border rows goes through `torch.distributed`, where this counts it. The models run whole: at
4,096 tokens really, in two processes joined over gloo on this machine's CPU; at all sizes on torch's meta device, which has shapes
and no numbers, as one process of eight. Both counts of the one size must agree. No time is measured.

Sent is what a ring all-reduce of S bytes sends from each of P processes, 2 (P - 1) / P S (Patarasuk and Yuan, 2009), and the border
rows as they are. Ring attention (arXiv 2310.01889) passes the keys and values of each process to the next, P - 1 times in
each block; backward does so again and passes their gradients on P times, until they are home. Here in bfloat16, gradients too.
"""

import argparse
import contextlib
import multiprocessing
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import distributed
from transformers import DeiTConfig, DeiTForImageClassification

import sima_hf
from sima_hf.bench.tables import markdown, read_csv, replace_between, write_csv


NAME = "group_traffic.csv"
MODELS = ("deit-small", "sima_small_12_p16")
MODES = ("forward", "training step")
SIDES = (64, 128, 256, 512, 1000)  # patches: 4,096 to 1,000,000 tokens
PATCH = 16
PROCESSES = 8
CHECKED = {"processes": 2, "side": 64, "dtype": torch.float32}


@dataclass(frozen=True)
class Traffic:
    """What one process, of those in the middle, hands over for one image; bytes `sent` are as the file's head says."""

    model: str
    mode: str
    tokens: int
    processes: int
    dtype: str
    counted: str
    all_reduces: int
    all_reduced_bytes: int
    exchanges: int
    exchanged_bytes: int
    sent_bytes: int
    ring_attention_bytes: int
    torch: str
    sima_hf: str


def build(name: str, side: int) -> torch.nn.Module:
    """A model for images of `side` by `side` patches of 16 pixels, random weights."""
    if name == "deit-small":
        sizes = {"hidden_size": 384, "num_attention_heads": 6, "intermediate_size": 1536}
        return sima_hf.patch_model(DeiTForImageClassification(DeiTConfig(**sizes, image_size=side * PATCH)))
    return sima_hf.SimAForImageClassification(sima_hf.SimAConfig.from_variant(name))


@contextlib.contextmanager
def counting() -> Iterator[dict[str, list[int]]]:
    """Bytes of every call, by kind; on the meta device nothing is sent."""
    counts: dict[str, list[int]] = {"all_reduces": [], "exchanges": []}
    reduce, exchange = distributed.all_reduce, distributed.batch_isend_irecv

    def all_reduce(tensor, *args, **kwargs):
        counts["all_reduces"].append(tensor.nbytes)
        return None if tensor.is_meta else reduce(tensor, *args, **kwargs)

    def batch_isend_irecv(transfers):
        counts["exchanges"].append(sum(one.tensor.nbytes for one in transfers if one.op is distributed.isend))
        return [] if any(one.tensor.is_meta for one in transfers) else exchange(transfers)

    distributed.all_reduce, distributed.batch_isend_irecv = all_reduce, batch_isend_irecv
    try:
        yield counts
    finally:
        distributed.all_reduce, distributed.batch_isend_irecv = reduce, exchange


def count(model: torch.nn.Module, name: str, mode: str, side: int, counted: str) -> Traffic:
    """One forward, or one step but for the mean of the gradients, which is that of data parallelism, in this process's group."""
    parameter, processes = next(model.parameters()), distributed.get_world_size()
    pixels = torch.zeros(1, 3, side * PATCH, side * PATCH, dtype=parameter.dtype, device=parameter.device)
    training = mode == "training step"
    model.train(training)
    with (
        sima_hf.split_tokens(model, distributed.group.WORLD),
        torch.set_grad_enabled(training),
        counting() as counts,
    ):
        logits = model(pixels).logits
        if training:
            logits.sum().backward()
    reduced, exchanged = sum(counts["all_reduces"]), sum(counts["exchanges"])
    config = model.config
    passed = (
        processes - 1 + (2 * processes - 1 if training else 0)
    )  # keys and values, forward and backward, and gradients
    block = 2 * side**2 * config.hidden_size * torch.bfloat16.itemsize / processes  # keys and values of one process
    return Traffic(
        model=name,
        mode=mode,
        tokens=side**2,
        processes=processes,
        dtype=str(parameter.dtype).removeprefix("torch."),
        counted=counted,
        all_reduces=len(counts["all_reduces"]),
        all_reduced_bytes=reduced,
        exchanges=len(counts["exchanges"]),
        exchanged_bytes=exchanged,
        sent_bytes=round(2 * (processes - 1) / processes * reduced) + exchanged,
        ring_attention_bytes=round(config.num_hidden_layers * passed * block),
        torch=torch.__version__,
        sima_hf=sima_hf.__version__,
    )


def counted_on_shapes(name: str, mode: str, side: int, processes: int, dtype: torch.dtype) -> Traffic:
    """The count of the process in the middle, of shapes alone."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    distributed.init_process_group("fake", store=FakeStore(), rank=processes // 2, world_size=processes)
    try:
        with torch.device("meta"):
            model = build(name, side).to(dtype)
        return count(model, name, mode, side, "on shapes")
    finally:
        distributed.destroy_process_group()


def _joined(rank: int, processes: int, port: int, name: str, side: int, mode: str, queue) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes)
    torch.manual_seed(0)
    row = count(build(name, side), name, mode, side, "over gloo")
    if rank == processes // 2:
        queue.put(vars(row))
        queue.close()
        queue.join_thread()
    distributed.barrier()
    os._exit(0)  # gloo's threads may hang a process that takes them down


def counted_over_gloo(name: str, mode: str, side: int, processes: int) -> Traffic:
    """The count of the process in the middle, of so many that compute on the CPU in float32."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    joined = [
        context.Process(target=_joined, args=(rank, processes, port, name, side, mode, queue))
        for rank in range(processes)
    ]
    for process in joined:
        process.start()
    row = Traffic(**queue.get(timeout=500))
    for process in joined:
        process.join(60)
    return row


def check_alike(one: Traffic, other: Traffic) -> None:
    """SystemExit unless two counts of the same run are the same."""
    for field in fields(Traffic):
        if field.name != "counted" and getattr(one, field.name) != getattr(other, field.name):
            raise SystemExit(f"Counts differ in {field.name}: {one} and {other}.")


def markdown_table(rows: list[dict[str, str]]) -> str:
    """The table of the page, of the counts on shapes, and a sentence on those over gloo."""
    shown = [row for row in rows if row["counted"] == "on shapes"]
    cells = [
        [
            row["model"],
            row["mode"],
            f"{int(row['tokens']):,}",
            f"{int(row['sent_bytes']) / 1e6:,.1f}",
            f"{int(row['exchanged_bytes']) / 1e6:,.1f}",
            f"{int(row['ring_attention_bytes']) / 1e6:,.0f}",
            f"{int(row['ring_attention_bytes']) / int(row['sent_bytes']):,.0f}",
        ]
        for row in shown
    ]
    header = ["model", "", "tokens", "SimA sends, MB", "of these border rows", "ring attention, MB", "times as much"]
    one, checked = shown[0], next(row for row in rows if row["counted"] == "over gloo")
    return markdown(header, cells, left=2) + (
        f"\n\nFor one image, from one of {one['processes']} processes, {one['dtype']} with sums in float32; torch {one['torch']}. Counted on "
        f"shapes; a run over gloo, of {checked['processes']} processes on one CPU, {int(checked['tokens']):,} tokens and {checked['dtype']}, "
        "made the same calls. Ring attention is on paper, without its softmax statistics, gradients in bfloat16. "
        f"[CSV](benchmarks/results/{NAME})"
    )


def main() -> None:
    """Count, check, and write the CSV and the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path())
    parser.add_argument("--page", type=Path, help="write the table between its marks in this page")
    args = parser.parse_args()
    rows = []
    for name in MODELS:
        for mode in MODES:
            real = counted_over_gloo(name, mode, CHECKED["side"], CHECKED["processes"])
            check_alike(real, counted_on_shapes(name, mode, **CHECKED))
            rows.append(real)
            rows += [counted_on_shapes(name, mode, side, PROCESSES, torch.bfloat16) for side in SIDES]
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path = args.output_dir / NAME
    write_csv(rows, path)
    if args.page:
        replace_between(args.page, "group-traffic", markdown_table(read_csv(path)))
    print(path)


if __name__ == "__main__":
    main()

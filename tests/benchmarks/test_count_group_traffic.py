"""Counts on shapes are the counts of processes that run; the committed ones are what the script counts, and the page's."""

from pathlib import Path

import pytest
import torch
from torch import distributed

from benchmarks import count_group_traffic
from sima_hf import SimAConfig, SimAForImageClassification
from sima_hf.bench import tables
from tests.helpers.joined_processes import run_joined


ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
WIDTH, HEADS, BLOCKS, SIDE = 32, 2, 2, 5


def tiny(name, side):
    sizes = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS}
    return SimAForImageClassification(SimAConfig(**sizes, num_class_attention_layers=1))


def _count():
    distributed.init_process_group("gloo")
    row = count_group_traffic.count(tiny("", SIDE), "tiny", "training step", SIDE, "over gloo")
    distributed.barrier()
    return row


def test_counts_on_shapes_are_those_of_processes_that_run(tmp_path, monkeypatch):
    monkeypatch.setattr(count_group_traffic, "build", tiny)
    _, found = run_joined(_count, processes=3, folder=tmp_path / "told")
    expected = count_group_traffic.counted_on_shapes("tiny", "training step", SIDE, 3, torch.float32)
    count_group_traffic.check_alike(found[1], expected)
    channels = WIDTH // HEADS
    attention = WIDTH * (2 + channels) * (BLOCKS + 1)
    stem = [WIDTH // 8, WIDTH // 4, WIDTH // 2, WIDTH]
    norms = sum(2 * width + 1 for width in [*stem, *[WIDTH] * BLOCKS])
    assert expected.all_reduced_bytes == 2 * 4 * (attention + norms)
    rows = 2 * 2 * WIDTH * SIDE * BLOCKS  # two convolutions in each block, a row up and a row down
    into_stem = [3 * 16, *(width * size for width, size in zip(stem, (8, 4, 2), strict=False))]
    into_stem = [number * SIDE for number in into_stem]
    assert expected.exchanged_bytes == 4 * (2 * rows + 2 * sum(into_stem) - into_stem[0])  # pixels have no gradient


@pytest.mark.results
def test_committed_counts_are_what_the_script_counts():
    rows = tables.read_csv(RESULTS / count_group_traffic.NAME)
    found = {(row["model"], row["mode"], row["tokens"]): row for row in rows if row["counted"] == "on shapes"}
    assert len(found) == 20
    for (model, mode, tokens), row in found.items():
        if tokens not in ("4096", "1000000"):
            continue
        now = count_group_traffic.counted_on_shapes(model, mode, round(int(tokens) ** 0.5), 8, torch.bfloat16)
        for name in ("all_reduces", "all_reduced_bytes", "exchanges", "exchanged_bytes", "sent_bytes"):
            assert str(getattr(now, name)) == row[name]
        if model == "deit-small":
            numbers = 6 * 64 * 2 + 6 * 64 * 64 + 1  # the two norms, the matrix and the number of tokens
            assert int(row["all_reduced_bytes"]) == 12 * 4 * numbers * (1 if mode == "forward" else 2)
            blocks = 2 * int(tokens) * 384 * 2 * 12 // 8
            assert int(row["ring_attention_bytes"]) == blocks * (7 if mode == "forward" else 7 + 7 + 8)


@pytest.mark.results
def test_the_page_holds_the_committed_counts(monkeypatch):
    monkeypatch.chdir(ROOT)
    table = count_group_traffic.markdown_table(tables.read_csv(RESULTS / count_group_traffic.NAME))
    page = Path("docs/parallel.md")
    assert tables.links_from(page, table) in page.read_text(encoding="utf-8")

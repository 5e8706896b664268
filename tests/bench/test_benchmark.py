"""The benchmark: what it measures is checked first, and the README repeats the committed results word for word."""

import json
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sima_hf.bench import attention as benchmark
from sima_hf.bench import attention_report as benchmark_report
from sima_hf.bench import floor as benchmark_floor
from sima_hf.bench import traffic as benchmark_traffic


ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


@pytest.fixture(scope="module")
def rows():
    return benchmark.measure(sizes=((2, 5), (1, 70)), seconds=0.0, compiled=False)


@pytest.fixture(scope="module")
def trained():
    return benchmark.measure(sizes=((1, 70),), seconds=0.0, mode="train", dtype=torch.bfloat16)


def test_every_contestant_at_every_size(rows):
    assert {(row.contestant, row.batch, row.tokens) for row in rows} == {
        (name, batch, tokens) for name in benchmark.CONTESTANTS for batch, tokens in ((2, 5), (1, 70))
    }
    for row in rows:
        assert row.turns >= 7
        assert 0 < row.lower_quartile_us <= row.median_us <= row.upper_quartile_us
        assert row.threads == torch.get_num_threads()
        assert row.floor_us > 0
        assert row.peak_bytes >= 4 * row.batch * row.tokens * row.heads * row.channels  # the output
    assert {row.ratio_to_softmax for row in rows if row.contestant == "softmax"} == {1.0}
    assert {row.ratio_to_literal for row in rows if row.contestant == "literal"} == {1.0}


def test_csv_round_trip_table_and_picture(rows, tmp_path):
    path = tmp_path / "attention.csv"
    benchmark_report.write_csv(rows, path)
    read = benchmark_report.read_csv(path)
    assert [row["contestant"] for row in read] == [row.contestant for row in rows]
    assert float(read[0]["median_us"]) == rows[0].median_us
    benchmark_report.draw(path, tmp_path / "attention.png")
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    heading, *lines = benchmark_report.table(path).splitlines()
    assert "time sima/softmax (less is better)" in heading
    assert [len(line) for line in lines] == [len(heading)] * 2


def test_training_and_the_compiled_contestant(trained, tmp_path):
    assert {row.contestant for row in trained} == {*benchmark.CONTESTANTS, *benchmark.COMPILED}
    assert {(row.mode, row.dtype) for row in trained} == {("train", "bfloat16")}
    benchmark_report.write_csv(trained, tmp_path / "a.csv")
    assert "sima_compiled" in benchmark_report.table(tmp_path / "a.csv")
    benchmark_report.draw(tmp_path / "a.csv", tmp_path / "a.png")


def test_unknown_mode():
    with pytest.raises(ValueError, match="'forward', 'train', got 'sideways'"):
        benchmark.measure(mode="sideways")


def test_work_is_what_a_counter_counts():
    """Multiply-adds of the linear order by torch's own counter, forward, and forward and backward."""
    tensors = [x.requires_grad_() for x in benchmark.strided_inputs(2, 100, torch.float32, "cpu")]
    for mode in benchmark.MODES:
        moved, additions = benchmark_floor.attention_work(tensors[0], mode)
        with FlopCounterMode(display=False) as counter:
            out = benchmark.sima_attention(*tensors, backend="eager", order="linear")
            if mode == "train":
                out.sum().backward()
        assert counter.get_total_flops() == 2 * additions
        assert moved == {"forward": 4, "train": 11}[mode] * 4 * tensors[0].numel()


def test_peak_is_what_is_held_at_once():
    def call():
        first = torch.ones(1000, 1000)
        del first
        return torch.ones(500, 1000).sum() + torch.ones(250, 1000).sum()

    assert 4_000_000 <= benchmark_floor.peak_allocated(call, "cpu") < 4_100_000


def test_the_ceiling_is_the_quicker_of_two_ways_to_the_same_product(monkeypatch):
    """Operations over seconds, without a clock: what is timed must be the product of two square matrices, done twice over."""
    seconds, results = iter((2.0, 0.5)), []

    def timed(call, device, limit):
        assert (device, limit) == ("cpu", 0.05)
        results.append(call().flatten())
        return next(seconds)

    monkeypatch.setattr(benchmark_floor, "_best_time", timed)
    assert benchmark_floor.multiply_add_ceiling(torch.float32, "cpu", 0.05) == 2 * 1536**3 / 0.5
    product, convolution = results
    assert len(product) == 1536**2
    torch.testing.assert_close(convolution, product, rtol=1e-3, atol=1e-2)


def test_nothing_is_timed_when_results_disagree(monkeypatch):
    monkeypatch.setitem(benchmark.CONTESTANTS, "sima", lambda query, key, value: 1.01 * value)
    with pytest.raises(RuntimeError, match="sima differs from the literal formula"):
        benchmark.measure(sizes=((1, 8),), seconds=0.0)


def test_nothing_is_timed_when_gradients_disagree(monkeypatch):
    def detached(query, key, value):
        return benchmark.sima_attention(query, key.detach(), value) + 0 * key

    monkeypatch.setitem(benchmark.CONTESTANTS, "sima", detached)
    benchmark.measure(sizes=((1, 8),), seconds=0.0, compiled=False)
    with pytest.raises(RuntimeError, match="sima differs from the literal formula"):
        benchmark.measure(sizes=((1, 8),), seconds=0.0, mode="train", compiled=False)


def test_literal_formula_is_the_papers():
    query, key, value = (tensor.double() for tensor in benchmark.strided_inputs(2, 70, torch.float32, "cpu"))
    weights = torch.einsum("bhic,bhjc->bhij", query / query.abs().sum(2, True), key / key.abs().sum(2, True))
    torch.testing.assert_close(benchmark.literal_formula(query, key, value), weights @ value)


def test_readme_without_marks_is_left_alone(rows, tmp_path):
    benchmark_report.write_csv(rows, tmp_path / "a.csv")
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        benchmark_report.replace_between(tmp_path / "README.md", "bench", "table")
    assert (tmp_path / "README.md").read_text() == "no marks"


@pytest.mark.results
def test_the_page_holds_the_committed_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    page, path = Path("docs/benchmarks.md"), Path("benchmarks/results/attention_cpu_float32.csv")
    assert benchmark_report.links_from(page, benchmark_report.markdown_table(path)) in page.read_text(encoding="utf-8")


# Upper bounds of time over softmax's, forward and training alike, (batch, tokens) -> ratio; the results were made by `make bench`.
GOALS = {
    "sima": {(64, 49): 1.15, (1, 197): 0.4, (8, 197): 0.45, (1, 1024): 0.1, (1, 4096): 0.025},
    "sima_compiled": {(64, 49): 1.0, (1, 197): 0.4, (8, 197): 0.4, (1, 1024): 0.09, (1, 4096): 0.02},
}


@pytest.mark.results
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["", "train_"], ids=["forward", "train"])
@pytest.mark.parametrize("contestant", GOALS)
def test_committed_results_reach_the_goals(contestant, mode, dtype):
    rows = benchmark_report.read_csv(RESULTS / f"attention_{mode}cpu_{dtype}.csv")
    found = {(int(row["batch"]), int(row["tokens"])): row for row in rows if row["contestant"] == contestant}
    for size, goal in GOALS[contestant].items():
        assert float(found[size]["ratio_to_softmax"]) <= goal, size
    if contestant == "sima":
        assert {row["backend"] for row in found.values()} == {"cpu"}


@pytest.mark.results
def test_committed_demo_results_reach_the_goal():
    results = json.loads((RESULTS / "quickstart_digits.json").read_text())
    assert len({run["seed"] for run in results["runs"]}) >= 3
    assert min(run["accuracy"] for run in results["runs"]) == results["lowest_accuracy"] >= 0.985
    assert max(run["train_seconds"] for run in results["runs"]) <= 120


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are not interpreted where there is a GPU")
@pytest.mark.parametrize("tokens", [100, 2500], ids=["one program a head", "tokens split"])
@pytest.mark.parametrize("mode", ["forward", "backward"])
def test_counted_traffic_is_what_the_kernels_load_and_store(mode, tokens, monkeypatch):
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    moved = {"load": 0, "store": 0}

    def count(name):
        original = getattr(interpreter.InterpreterBuilder, f"create_masked_{name}")

        def counting(self, pointers, *args):
            mask = args[0] if name == "load" else args[1]
            moved[name] += int(mask.data.sum()) * (pointers.get_element_ty().primitive_bitwidth // 8)
            return original(self, pointers, *args)

        monkeypatch.setattr(interpreter.InterpreterBuilder, f"create_masked_{name}", counting)

    monkeypatch.setattr(benchmark_traffic, "MULTIPROCESSORS", 4)  # what the launch assumes without a GPU
    monkeypatch.setattr(benchmark_traffic, "HEADS", 2)
    tensors = [torch.randn(1, tokens, 2, 64, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3)]
    forward, backward = (getattr(torch.ops.sima, f"triton_attention{part}") for part in ("", "_backward"))
    out, *saved = forward(*tensors, None, False, False, True)
    count("load")
    count("store")
    if mode == "forward":
        forward(*tensors, None, False, False, False)
    else:
        backward(out, *tensors, None, False, *saved)
    expected = benchmark_traffic.traffic(mode, 1, tokens)
    assert (moved["load"], moved["store"]) == (expected.loaded_bytes, expected.stored_bytes)
    assert (expected.pieces > 1) is (tokens > 256)


@pytest.mark.results
def test_committed_counts_are_what_the_command_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["benchmark_traffic", "--output_dir", str(tmp_path)])
    benchmark_traffic.main()
    found, committed = (
        [{**row, "sima_hf": ""} for row in benchmark_report.read_csv(folder / "attention_cuda_counted.csv")]
        for folder in (tmp_path, RESULTS)
    )
    assert found == committed  # whatever version counted them

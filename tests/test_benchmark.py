"""The benchmark: what it measures is checked first, and the README repeats the committed results word for word."""

import json
from pathlib import Path

import pytest
import torch

from sima_hf import benchmark


ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "examples" / "results"


@pytest.fixture(scope="module")
def rows():
    return benchmark.measure(sizes=((2, 5), (1, 70)), seconds=0.0)


def test_every_contestant_at_every_size(rows):
    assert {(row.contestant, row.batch, row.tokens) for row in rows} == {
        (name, batch, tokens) for name in benchmark.CONTESTANTS for batch, tokens in ((2, 5), (1, 70))
    }
    for row in rows:
        assert row.turns >= 7
        assert 0 < row.lower_quartile_us <= row.median_us <= row.upper_quartile_us
        assert row.threads == torch.get_num_threads()
    assert {row.ratio_to_softmax for row in rows if row.contestant == "softmax"} == {1.0}
    assert {row.ratio_to_literal for row in rows if row.contestant == "literal"} == {1.0}


def test_csv_round_trip_table_and_picture(rows, tmp_path):
    path = tmp_path / "attention.csv"
    benchmark.write_csv(rows, path)
    read = benchmark.read_csv(path)
    assert [row["contestant"] for row in read] == [row.contestant for row in rows]
    assert float(read[0]["median_us"]) == rows[0].median_us
    benchmark.draw(path, tmp_path / "attention.png")
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    assert benchmark.table(rows).count("\n") == 2


def test_nothing_is_timed_when_results_disagree(monkeypatch):
    monkeypatch.setattr(benchmark, "sima_attention", lambda query, key, value: 1.01 * value)
    with pytest.raises(RuntimeError, match="differs from the literal formula"):
        benchmark.measure(sizes=((1, 8),), seconds=0.0)


def test_literal_formula_is_the_papers():
    query, key, value = (tensor.double() for tensor in benchmark.strided_inputs(2, 70, torch.float32, "cpu"))
    weights = torch.einsum("bhic,bhjc->bhij", query / query.abs().sum(2, True), key / key.abs().sum(2, True))
    torch.testing.assert_close(benchmark.literal_formula(query, key, value), weights @ value)


def test_readme_without_marks_is_left_alone(rows, tmp_path):
    benchmark.write_csv(rows, tmp_path / "a.csv")
    (tmp_path / "README.md").write_text("no marks")
    with pytest.raises(ValueError, match="has no lines"):
        benchmark.update_readme(tmp_path / "README.md", tmp_path / "a.csv")
    assert (tmp_path / "README.md").read_text() == "no marks"


def test_readme_holds_the_committed_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    path = Path("examples/results/attention_cpu_float32.csv")
    assert benchmark.markdown_table(path) in (ROOT / "README.md").read_text(encoding="utf-8")


# Upper bounds of SimA's time over softmax's, (batch, tokens) -> ratio; the results were made by `make bench`.
GOALS = {(1, 197): 0.45, (8, 197): 0.5, (1, 1024): 0.12, (1, 4096): 0.03}


@pytest.mark.parametrize(("size", "goal"), GOALS.items(), ids=[f"{batch}x{tokens}" for batch, tokens in GOALS])
def test_committed_results_reach_the_goals(size, goal):
    rows = benchmark.read_csv(RESULTS / "attention_cpu_float32.csv")
    (row,) = (row for row in rows if (int(row["batch"]), int(row["tokens"])) == size and row["contestant"] == "sima")
    assert float(row["ratio_to_softmax"]) <= goal


def test_committed_demo_results_reach_the_goal():
    results = json.loads((RESULTS / "quickstart_digits.json").read_text())
    assert len({run["seed"] for run in results["runs"]}) >= 3
    assert min(run["accuracy"] for run in results["runs"]) == results["lowest_accuracy"] >= 0.985
    assert max(run["train_seconds"] for run in results["runs"]) <= 120

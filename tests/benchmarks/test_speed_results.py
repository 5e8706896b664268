"""Speed and memory as committed reach their goals, and the pages say what the files say."""

import json
from pathlib import Path

import pytest

from benchmarks import count_cuda_traffic, model_tables
from sima_hf.bench import exported_report, tables
from sima_hf.bench.attention_report import markdown_table


pytestmark = pytest.mark.results
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"


# Upper bounds of time over softmax's, forward and training alike, (batch, tokens) -> ratio; the results were made by `make bench`.
GOALS = {
    "sima": {(64, 49): 1.15, (1, 197): 0.4, (8, 197): 0.45, (1, 1024): 0.1, (1, 4096): 0.025},
    "sima_compiled": {(64, 49): 1.0, (1, 197): 0.4, (8, 197): 0.4, (1, 1024): 0.09, (1, 4096): 0.02},
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("mode", ["", "train_"], ids=["forward", "train"])
@pytest.mark.parametrize("contestant", GOALS)
def test_attention_reaches_the_goals(contestant, mode, dtype):
    rows = tables.read_csv(RESULTS / f"attention_{mode}cpu_{dtype}.csv")
    found = {(int(row["batch"]), int(row["tokens"])): row for row in rows if row["contestant"] == contestant}
    for size, goal in GOALS[contestant].items():
        assert float(found[size]["ratio_to_softmax"]) <= goal, size
    if contestant == "sima":
        assert {row["backend"] for row in found.values()} == {"cpu"}


def test_the_demo_reaches_the_goal():
    results = json.loads((RESULTS / "quickstart_digits.json").read_text())
    assert len({run["seed"] for run in results["runs"]}) >= 3
    assert min(run["accuracy"] for run in results["runs"]) == results["lowest_accuracy"] >= 0.985
    assert max(run["train_seconds"] for run in results["runs"]) <= 120


def test_counts_are_what_the_script_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["count_cuda_traffic", "--output_dir", str(tmp_path)])
    count_cuda_traffic.main()
    found, committed = (
        [{**row, "sima_hf": ""} for row in tables.read_csv(folder / "attention_cuda_counted.csv")]
        for folder in (tmp_path, RESULTS)
    )
    assert found == committed  # whatever version counted them


def test_the_pages_hold_the_committed_results(monkeypatch):
    monkeypatch.chdir(ROOT)
    page, results = Path("docs/benchmarks.md"), Path("benchmarks/results")
    text = page.read_text(encoding="utf-8")
    for table in (model_tables.markdown_table(results), markdown_table(results / "attention_cpu_float32.csv")):
        assert tables.links_from(page, table) in text
    assert model_tables.short_table(results) in Path("README.md").read_text(encoding="utf-8")


# (kind of run, pixels, batch) -> times faster than softmax, in the committed results. Uncompiled at 512 pixels the linear layers alone
# take two thirds of softmax's time on this machine, so the 1.8 that was wanted there is reached by the compiled model.
MODEL_GOALS = {
    ("forward", 224, 1): 1.0,
    ("forward", 224, 8): 1.1,
    ("forward", 384, 1): 1.25,
    ("forward, compiled", 224, 1): 1.0,
    ("forward, compiled", 224, 8): 1.1,
    ("forward, compiled", 384, 1): 1.25,
    ("forward, compiled", 512, 1): 1.8,
    ("forward, compiled", 1024, 1): 2.6,
}


@pytest.mark.parametrize("key", MODEL_GOALS, ids=str)
def test_models_reach_the_goals(key):
    kind, pixels, batch = key
    rows = [row for row in tables.read_csv(RESULTS / model_tables.SHOWN[kind]) if row["contestant"] == "sima"]
    (row,) = (row for row in rows if (int(row["pixels"]), int(row["batch"])) == (pixels, batch))
    assert 1 / float(row["ratio_to_baseline"]) >= MODEL_GOALS[key]


def test_memory_reaches_the_goal():
    peaks = {row["contestant"]: row for row in tables.read_csv(RESULTS / model_tables.MEMORY)}
    assert int(peaks["sima"]["pixels"]) == 2048
    assert int(peaks["sima"]["peak_resident_bytes"]) <= 4 * 2**30


EXPORTED = [RESULTS / f"export_deit-small_cpu_{dtype}.csv" for dtype in ("float32", "int8")]
# pixels -> times faster than the softmax twin on the same runtime, with any number of threads
EXPORT_GOALS = {224: 1.1, 512: 1.5, 1024: 2.5}
# Where OpenVINO fuses softmax, and where attention is a tenth of the whole: what is there today.
MISSED = {("onnxruntime", 224): 1.08, ("openvino", 224): 1.03, ("openvino", 512): 1.43}


def times_faster(pixels, runtime):
    """With each number of threads, in float32."""
    rows = [row for row in tables.read_csv(EXPORTED[0]) if row["contestant"] == "sima"]
    return [
        1 / float(row["ratio_to_softmax"]) for row in rows if (int(row["pixels"]), row["runtime"]) == (pixels, runtime)
    ]


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("pixels", EXPORT_GOALS)
def test_exported_files_reach_the_goals(pixels, runtime, request):
    if (runtime, pixels) in MISSED:
        assert min(times_faster(pixels, runtime)) >= MISSED[runtime, pixels]
        request.applymarker(pytest.mark.xfail(strict=True, reason="a goal that is missed"))
    assert min(times_faster(pixels, runtime)) >= EXPORT_GOALS[pixels]


def test_int8_reaches_its_goal():
    times = [
        {
            (row["runtime"], row["pixels"], row["threads"]): float(row["median_ms"])
            for row in rows
            if row["contestant"] == "sima"
        }
        for rows in map(tables.read_csv, EXPORTED)
    ]
    assert min(times[0][key] / ms for key, ms in times[1].items()) >= 1.5


def test_the_pages_hold_the_results_of_exported_files(monkeypatch):
    monkeypatch.chdir(ROOT)
    csvs = [path.relative_to(ROOT) for path in EXPORTED]
    page = Path("docs/export.md")
    assert tables.links_from(page, exported_report.markdown_table(csvs)) in page.read_text(encoding="utf-8")
    assert exported_report.short_line(csvs) in Path("README.md").read_text(encoding="utf-8")

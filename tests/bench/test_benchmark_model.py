"""The benchmark of whole models: its contestants are what they say, and what it writes is what it measured."""

import csv
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sima_hf import SimAConfig, attention, certify, cli
from sima_hf.bench import attention_report as benchmark_report
from sima_hf.bench import model as benchmark_model
from sima_hf.bench import model_report as benchmark_model_report
from sima_hf.errors import UnsupportedModelError


pytestmark = pytest.mark.slow
NATIVE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture(autouse=True)
def _a_tiny_model(monkeypatch):
    monkeypatch.setitem(benchmark_model.MODELS, "tiny", TINY)


@pytest.fixture(scope="module")
def rows():
    benchmark_model.MODELS["tiny"] = TINY
    found = [
        *benchmark_model.measure_model("tiny", sizes=((2, 32), (1, 48)), seconds=0.0),
        *benchmark_model.measure_model("tiny", sizes=((1, 32),), mode="train", seconds=0.0),
    ]
    del benchmark_model.MODELS["tiny"]
    return found


def test_every_contestant_at_every_size(rows):
    found = {(row.mode, row.contestant, row.batch, row.pixels) for row in rows}
    assert found == {
        (mode, contestant, *size)
        for mode, sizes in (("forward", ((2, 32), (1, 48))), ("train", ((1, 32),)))
        for contestant in ("softmax", "sima", "none")
        for size in sizes
    }
    assert all(0 < row.lower_quartile_ms <= row.median_ms <= row.upper_quartile_ms for row in rows)
    assert {row.ratio_to_baseline for row in rows if row.contestant == "softmax"} == {1.0}
    assert {row.attention for row in rows} == {"sdpa", "sima", "none"}
    assert {row.baseline for row in rows} == {"softmax"}


@pytest.mark.parametrize("against", ["sdpa", "eager"])
def test_the_contestants_have_the_same_weights(against):
    pair = benchmark_model.build("tiny", against)
    states = [model.state_dict() for model in pair.values()]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert pair["softmax"].config._attn_implementation == against
    images = benchmark_model._images(1, 32, torch.float32, "cpu")
    assert not certify(pair["softmax"], images).softmax_free
    assert certify(pair["sima"], images).softmax_free


def test_a_native_model_against_its_formula(monkeypatch):
    monkeypatch.setattr(benchmark_model.SimAConfig, "from_variant", lambda name: SimAConfig(**NATIVE))
    pair = benchmark_model.build("sima_small_12_p16")
    images = torch.randn(1, 3, 64, 64)
    torch.testing.assert_close(pair["literal"](images).logits, pair["sima"](images).logits, rtol=1e-4, atol=1e-5)
    rows = benchmark_model.measure_model("sima_small_12_p16", sizes=((1, 64),), seconds=0.0)
    assert [(row.contestant, row.baseline) for row in rows] == [("literal", "literal"), ("sima", "literal")]


@pytest.mark.parametrize("name", ["tiny", "sima_small_12_p16"])
def test_nothing_is_timed_when_models_disagree(name, monkeypatch):
    """A sima_attention that is wrong but for the reference."""
    monkeypatch.setattr(benchmark_model.SimAConfig, "from_variant", lambda name: SimAConfig(**NATIVE))
    right = attention.sima_attention
    monkeypatch.setattr(
        attention,
        "sima_attention",
        lambda *args, backend, **options: (
            right(*args, backend=backend, **options) * (1 if backend == "reference" else 1.5)
        ),
    )
    with pytest.raises(RuntimeError, match="differs from its reference"):
        benchmark_model.build(name)


def test_no_attention_is_none():
    without = benchmark_model.build("tiny")["none"]
    assert certify(without, benchmark_model._images(1, 32, torch.float32, "cpu")).softmax_free


def test_training_steps_train():
    model = benchmark_model.build("tiny")["sima"]
    before = model.deit.layers[0].attention.q_proj.weight.clone()
    for parameter in model.parameters():
        parameter.data.mul_(10)  # so that a step of 1e-6 shows
    before = model.classifier.weight.clone()
    for _ in range(50):
        benchmark_model._step(model, benchmark_model._images(1, 32, torch.float32, "cpu"))
    assert not torch.equal(model.classifier.weight, before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_csv_table_and_picture(rows, tmp_path):
    benchmark_report.write_csv(rows, tmp_path / "model.csv")
    with (tmp_path / "model.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert [float(row["median_ms"]) for row in read] == [row.median_ms for row in rows]
    benchmark_model_report.draw(rows, tmp_path / "model.png")
    assert (tmp_path / "model.png").read_bytes().startswith(b"\x89PNG")
    assert benchmark_model_report.table(rows).count("\n") == 3


def test_memory_is_measured_in_a_process_of_its_own():
    softmax, sima = (benchmark_model.peak_memory("deit-tiny", name, 1024, "eager") for name in ("softmax", "sima"))
    assert 100 * 2**20 < sima < softmax - 100 * 2**20  # one map of eager attention is 192 MiB
    with pytest.raises(ValueError, match="no-such-folder with sima did not run at 32 pixels: There is no folder"):
        benchmark_model.peak_memory("no-such-folder", "sima", 32)


def test_the_process_for_memory_says_why_it_cannot(capsys):
    with pytest.raises(SystemExit) as stopped:
        benchmark_model._print_peak("tiny", "softmax", "8", "sdpa")  # less than a patch
    assert stopped.value.code == benchmark_model._REFUSED
    assert "size" in capsys.readouterr().out.splitlines()[-1]


def test_memory_of_a_process_that_dies(monkeypatch):
    monkeypatch.setattr(benchmark_model.sys, "executable", "false")
    with pytest.raises(RuntimeError, match="deit-tiny with sima did not run at 32 pixels"):
        benchmark_model.peak_memory("deit-tiny", "sima", 32)


def test_wrong_arguments(tmp_path):
    with pytest.raises(ValueError, match="`mode` must be one of 'forward', 'train'"):
        benchmark_model.measure_model("tiny", mode="backward")
    from transformers import ResNetConfig, ResNetModel

    ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])).save_pretrained(tmp_path)
    with pytest.raises(UnsupportedModelError, match="'resnet'"):
        benchmark_model.build(str(tmp_path))


def test_at_the_command_line(tmp_path, monkeypatch):
    arguments = ["bench", "model", "tiny", "--pixels", "32", "--seconds", "0", "--output-dir", str(tmp_path / "made")]
    assert CliRunner().invoke(cli.app, [*arguments, "--batch", "2"]).exit_code == 0
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    heading, line, _ = result.stdout.splitlines()
    assert heading.endswith("sima, times faster (more is better)")
    assert len(line) == len(heading)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {
        "model_tiny_forward_cpu_float32.csv",
        "model_tiny_forward_cpu_float32.png",
    }
    few = ["--tokens", "8", "--tokens", "16", "--seconds", "0", "--no-compile", "--output-dir", str(tmp_path)]
    (tmp_path / "README.md").write_text("<!-- bench:start -->\n<!-- bench:end -->\n")
    result = CliRunner().invoke(cli.app, ["bench", "attention", *few, "--readme", str(tmp_path / "README.md")])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "attention_cpu_float32.png").exists()
    assert "| 1 | 16 |" in (tmp_path / "README.md").read_text()
    result = CliRunner().invoke(cli.app, ["bench", "attention", *few, "--mode", "train", "--batch", "2"])
    assert result.exit_code == 0, result.output
    assert (tmp_path / "attention_train_cpu_float32.csv").exists()
    monkeypatch.setattr(benchmark_model, "peak_memory", lambda name, contestant, pixels, against: pixels * 2**20)
    result = CliRunner().invoke(cli.app, ["bench", "memory", "--pixels", "512", "--output-dir", str(tmp_path)])
    assert "sdpa, 512 x 512 px: 0.50 GiB" in result.stdout
    assert (tmp_path / "memory_deit-small_cpu_float32.csv").read_text().count("\n") == 3
    result = CliRunner().invoke(cli.app, ["bench", "model", "tiny", "--dtype", "int8"])
    assert "--dtype must be float32" in str(result.exception)


@pytest.mark.results
def test_the_pages_hold_the_committed_results(monkeypatch):
    root = Path(__file__).resolve().parents[2]
    monkeypatch.chdir(root)
    page, results = Path("docs/benchmarks.md"), Path("benchmarks/results")
    table = benchmark_report.links_from(page, benchmark_model_report.markdown_table(results))
    assert table in page.read_text(encoding="utf-8")
    assert benchmark_model_report.short_table(results) in (root / "README.md").read_text(encoding="utf-8")


# (kind of run, pixels, batch) -> times faster than softmax, in the committed results. Uncompiled at 512 pixels the linear layers alone
# take two thirds of softmax's time on this machine, so the 1.8 that was wanted there is reached by the compiled model.
GOALS = {
    ("forward", 224, 1): 1.0,
    ("forward", 224, 8): 1.1,
    ("forward", 384, 1): 1.25,
    ("forward, compiled", 224, 1): 1.0,
    ("forward, compiled", 224, 8): 1.1,
    ("forward, compiled", 384, 1): 1.25,
    ("forward, compiled", 512, 1): 1.8,
    ("forward, compiled", 1024, 1): 2.6,
}


@pytest.mark.results
@pytest.mark.parametrize("key", GOALS, ids=str)
def test_committed_results_reach_the_goals(key):
    kind, pixels, batch = key
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    with (results / benchmark_model_report.SHOWN[kind]).open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["contestant"] == "sima"]
    (row,) = (row for row in rows if (int(row["pixels"]), int(row["batch"])) == (pixels, batch))
    assert 1 / float(row["ratio_to_baseline"]) >= GOALS[key]


@pytest.mark.results
def test_committed_memory_reaches_the_goal():
    results = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
    with (results / benchmark_model_report.MEMORY).open(newline="") as file:
        peaks = {row["contestant"]: row for row in csv.DictReader(file)}
    assert int(peaks["sima"]["pixels"]) == 2048
    assert int(peaks["sima"]["peak_resident_bytes"]) <= 4 * 2**30


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "--tokens", "0"], "--tokens must be 1 or more, got 0"),
        (["model", "deit-tiny", "--pixels", "7"], "--pixels must be 32 or more, got 7"),
        (["attention", "--batch", "8"], "--batch must be 1 or more and come with --tokens"),
        (["model", "deit-tiny", "--batch", "0", "--pixels", "32"], "--batch must be 1 or more and come with --pixels"),
        (["memory", "sima_small_12_p16"], "has no softmax to compare with"),
    ],
    ids=str,
)
def test_bad_arguments_at_the_command_line(arguments, message):
    assert message in str(CliRunner().invoke(cli.app, ["bench", *arguments]).exception)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there():
    result = CliRunner().invoke(cli.app, ["bench", "attention", "--device", "cuda"])
    assert "--device cuda " in str(result.exception)

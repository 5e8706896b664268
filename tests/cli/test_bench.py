"""`sima-hf bench`: files and tables of what was measured; sizes and devices that cannot be."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from sima_hf import cli
from sima_hf.bench import exported
from sima_hf.bench import model as model_benchmark
from sima_hf.errors import ExportError


TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.mark.slow
def test_results_and_files(tmp_path, monkeypatch):
    monkeypatch.setitem(model_benchmark.MODELS, "tiny", TINY)
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
    monkeypatch.setattr(model_benchmark, "peak_memory", lambda name, contestant, pixels, against: pixels * 2**20)
    result = CliRunner().invoke(cli.app, ["bench", "memory", "--pixels", "512", "--output-dir", str(tmp_path)])
    assert "sdpa, 512 x 512 px: 0.50 GiB" in result.stdout
    assert (tmp_path / "memory_deit-small_cpu_float32.csv").read_text().count("\n") == 3
    result = CliRunner().invoke(cli.app, ["bench", "model", "tiny", "--dtype", "int8"])
    assert "--dtype must be float32" in str(result.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["attention", "--tokens", "0"], "--tokens must be 1 or more, got 0"),
        (["model", "deit-tiny", "--pixels", "7"], "--pixels must be 32 or more, got 7"),
        (["attention", "--batch", "8"], "--batch must be 1 or more and come with --tokens"),
        (["model", "deit-tiny", "--batch", "0", "--pixels", "32"], "--batch must be 1 or more and come with --pixels"),
        (["memory", "sima_small_12_p16"], "has no softmax to compare with"),
        (["export", "sima_small_12_p16"], "has no softmax to compare with"),
        (["export", "deit-tiny", "--threads", "0"], "`threads` must be 1 or more, got [0]"),
        (["export", "deit-tiny", "--page", "docs/export.md"], "so give --output-dir as well"),
    ],
    ids=str,
)
def test_bad_arguments(arguments, message):
    assert message in str(CliRunner().invoke(cli.app, ["bench", *arguments]).exception)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there():
    result = CliRunner().invoke(cli.app, ["bench", "attention", "--device", "cuda"])
    assert "--device cuda " in str(result.exception)


@pytest.mark.slow
def test_bench_for_machines(tmp_path, run, monkeypatch):
    monkeypatch.setattr(model_benchmark, "peak_memory", lambda name, contestant, pixels, against: pixels * 2**20)
    found = run("bench", "memory", "--pixels", "512", "--json", "--output-dir", tmp_path / "made")
    facts = json.loads(found.out)
    assert [row["peak_resident_bytes"] for row in facts["rows"]] == [512 * 2**20] * 2
    assert facts["files"] == [str(tmp_path / "made" / "memory_deit-small_cpu_float32.csv")]
    few = ("--tokens", 8, "--seconds", 0, "--no-compile", "--json", "--output-dir", tmp_path / "new")
    found = run("bench", "attention", *few)
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    assert {row["tokens"] for row in facts["rows"]} == {8}
    assert {"softmax", "sima"} <= {row["contestant"] for row in facts["rows"]}
    assert all(Path(file).is_file() for file in facts["files"])
    assert run("bench", "model", "nowhere-at-all", "--pixels", 32).code == 1


def test_bench_asks_for_what_draws_before_it_measures(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("sima_hf.bench.attention.measure", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(model_benchmark, "measure_model", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(exported, "measure_exported", lambda *_: pytest.fail("it measured"))
    for kind in ("attention", "model", "export"):
        found = run("bench", kind, "--output-dir", tmp_path)
        assert (found.code, found.out) == (1, "")
        assert found.err.endswith("pip install 'sima-hf[plot]'\n")


def measured(model, pixels, threads, formats, dtype, seconds, calibration_images):
    """What `measure_exported` returns, without exporting; int8 is refused."""
    if dtype == "int8":
        raise ExportError("There is no int8.")
    values = dict.fromkeys((field.name for field in dataclasses.fields(exported.ExportRow)), "some")
    values |= {"model": model, "dtype": dtype, "runtime": "onnxruntime", "fused_softmax": False}
    values |= {"median_ms": 12.0, "file_bytes": 2_000_000, "peak_resident_bytes": 2**20}
    ratios = {"softmax": 1.0, "sima": 0.5}
    return [
        exported.ExportRow(
            **{**values, "pixels": side, "threads": count, "contestant": contestant, "ratio_to_softmax": ratio}
        )
        for side in pixels
        for count in threads
        for contestant, ratio in ratios.items()
    ]


def test_bench_export_writes_files_and_pages(tmp_path, run, monkeypatch):
    monkeypatch.setattr(exported, "measure_exported", measured)
    page, readme = tmp_path / "export.md", tmp_path / "README.md"
    page.write_text("<!-- export-speed:start -->\n<!-- export-speed:end -->\n")
    readme.write_text("<!-- readme-export:start -->\n<!-- readme-export:end -->\n")
    folder = tmp_path / "made"
    found = run("bench", "export", "--output-dir", folder, "--page", page, "--readme", readme, "--json")
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    assert facts["files"] == [str(folder / f"export_deit-small_cpu_float32.{kind}") for kind in ("csv", "png")]
    assert {Path(file) for file in facts["files"]} == set(folder.iterdir())
    assert {(row["pixels"], row["threads"]) for row in facts["rows"]} == {
        (side, count) for side in (224, 384, 512, 1024) for count in (1, 2)
    }
    assert "int8 is left out: There is no int8." in found.err
    assert "| ONNX Runtime | float32 | 2 | 1,024 | 12.0 ms | 12.0 ms | 2 / 2 | 1 / 1 | 2.00 |" in page.read_text()
    assert "ONNX Runtime, float32: 2.00 at 224, 2.00 at 384" in readme.read_text()


def test_bench_export_of_int8_alone_says_why_not(run, monkeypatch):
    monkeypatch.setattr(exported, "measure_exported", measured)
    found = run("bench", "export", "--dtype", "int8")
    assert (found.code, found.out) == (1, "")
    assert found.err.endswith("There is no int8.\n")


@pytest.mark.slow
def test_bench_memory_says_what_is_wrong(tmp_path, run):
    for arguments, words in (
        (("nowhere-at-all",), "no folder nowhere-at-all, and no model of that name"),
        (("deit-tiny", "--pixels", 0), "must have 1 pixel a side or more, got 0"),
    ):
        found = run("bench", "memory", *arguments)
        assert (found.code, found.out) == (1, ""), arguments
        assert words in found.err, found.err
        assert "Traceback" not in found.err

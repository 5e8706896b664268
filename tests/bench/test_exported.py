"""The benchmark of exported files: they compute what the model does, on so many threads, and what is written is what was measured."""

import dataclasses
import re
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from sima_hf.bench import exported, exported_report, runtimes, tables
from sima_hf.bench import model as model_benchmark
from sima_hf.errors import ExportError, MissingDependencyError


pytest.importorskip("transformers.exporters")
pytest.importorskip("onnxruntime")
TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 5,
    "initializer_range": 0.3,
}
ROW = exported.ExportRow(
    model="tiny",
    contestant="softmax",
    runtime="onnxruntime",
    runtime_version="1.0",
    fused_softmax=False,
    dtype="float32",
    batch=1,
    pixels=224,
    threads=1,
    turns=7,
    median_ms=30.0,
    lower_quartile_ms=29.0,
    upper_quartile_ms=31.0,
    ratio_to_softmax=1.0,
    error=1e-6,
    file_bytes=88_000_000,
    peak_resident_bytes=200 * 2**20,
    device="a processor",
    torch="2",
    transformers="5",
    sima_hf="0",
    revision="abc",
)


@pytest.fixture(autouse=True)
def _a_tiny_model(monkeypatch):
    monkeypatch.setitem(model_benchmark.MODELS, "tiny", TINY)


def some_rows():
    """ONNX Runtime with softmax of its own nodes, OpenVINO fused; SimA is quicker at 1,024 pixels alone."""
    rows = []
    for runtime in ("openvino", "onnxruntime"):
        for threads in (2, 1):
            for pixels, ratio in ((1024, 0.4), (224, 1.25)):
                here = {"runtime": runtime, "threads": threads, "pixels": pixels}
                rows.append(dataclasses.replace(ROW, **here, fused_softmax=runtime == "openvino"))
                rows.append(
                    dataclasses.replace(ROW, **here, contestant="sima", median_ms=30.0 * ratio, ratio_to_softmax=ratio)
                )
    return rows


@pytest.fixture(scope="module")
def rows():
    model_benchmark.MODELS["tiny"] = TINY
    found = exported.measure_exported("tiny", (40,), (1, 2), seconds=0.0)
    del model_benchmark.MODELS["tiny"]
    return found


@pytest.mark.slow
def test_every_file_on_every_number_of_threads(rows):
    found = {(row.runtime, row.contestant, row.pixels, row.threads) for row in rows}
    installed = {row.runtime for row in rows}
    assert found == {(r, c, p, t) for r in installed for c in ("softmax", "sima") for p in (40,) for t in (1, 2)}
    assert len(rows) == len(found)
    for row in rows:
        assert 0 < row.lower_quartile_ms <= row.median_ms <= row.upper_quartile_ms
        assert row.error < 1e-4
        assert row.file_bytes > 4 * 2000  # its parameters
        assert row.peak_resident_bytes > 10 * 2**20
        assert not row.device.endswith(("thread", "threads"))
    assert {row.ratio_to_softmax for row in rows if row.contestant == "softmax"} == {1.0}
    assert not any(row.fused_softmax for row in rows if row.contestant == "sima")


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    """Files of both contestants for ONNX Runtime, 40 pixels, and images with the logits in float64."""
    model_benchmark.MODELS["tiny"] = TINY
    models = exported._twins("tiny", 40)
    del model_benchmark.MODELS["tiny"]
    folder = tmp_path_factory.mktemp("files")
    inputs = {"pixel_values": torch.randn(1, 3, 40, 40), "interpolate_pos_encoding": True}
    files = {
        ("onnxruntime", name): exported._export(model, folder / name, "onnx", inputs, "float32", None)
        for name, model in models.items()
    }
    wide = {**inputs, "pixel_values": inputs["pixel_values"].double()}
    with torch.no_grad():
        return files, inputs["pixel_values"], {name: model.double()(**wide).logits for name, model in models.items()}


@pytest.mark.slow
@pytest.mark.parametrize("contestant", ["softmax", "sima"])
def test_a_file_gives_the_models_logits(twins, contestant):
    files, images, expected = twins
    file = files["onnxruntime", contestant]
    found = runtimes.run_onnxruntime(file.path, 1, file.options)({"pixel_values": images.numpy()})
    numpy.testing.assert_allclose(found, expected[contestant].numpy(), rtol=1e-4, atol=1e-5)
    nodes = runtimes.nodes_of_onnxruntime(file.path, 1, file.options)
    assert nodes["Softmax"] == (2 if contestant == "softmax" else 0)


@pytest.mark.slow
def test_nothing_is_timed_when_outputs_disagree(twins, monkeypatch):
    files, images, expected = twins
    monkeypatch.setattr(exported, "take_turns", lambda *_: pytest.fail("it was timed"))
    wrong = {**expected, "sima": expected["sima"] * 1.01}
    with pytest.raises(RuntimeError, match="sima on onnxruntime with 1 threads differs from the model by 9"):
        exported._time(files, images, wrong, 1, 0.0, "tiny", "float32", {})


@pytest.mark.slow
def test_memory_is_of_a_process_that_has_the_runtime_alone(twins):
    file = twins[0]["onnxruntime", "sima"]
    small = exported.peak_memory(file.path, "onnxruntime", 40, 1, {})
    assert 10 * 2**20 < small < 200 * 2**20  # torch alone takes more
    with pytest.raises(
        ExportError, match=r"model\.onnx did not run on onnxruntime at 48 pixels: .*Got: 48 Expected: 40"
    ):
        exported.peak_memory(file.path, "onnxruntime", 48, 1, {})


def test_the_measuring_process_needs_neither_torch_nor_this_package():
    text = Path(runtimes.__file__).read_text(encoding="utf-8")
    imported = set(re.findall(r"^\s*(?:import|from) ([\w.]+)", text, flags=re.MULTILINE))
    assert not [name for name in imported if name.startswith((".", "torch", "sima_hf", "transformers"))]


def photos(folder):
    """Forty images of noise, as files."""
    noise = numpy.random.default_rng(0).integers(0, 256, (40, 48, 48, 3), dtype=numpy.uint8)
    for index, one in enumerate(noise):
        Image.fromarray(one).save(folder / f"{index}.png")
    return folder


@pytest.mark.slow
def test_int8_is_measured_at_a_size_that_is_not_the_models(tmp_path):
    rows = exported.measure_exported("tiny", (64,), (1,), ("onnx",), "int8", 0.0, photos(tmp_path))
    assert {(row.contestant, row.dtype, row.pixels) for row in rows} == {
        ("softmax", "int8", 64),
        ("sima", "int8", 64),
    }
    assert all(0 < row.error <= exported.OFF_IN_INT8 for row in rows)


def test_int8_goes_through_the_public_function(monkeypatch, tmp_path):
    given = {}
    photos(tmp_path)

    def export(model, folder, form, **options):
        given.update(options, form=form)
        raise ExportError("not today")

    monkeypatch.setattr(exported, "export", export)
    with pytest.raises(ExportError, match="not today"):
        exported.measure_exported("tiny", (32,), (1,), ("onnx",), "int8", 0.0, tmp_path)
    assert given["quantize"] == "int8"
    assert given["calibration_images"] == tmp_path
    assert (given["form"], given["dynamic"]) == ("onnx", "none")


def test_table_for_a_page(tmp_path):
    tables.write_csv(some_rows(), tmp_path / "export_tiny_cpu_float32.csv")
    lines = exported_report.markdown_table([tmp_path / "export_tiny_cpu_float32.csv"]).splitlines()
    assert lines[0].endswith("export_tiny_cpu_float32.png)")
    lines = lines[2:]
    assert (
        lines[2]
        == "| ONNX Runtime | float32 | 1 | 224 | 30.0 ms | 37.5 ms | 88 / 88 | 200 / 200 | 0.80 (softmax wins) |"
    )
    assert lines[3].endswith("| 1 | 1,024 | 30.0 ms | 12.0 ms | 88 / 88 | 200 / 200 | 2.50 |")
    assert lines[6].startswith("| OpenVINO | float32 | 1 | 224 |")
    assert [line.rpartition(" | ")[2] for line in lines[6:8]] == [
        "0.80 (fused softmax wins) |",
        "2.50 (softmax is fused) |",
    ]
    assert "one image on a processor; tiny, ONNX Runtime 1.0, OpenVINO 1.0, torch 2" in lines[-1] + lines[-2]
    line = exported_report.short_line([tmp_path / "export_tiny_cpu_float32.csv"])
    assert (
        "with 1 thread: ONNX Runtime, float32: 0.80 at 224, 2.50 at 1,024 px; OpenVINO, float32: 0.80 at 224" in line
    )


def test_int8_beside_float32_says_what_it_gains(tmp_path):
    rows = [row for row in some_rows() if row.runtime == "onnxruntime"]
    fast = [dataclasses.replace(row, dtype="int8", median_ms=row.median_ms / 2) for row in rows]
    for dtype, own in (("float32", rows), ("int8", fast)):
        tables.write_csv(own, tmp_path / f"{dtype}.csv")
    page = exported_report.markdown_table([tmp_path / "float32.csv", tmp_path / "int8.csv"])
    assert "SimA in int8 takes 0.50 to 0.50 times as long as in float32 (two runs)." in page
    line = exported_report.short_line([tmp_path / "float32.csv", tmp_path / "int8.csv"])
    assert "ONNX Runtime, float32: 0.80 at 224, 2.50 at 1,024 px; ONNX Runtime, int8: 0.80 at 224" in line
    assert "SimA in int8 takes 0.50 to 0.50 times" in line
    assert "in int8" not in exported_report.markdown_table([tmp_path / "float32.csv"])


def test_table_and_picture(tmp_path):
    text = exported_report.table(some_rows())
    assert text.count("\n") == 8
    assert "fused softmax wins" in text
    unmeasured = exported_report.table([dataclasses.replace(row, peak_resident_bytes=None) for row in some_rows()])
    assert "200 / 200" in text
    assert "200 / 200" not in unmeasured
    exported_report.draw(some_rows(), tmp_path / "export.png")
    assert (tmp_path / "export.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"name": "sima_small_12_p16"}, "has no softmax to compare with"),
        ({"pixels": (0,)}, r"`pixels` must be 1 or more, got \[0\]"),
        ({"threads": (1, -1)}, r"`threads` must be 1 or more, got \[1, -1\]"),
        ({"formats": ("executorch",)}, "`formats` must be of 'onnx', 'openvino', got 'executorch'"),
        ({"dtype": "int4"}, "`dtype` must be one of 'float32', 'int8', got 'int4'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(ValueError, match=words):
        exported.measure_exported(**{"name": "tiny", **arguments})


def test_without_a_runtime(monkeypatch):
    monkeypatch.setattr(exported, "find_spec", lambda name: None)
    monkeypatch.setattr(exported, "_twins", lambda *_: pytest.fail("it began"))
    with pytest.raises(MissingDependencyError, match=r"pip install 'sima-hf\[onnx\]'"):
        exported.measure_exported("tiny")

"""A model to a folder for a runtime: what is in it, what it computes without torch, and what is said of mistakes."""

import json
import subprocess
import sys

import numpy
import pytest
import torch
from transformers import DeiTConfig, DeiTForImageClassification

from sima_hf import SimAConfig, SimAForImageClassification, export, patch_model
from sima_hf.errors import CheckpointError, ExportError, MissingDependencyError
from sima_hf.exporting import export as exporting
from sima_hf.exporting import formats


pytest.importorskip("transformers.exporters")
onnx = pytest.importorskip("onnx")
onnx_ir = pytest.importorskip("onnx_ir")
pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
PROCESSOR = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


def deit(**changes):
    labels = {0: "cat", 1: "dog", 2: "newt"}
    fields = {**SIZES, "image_size": 24, "patch_size": 8, "id2label": labels, "initializer_range": 0.2, **changes}
    return DeiTForImageClassification(DeiTConfig(**fields)).eval()


def native():
    config = SimAConfig(**SIZES, image_size=32, patch_size=8, num_class_attention_layers=1, initializer_range=0.2)
    return SimAForImageClassification(config).eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder, `Exported` and model of a swapped DeiT of any batch and size, and of the native model of any batch."""
    root = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    models = {"deit": (patch_model(deit()), "resolution"), "native": (native(), "batch")}
    return {
        name: (root / name, export(model, root / name, dynamic=dynamic), model)
        for name, (model, dynamic) in models.items()
    }


@pytest.mark.parametrize("name", ["deit", "native"])
def test_a_folder_has_all_that_a_runtime_needs(made, name):
    folder, exported, model = made[name]
    record = json.loads((folder / "sima_export.json").read_text())
    assert record["certificate"]["softmax_free"] is exported.certificate.softmax_free is True
    assert not {"Softmax", "Exp"} & set(record["certificate"]["nodes"])
    assert record["agreement"]["error"] < 1e-5
    assert {run["inputs"]["pixel_values"][0] for run in record["agreement"]["runs"]} == {1, 3}
    assert record["inputs"][0]["shape"][:2] == ["batch", 3]
    assert record["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", model.config.num_labels]}]
    assert record["labels"] == list(model.config.id2label.values())
    assert {"torch", "transformers", "onnx", "onnxruntime", "sima_hf"} <= set(record["versions"])
    assert record["opset"] >= 18
    assert set(record["files"]) <= {one.name for one in folder.iterdir()}
    assert (folder / "preprocessor_config.json").is_file() is (name == "native")
    assert str(folder.parent) not in (folder / "sima_export.json").read_text()
    assert b"site-packages" not in (folder / "model.onnx").read_bytes()  # no paths of this machine


def test_sizes_that_may_differ_are_named_and_tried(made):
    folder, exported, _ = made["deit"]
    record = json.loads((folder / "sima_export.json").read_text())
    assert record["dynamic"] == {"asked": "resolution", "exported": "resolution", "because": None}
    assert record["inputs"][0]["shape"] == ["batch", 3, "height", "width"]
    sizes = [run["inputs"]["pixel_values"][2:] for run in exported.agreement.runs]
    assert sizes == [[24, 24], [48, 24]]


def test_where_sizes_may_differ_no_product_is_tokens_by_tokens(made):
    folder, _, _ = made["deit"]
    graph = onnx.load(folder / "model.onnx", load_external_data=False).graph
    shapes = {one.name: one.type.tensor_type.shape.dim for one in graph.value_info}
    products = [shapes[node.output[0]] for node in graph.node if node.op_type == "MatMul"]
    assert len(products) >= 2 * 8
    assert not [shape for shape in products if all(one.dim_param for one in shape[-2:])]


ALONE = """
import json, sys
import numpy, onnxruntime
folder, given, out = sys.argv[1:]
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")
labels = json.load(open(f"{folder}/sima_export.json"))["labels"]
for number, pixels in enumerate(numpy.load(given).values()):
    logits = session.run(["logits"], {"pixel_values": pixels})[0]
    numpy.save(f"{out}/{number}.npy", logits)
assert len(labels) == logits.shape[1]
assert not {"torch", "transformers", "sima_hf"} & set(sys.modules)
"""


def run_alone(code, *arguments):
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr


@pytest.mark.parametrize(
    ("name", "shapes"),
    [("deit", [(1, 3, 24, 24), (5, 3, 40, 56)]), ("native", [(1, 3, 32, 32), (4, 3, 32, 32)])],
    ids=["deit", "native"],
)
def test_onnxruntime_computes_the_same_without_torch(made, name, shapes, tmp_path):
    folder, _, model = made[name]
    images = [torch.randn(shape) for shape in shapes]
    numpy.savez(tmp_path / "given.npz", *(one.numpy() for one in images))
    run_alone(ALONE, folder, tmp_path / "given.npz", tmp_path)
    options = {"interpolate_pos_encoding": True} if name == "deit" else {}
    wide = type(model)(model.config).double().eval()
    wide.load_state_dict(model.double().state_dict())
    model.float()
    for number, one in enumerate(images):
        expected = wide(one.double(), **options).logits.detach()
        found = torch.from_numpy(numpy.load(tmp_path / f"{number}.npy"))
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_a_softmax_model_is_exported_too_and_the_certificate_says_what_it_is(tmp_path):
    exported = export(deit(), tmp_path / "softmax", dynamic="none")
    assert not exported.certificate.softmax_free
    assert [(one.operation, one.module) for one in exported.certificate.softmax] == [("Softmax", "DeiTAttention")] * 2
    assert exported.certificate.count == 2
    assert "2 nodes of softmax" in str(exported)


def test_half_precision_is_compared_with_float32_and_leaves_the_model_alone(tmp_path):
    model = patch_model(deit(num_hidden_layers=1)).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    exported = export(model, tmp_path / "half", dtype="float16", dynamic="none")
    record = json.loads((tmp_path / "half" / "sima_export.json").read_text())
    assert record["dtype"] == record["inputs"][0]["dtype"] == "float16"
    assert 1e-5 < exported.agreement.error < exported.agreement.tolerance == 1e-2
    assert model.training
    assert "forward" not in vars(model)
    assert model.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_file_that_differs_from_the_model_is_not_left(tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "tidy", lambda program, name: spoil(program))
    with pytest.raises(ExportError, match=r"differs from the model on inputs of .*pixel_values.*0.0001 is allowed"):
        export(patch_model(deit(num_hidden_layers=1)), tmp_path / "out", dynamic="none")
    assert list(tmp_path.iterdir()) == []


def spoil(program):
    """Other weights of the classifier."""
    value = program.graph.initializers["classifier.weight"]
    value.const_value = onnx_ir.tensor(value.const_value.numpy() * 2, name=value.name)


def test_an_interrupted_export_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(exporting, "compare", interrupt)
    with pytest.raises(KeyboardInterrupt):
        export(patch_model(deit(num_hidden_layers=1)), tmp_path / "out", dynamic="none")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_dynamic_is_fixed_and_said(tmp_path, monkeypatch):
    attempts = []
    compare = exporting.compare

    def fails_once(*given):
        attempts.append(given)
        if len(attempts) == 1:
            raise ExportError("not at this size")
        return compare(*given)

    monkeypatch.setattr(exporting, "compare", fails_once)
    exported = export(patch_model(deit(num_hidden_layers=1)), tmp_path / "out", dynamic="batch")
    assert (exported.dynamic, exported.fixed_because) == ("none", "not at this size")
    record = json.loads((tmp_path / "out" / "sima_export.json").read_text())
    assert record["dynamic"] == {"asked": "batch", "exported": "none", "because": "not at this size"}
    assert record["inputs"][0]["shape"] == [1, 3, 24, 24]
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"format": "tflite"}, ExportError, r"`format` must be one of 'onnx', 'openvino', 'executorch', got 'tflite'"),
        ({"dynamic": "size"}, ExportError, r"`dynamic` must be one of 'none', 'batch', 'resolution', got 'size'"),
        ({"dtype": "int8"}, ExportError, r"`dtype` must be one of .*, got 'int8'"),
        ({"quantize": "int4"}, ExportError, r"`quantize` must be None or 'int8', got 'int4'"),
        ({"calibration_images": "photos"}, ExportError, r"`calibration_images` serve `quantize`"),
        ({"model": torch.nn.Linear(2, 2)}, ExportError, r"`model` must be a Transformers model, .* got Linear"),
        ({"model": "./nowhere"}, CheckpointError, "There is no folder ./nowhere"),
    ],
    ids=["format", "dynamic", "dtype", "quantize", "images", "model", "folder"],
)
def test_mistakes_are_told_before_any_work(options, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = {"model": torch.nn.Linear(1, 1), **options}
    with pytest.raises(error, match=words):
        export(given.pop("model"), "out", **given)
    assert list(tmp_path.iterdir()) == []


def test_folders_that_cannot_be_read_or_written(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no model"):
        export(tmp_path / "empty", tmp_path / "out")
    used = tmp_path / "used"
    patch_model(deit()).save_pretrained(used)
    with pytest.raises(FileExistsError, match="is not empty"):
        export(used, used)
    with pytest.raises(ExportError, match="`output_dir` must lie outside the model"):
        export(used, used / "onnx")
    (used / "preprocessor_config.json").write_text(
        json.dumps({"auto_map": {"AutoImageProcessor": "mine.MyProcessor"}, "image_processor_type": "MyProcessor"})
    )
    with pytest.raises(CheckpointError, match="without an image processor that can be loaded"):
        export(used, tmp_path / "out")
    assert {one.name for one in tmp_path.iterdir()} == {"empty", "used"}


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_missing_package_is_told_with_the_pip_line_before_any_work(name, monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "find_spec", lambda package: package == "transformers.exporters" or None)
    with pytest.raises(MissingDependencyError, match=rf"needs {name}.*pip install 'sima-hf\[{name}\]'"):
        export("./nowhere", tmp_path / "out", name)


def test_older_transformers_are_told_the_version(monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "find_spec", lambda package: None)
    with pytest.raises(MissingDependencyError, match=r"needs transformers>=5.23, .* is installed: pip install"):
        export("./nowhere", tmp_path / "out")


def test_another_attention(tmp_path):
    """The file is run and compared within the export; one with a softmax by design is refused before any work."""
    model = patch_model(deit(num_hidden_layers=1), attention="inline")
    exported = export(model, tmp_path / "inline", dynamic="resolution")
    assert exported.dynamic == "resolution"
    assert exported.certificate.softmax_free
    assert exported.agreement.error < 1e-5
    assert json.loads((tmp_path / "inline" / "sima_export.json").read_text(encoding="utf-8"))["attention"] == "inline"
    with pytest.raises(ExportError, match="got efficient attention, which has one by design"):
        export(patch_model(deit(), attention="efficient"), tmp_path / "efficient")
    assert not (tmp_path / "efficient").exists()

"""OpenVINO and ExecuTorch: the files they get, run by themselves in a process without sima_hf."""

import json
import subprocess
import sys

import numpy
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification

from sima_hf import export, patch_model
from sima_hf.errors import ExportError
from tests.helpers.hosts.at_hand import given, make


pytest.importorskip("transformers.exporters")
pytestmark = pytest.mark.slow

OPENVINO = """
import json, sys
import numpy, openvino
folder, given, out = sys.argv[1:]
options = json.load(open(f"{folder}/sima_export.json"))["run_with"]
model = openvino.compile_model(f"{folder}/openvino_model.xml", "CPU", options)
for number, pixels in enumerate(numpy.load(given).values()):
    numpy.save(f"{out}/{number}.npy", model(pixels)["logits"])
assert not {"torch", "transformers", "sima_hf"} & set(sys.modules)
"""
# Its Python package imports torch; what must not be there is sima_hf.
EXECUTORCH = """
import sys
import numpy, torch
from executorch.runtime import Runtime
folder, given, out = sys.argv[1:]
method = Runtime.get().load_program(f"{folder}/model.pte").load_method("forward")
for number, pixels in enumerate(numpy.load(given).values()):
    numpy.save(f"{out}/{number}.npy", method.execute([torch.from_numpy(pixels)])[0].numpy())
assert not {"transformers", "sima_hf"} & set(sys.modules)
"""


@pytest.fixture(scope="module")
def model():
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        image_size=24,
        patch_size=8,
        num_labels=3,
        initializer_range=0.2,
    )
    torch.manual_seed(0)
    return patch_model(ViTForImageClassification(config).eval())


@pytest.mark.parametrize(
    ("name", "code", "dynamic", "shapes"),
    [
        ("openvino", OPENVINO, "resolution", [(1, 3, 24, 24), (4, 3, 40, 32)]),
        ("executorch", EXECUTORCH, "none", [(1, 3, 24, 24)]),
    ],
    ids=["openvino", "executorch"],
)
def test_computed_by_the_runtime_alone(name, code, dynamic, shapes, model, tmp_path):
    pytest.importorskip(name)
    exported = export(model, tmp_path / "out", name, dynamic="resolution")
    assert (exported.dynamic, exported.certificate.softmax_free) == (dynamic, True)
    assert exported.agreement.error < 1e-5
    record = json.loads((tmp_path / "out" / "sima_export.json").read_text())
    assert record["certificate"]["softmax_free"]
    assert {name, "torch"} <= set(record["versions"])
    if name == "openvino":
        assert not {"Softmax", "Exp"} & set(record["certificate"]["nodes"])
        assert record["inputs"] == [{"name": "pixel_values", "dtype": "float32", "shape": ["?", 3, "?", "?"]}]
    images = [torch.randn(shape) for shape in shapes]
    numpy.savez(tmp_path / "given.npz", *(one.numpy() for one in images))
    arguments = [tmp_path / "out", tmp_path / "given.npz", tmp_path]
    found = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]
    model.double()
    for number, one in enumerate(images):
        with torch.no_grad():
            expected = model(one.double(), interpolate_pos_encoding=dynamic == "resolution").logits
        found = torch.from_numpy(numpy.load(tmp_path / f"{number}.npy"))
        assert found.shape == expected.shape
        assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    model.float()


def test_softmax_that_an_exporter_puts_in_is_refused_where_nodes_have_no_places(tmp_path):
    """Transformers replaces this attention while it traces, and OpenVINO's files do not say where a softmax is."""
    pytest.importorskip("openvino")
    case = "qwen2_vl_vision", "Qwen2VisionTransformerPretrainedModel"
    with pytest.raises(
        ExportError, match=r"Softmax is left .*scaled_dot_product_attention in blocks.0.attn \[VisionAttention\]"
    ):
        export(patch_model(make(*case)), tmp_path / "out", "openvino", inputs=given(*case))
    assert list(tmp_path.iterdir()) == []

"""The lines of docs/export.md that classify: they run in a process that has no sima_hf, and give the model's answer."""

import re
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image
from transformers import DeiTConfig, DeiTForImageClassification
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

from sima_hf import export, patch_model


pytest.importorskip("transformers.exporters")
pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[2] / "docs" / "export.md"
BLOCKS = re.findall(r"```py\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)
SIZES = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with exported models and a picture, and the logits that the model gives for it."""
    root = tmp_path_factory.mktemp("page")
    torch.manual_seed(0)
    config = DeiTConfig(**SIZES, image_size=32, patch_size=8, num_labels=3, initializer_range=0.2)
    model = patch_model(DeiTForImageClassification(config).eval())
    processor = DeiTImageProcessorPil(do_center_crop=False, size={"height": 32, "width": 32})
    image = Image.fromarray(numpy.random.default_rng(0).integers(0, 256, (40, 50, 3), numpy.uint8))
    image.save(root / "cat.png")
    model.save_pretrained(root / "saved")
    processor.save_pretrained(root / "saved")
    export(root / "saved", root / "sima-deit-onnx")
    with torch.no_grad():
        return root, model(**processor(image, return_tensors="pt")).logits.numpy()


@pytest.mark.parametrize("code", BLOCKS, ids=["onnxruntime", "openvino", "alone"])
def test_classified_without_sima_hf(code, place):
    root, expected = place
    if "openvino" in code:
        pytest.importorskip("openvino")
        export(root / "saved", root / "sima-deit-openvino", "openvino")
    gone = "sima_hf" if "transformers" in code else "torch transformers sima_hf"
    check = f"""
import sys
import numpy
assert not {set(gone.split())} & set(sys.modules)
numpy.save("logits.npy", numpy.asarray(logits))
"""
    run = subprocess.run(
        [sys.executable, "-c", code + check], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert numpy.abs(numpy.load(root / "logits.npy") - expected).max() < 1e-4 * numpy.abs(expected).max()
    assert "torch" not in gone or run.stdout.strip() == f"LABEL_{expected.argmax()}"

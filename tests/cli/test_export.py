"""`sima-hf export`, and `sima-hf certify` of what it wrote."""

import json

import numpy
import pytest
from PIL import Image


pytest.importorskip("transformers.exporters")


@pytest.mark.slow
def test_export_and_certify_the_file(saved, tmp_path, run):
    found = run("export", saved / "sima", tmp_path / "out", "--json")
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    assert (facts["format"], facts["dynamic"], facts["certificate"]["softmax_free"]) == ("onnx", "batch", True)
    record = json.loads((tmp_path / "out" / "sima_export.json").read_text())
    assert record["image_processor"]["crop_size"] == {"height": 16, "width": 16}
    assert (tmp_path / "out" / "preprocessor_config.json").is_file()

    found = run("certify", tmp_path / "out" / "model.onnx")
    assert (found.code, found.out.splitlines()[0]) == (0, "model.onnx: no softmax and no exp in attention")
    assert "2 x Gelu outside attention" in found.out
    found = run("certify", tmp_path / "out" / "model.onnx", "--json")
    assert json.loads(found.out) == record["certificate"]

    found = run("export", saved / "softmax", tmp_path / "out")
    assert (found.code, found.out) == (1, "")
    assert "is not empty" in found.err
    found = run("export", saved / "softmax", tmp_path / "out", "--overwrite")
    assert found.code == 0, found.err
    found = run("certify", tmp_path / "out" / "model.onnx")
    assert found.code == 1
    assert "in deit.layers.0.attention [DeiTAttention]" in found.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere.onnx",), "must be a file of ONNX"),
        (("broken.onnx",), "cannot be read as a graph"),
        (("broken.onnx", "--height", "3"), "have no effect on a file"),
    ],
    ids=["no-file", "broken", "height"],
)
def test_certify_says_what_is_wrong_with_a_file(arguments, words, tmp_path, run):
    (tmp_path / "broken.onnx").write_bytes(b"no graph")
    name, *options = arguments
    found = run("certify", tmp_path / name, *options)
    assert (found.code, found.out) == (1, "")
    assert words in found.err
    assert "Traceback" not in found.err


def test_export_refuses_what_is_no_model(saved, tmp_path, run):
    for name, words in (("bert", "takes no `pixel_values`"), ("nowhere", "nowhere")):
        found = run("export", saved / name, tmp_path / "out")
        assert (found.code, found.out) == (1, "")
        assert words in found.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_int8_from_a_folder_of_images(saved, tmp_path, run):
    photos = tmp_path / "photos"
    photos.mkdir()
    noise = numpy.random.default_rng(0).integers(0, 256, (40, 20, 20, 3), dtype=numpy.uint8)
    for number, pixels in enumerate(noise):
        Image.fromarray(pixels).save(photos / f"{number}.png")
    options = ("--quantize", "int8", "--calibration-images")
    found = run("export", saved / "sima", tmp_path / "out", "--min-agreement", "0.4", *options, photos, "--json")
    assert found.code == 0, found.err
    quantization = json.loads(found.out)["quantization"]
    assert (quantization["calibration_images"], quantization["held_out_images"]) == (30, 10)
    assert (quantization["floor"], quantization["agreement"] >= 0.4) == (0.4, True)
    assert json.loads((tmp_path / "out" / "sima_export.json").read_text())["quantization"] == quantization

    found = run("export", saved / "sima", tmp_path / "none", *options, tmp_path / "nowhere")
    assert (found.code, found.out) == (1, "")
    assert "There is no folder" in found.err
    found = run("export", saved / "sima", tmp_path / "none", "--quantize", "int8")
    assert "`calibration_images` must be given" in found.err
    assert {one.name for one in tmp_path.iterdir()} == {"photos", "out"}

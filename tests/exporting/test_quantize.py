"""int8: which nodes take it, what it costs, and what is said before any work of images that cannot serve."""

import json
from collections import Counter

import numpy
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel, ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from sima_hf import SimAConfig, SimAForImageClassification, export, patch_model
from sima_hf.errors import DataError, ExportError
from sima_hf.exporting import export as exporting
from sima_hf.exporting import quantize
from sima_hf.exporting.calibration_pixels import read_calibration_images


pytest.importorskip("transformers.exporters")
onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "initializer_range": 0.2}


def softmax_vit(image_size=24):
    torch.manual_seed(0)
    config = ViTConfig(**SIZES, intermediate_size=48, image_size=image_size, patch_size=8, num_labels=3)
    return ViTForImageClassification(config).eval()


def native():
    torch.manual_seed(0)
    config = SimAConfig(**SIZES, mlp_ratio=2, image_size=32, patch_size=8, num_labels=3, num_class_attention_layers=1)
    return SimAForImageClassification(config).eval()


def clip():
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**SIZES, intermediate_size=48, image_size=24, patch_size=8)).eval()


def images(size, count=90):
    """Of which neighboring pixels are alike, with a different mean each."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 3, 4, 4, generator=generator) + torch.randn(count, 3, 1, 1, generator=generator)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear")


# Model, pixels, products in int8 and in float, what is measured. A layer has six products with weights; of the two without, k^T v
# takes int8 where there are more tokens than channels of a head. Where there are fewer, both products come after the norms.
CASES = {
    "swapped": (lambda: patch_model(softmax_vit(48)), 48, {"MatMul": 14, "Gemm": 1, "Conv": 1}, 2, "top-1"),
    "native": (native, 32, None, 4, "top-1"),
    "softmax": (softmax_vit, 24, {"MatMul": 16, "Gemm": 1, "Conv": 1}, 0, "top-1"),
    "features": (lambda: patch_model(clip()), 24, {"MatMul": 12, "Conv": 1}, 4, "cosine"),
}


@pytest.fixture(scope="module", params=list(CASES))
def made(request, tmp_path_factory):
    """The case, its model, folder and `Exported`."""
    build, size, *_ = CASES[request.param]
    model, folder = build(), tmp_path_factory.mktemp("int8") / "out"
    return request.param, model, folder, export(model, folder, quantize="int8", calibration_images=images(size))


@pytest.mark.slow
def test_products_take_int8_but_for_those_over_a_norm(made):
    name, _, folder, exported = made
    _, _, int8, in_float, _ = CASES[name]
    record = json.loads((folder / "sima_export.json").read_text())["quantization"]
    assert record == json.loads(json.dumps(exported.quantization.to_dict()))
    kept = {one["because"]: one for one in record["in_float"]}
    assert quantize.LEFT not in kept
    assert len(kept.get(quantize.OVER_A_NORM, {"names": []})["names"]) == in_float
    if int8:
        assert record["int8"] == int8
    graph = onnx.load(folder / "model.onnx").graph
    made_by = {out: node for node in graph.node for out in node.output}
    operations = {
        node.name: {made_by[one].op_type for one in node.input[:2] if one in made_by}
        for node in graph.node
        if node.op_type in ("MatMul", "Gemm", "Conv")
    }
    floats = {node for node, inputs in operations.items() if inputs != {"DequantizeLinear"}}
    assert floats == set(kept.get(quantize.OVER_A_NORM, {"names": []})["names"])
    assert len(operations) - len(floats) == sum(record["int8"].values())
    if name != "softmax":
        assert {"Abs", "ReduceSum"} <= set(kept[quantize.NORM]["operations"])
        assert not {"MatMul", "Add", "LayerNormalization"} & set(kept[quantize.NORM]["operations"])


@pytest.mark.slow
def test_weights_are_int8_by_channel(made):
    _, _, folder, _ = made
    stored = {one.name: one for one in onnx.load(folder / "model.onnx").graph.initializer}
    weights = [one for one in stored.values() if one.name.endswith("_quantized") and len(one.dims) > 1]
    assert len(weights) >= 13
    assert {one.data_type for one in weights} == {onnx.TensorProto.INT8}
    scales = [stored[one.name.replace("_quantized", "_scale")] for one in weights]
    assert all(len(scale.dims) == 1 and scale.dims[0] in one.dims for one, scale in zip(weights, scales, strict=True))


@pytest.mark.slow
def test_the_certificate_is_of_the_quantized_file(made):
    name, _, _, exported = made
    assert exported.certificate.softmax_free is (name != "softmax")
    assert exported.certificate.counts["DequantizeLinear"] > 0
    assert exported.certificate.count == (2 if name == "softmax" else 0)
    if name == "softmax":
        assert {one.module for one in exported.certificate.softmax} == {"ViTAttention"}
    assert "before it was quantized" in str(exported)
    assert f"{exported.quantization.agreement:.3f}" in str(exported)


@pytest.mark.slow
def test_agreement_is_that_of_the_runtime_alone_on_images_that_gave_no_range(made):
    name, model, folder, exported = made
    _, size, _, _, measure = CASES[name]
    found = exported.quantization
    assert (found.measure, found.calibration_images, found.held_out_images) == (measure, 68, 22)
    assert found.floor <= found.agreement <= 1
    order = torch.randperm(90, generator=torch.Generator().manual_seed(0))
    held = images(size)[order[:22]]
    ours = onnxruntime.InferenceSession(folder / "model.onnx").run(None, {"pixel_values": held.numpy()})[0]
    with torch.no_grad():
        theirs = model(held)[0].numpy()
    if measure == "top-1":
        expected = (ours.argmax(-1) == theirs.argmax(-1)).mean()
    else:
        ours, theirs = (one.reshape(22, -1).astype("float64") for one in (ours, theirs))
        lengths = numpy.linalg.norm(ours, axis=1) * numpy.linalg.norm(theirs, axis=1)
        expected = ((ours * theirs).sum(1) / lengths).mean()
    assert found.agreement == pytest.approx(expected, abs=1e-6)
    assert 0 < abs(ours - theirs).max() < 0.5 * abs(theirs).max()


@pytest.mark.slow
def test_one_shape_takes_whole_batches_of_it(tmp_path):
    model = patch_model(softmax_vit())
    exported = export(model, tmp_path / "out", dynamic="none", quantize="int8", calibration_images=images(24, 33))
    assert exported.dynamic == "none"
    assert (exported.quantization.calibration_images, exported.quantization.held_out_images) == (25, 8)
    # What runs of it: of a fixed shape, too, the runtime multiplies in int8 all that the file has in int8.
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "run.onnx"), 3
    onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", options)
    counts = Counter(node.op_type for node in onnx.load(tmp_path / "run.onnx", load_external_data=False).graph.node)
    in_float = sum(len(one["names"]) for one in exported.quantization.in_float)
    assert sum(counts[name] for name in ("Gemm", "MatMul", "FusedMatMul", "Conv")) == in_float
    in_int8 = sum(counts[name] for name in ("MatMulIntegerToFloat", "QLinearMatMul", "QGemm", "QLinearConv"))
    assert in_int8 == sum(exported.quantization.int8.values())


@pytest.mark.slow
@pytest.mark.parametrize("build", [softmax_vit, clip], ids=["top-1", "cosine"])
def test_a_file_that_agrees_too_little_is_not_left_nor_tried_again(build, tmp_path, monkeypatch):
    tries, exporter_of = [], exporting.exporter_of
    monkeypatch.setattr(quantize, "FLOORS", {"top-1": 1.5, "cosine": 1.5})
    monkeypatch.setattr(
        exporting, "exporter_of", lambda *given, **options: tries.append(1) or exporter_of(*given, **options)
    )
    with pytest.raises(
        ExportError, match=r"agreement is [01].\d+ on 16 images that are held out, where 1.5 is asked for"
    ):
        export(build(), tmp_path / "out", quantize="int8", calibration_images=images(24, 64))
    assert list(tmp_path.iterdir()) == []
    assert len(tries) == 1


@pytest.mark.slow
def test_a_file_that_agrees_as_much_as_is_asked_for_is_kept(tmp_path):
    given = {"quantize": "int8", "calibration_images": images(24, 64)}
    kept = export(softmax_vit(), tmp_path / "kept", min_agreement=0.1, **given).quantization
    assert kept.floor == 0.1
    assert kept.agreement < 1
    least = (1 + kept.agreement) / 2
    with pytest.raises(ExportError, match=rf"where {least:g} is asked for.* ask for less by `min_agreement`"):
        export(softmax_vit(), tmp_path / "refused", min_agreement=least, **given)
    assert not (tmp_path / "refused").exists()


PROCESSOR = {"size": {"height": 24, "width": 24}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]}


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, pixels in enumerate(images(24, 40).add(2).mul(60).clamp(0, 255).byte()):
        Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    return folder


def test_folder_split_and_pixels_are_the_same_images(photos):
    from datasets import Dataset
    from datasets import Image as ImageColumn

    files = sorted(map(str, photos.iterdir()))
    split = Dataset.from_dict({"photo": files, "other": list(range(40))}).cast_column("photo", ImageColumn())
    processor = ViTImageProcessorPil(**PROCESSOR)
    pixels = [processor(Image.open(file), return_tensors="pt")["pixel_values"][0] for file in files]
    found = {
        name: read_calibration_images(given, processor, (3, 24, 24))
        for name, given in (("folder", photos), ("split", split), ("pixels", pixels))
    }
    wanted = torch.stack(pixels).double()
    for one in found.values():
        assert (len(one.seen), len(one.held_out)) == (30, 10)
        both = torch.cat([one.seen, one.held_out]).double()
        nearest = torch.cdist(both.flatten(1), wanted.flatten(1)).min(1)
        assert sorted(nearest.indices.tolist()) == list(range(40))
        assert nearest.values.max() < 1e-3
    assert torch.equal(found["folder"].seen, found["split"].seen)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"calibration_images": None}, ExportError, r"`calibration_images` must be given with quantize='int8'"),
        ({"quantize": None}, ExportError, r"`calibration_images` serve `quantize`, which is None"),
        ({"calibration_images": "nowhere"}, DataError, "There is no folder nowhere"),
        ({"calibration_images": "empty"}, DataError, "empty holds no images"),
        ({"calibration_images": "photos"}, DataError, "`processor` must be the model's image processor"),
        ({"calibration_images": images(24, 31)}, DataError, "must be 32 or more, got 31"),
        ({"calibration_images": 3}, DataError, "must be a folder, a split of `datasets`, or a sequence of .* got int"),
        (
            {"calibration_images": images(16, 32)},
            DataError,
            r"as the model takes them, \(3, 24, 24\), got \(3, 16, 16\)",
        ),
        ({"calibration_images": images(24, 32).byte()}, DataError, "processed pixels .* of floating point"),
        ({"calibration_images": ["a"] * 32}, DataError, "processed pixels .* got str"),
        ({"min_agreement": 1.5}, ExportError, r"`min_agreement` must be between 0 and 1, got 1.5"),
        (
            {"quantize": None, "calibration_images": None, "min_agreement": 0.5},
            ExportError,
            r"`min_agreement` serves `quantize`, which is None",
        ),
        ({"dtype": "float16"}, ExportError, "`dtype` must be float32 with `quantize`, got float16"),
    ],
    ids=[
        "none",
        "no-quantize",
        "nowhere",
        "empty",
        "processor",
        "few",
        "int",
        "size",
        "bytes",
        "words",
        "agreement",
        "agreement-alone",
        "half",
    ],
)
def test_mistakes_are_told_before_any_work(options, error, words, tmp_path, photos, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(exporting, "_write", None)
    given = {"quantize": "int8", "calibration_images": images(24, 32), **options}
    with pytest.raises(error, match=words):
        export(softmax_vit(), tmp_path / "out", **given)
    assert {one.name for one in tmp_path.iterdir()} == {"empty", "photos"}


@pytest.mark.parametrize("name", ["openvino", "executorch"])
def test_another_format_has_no_int8(name, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "find_format", lambda format: exporting.Format(format, "", (), ""))
    with pytest.raises(ExportError, match=f"`quantize` must be None with {name}, got 'int8': only ONNX has it"):
        export("./nowhere", tmp_path / "out", name, quantize="int8", calibration_images=images(24, 32))

"""torch.jit.trace and the older ONNX exporter, the meta device, fake tensors: whoever looks at a model without its numbers."""

import io

import onnxruntime
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import SwinConfig, SwinModel, ViTConfig, ViTForImageClassification

from sima_hf import SimAConfig, SimAForImageClassification, certify, patch_model, sima_attention
from tests.helpers.tensors import formula, inputs, relative_error


pytestmark = pytest.mark.slow


class Logits(torch.nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, pixel_values):
        return self.model(pixel_values, return_dict=False)[0]


def vit(size=32, patch=8):
    config = ViTConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        image_size=size,
        patch_size=patch,
    )
    return patch_model(ViTForImageClassification(config).eval())


def swin(size=32):
    config = SwinConfig(image_size=size, patch_size=4, embed_dim=16, depths=[2], num_heads=[2], window_size=4)
    return patch_model(SwinModel(config).eval())


def native(size=32):
    config = SimAConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64, image_size=size, patch_size=8
    )
    return SimAForImageClassification(config).eval()


def long_vit(size=128):
    """1,025 tokens: there the plain operations take other ways on a CPU."""
    return vit(size, 4)


MODELS = {"vit": (vit, 32), "native": (native, 32), "long vit": (long_vit, 128)}


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "with-gradients"])
@pytest.mark.parametrize("name", MODELS)
def test_traced_with_two_images_and_run_with_three_and_one(name, gradients):
    make, size = MODELS[name]
    model = Logits(make())
    with torch.set_grad_enabled(gradients):
        traced = torch.jit.trace(model, torch.randn(2, 3, size, size))
        for images in (3, 1):
            given = torch.randn(images, 3, size, size)
            assert relative_error(traced(given).detach(), model.double()(given.double()).detach()) < 1e-5
            model.float()


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("tokens", [9, 600])
def test_a_traced_operation_serves_any_number_of_images(tokens):
    """In an order of the memory in which heads and images do not fold into one axis."""
    traced = torch.jit.trace(
        lambda *qkv: sima_attention(*qkv), inputs(2, 4, tokens, channels=16, dtype=torch.float32), check_trace=False
    )
    for images in (3, 1, 5):
        tensors = inputs(images, 4, tokens, channels=16, dtype=torch.float32)
        assert relative_error(traced(*tensors), formula(*tensors)) < 1e-5


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "with-gradients"])
@pytest.mark.parametrize("name", MODELS)
def test_the_older_onnx_exporter_with_a_dynamic_batch(name, gradients):
    make, size = MODELS[name]
    model, file = Logits(make()).eval(), io.BytesIO()  # the exporter gives all of it the mode of the outermost
    with torch.set_grad_enabled(gradients):
        torch.onnx.export(
            model,
            (torch.randn(2, 3, size, size),),
            file,
            dynamo=False,
            input_names=["pixel_values"],
            dynamic_axes={"pixel_values": {0: "batch"}},
        )
    session = onnxruntime.InferenceSession(file.getvalue())
    for images in (3, 1):
        given = torch.randn(images, 3, size, size)
        (logits,) = session.run(None, {"pixel_values": given.numpy()})
        assert relative_error(torch.from_numpy(logits), model.double()(given.double()).detach()) < 1e-5
        model.float()


@pytest.mark.parametrize("make", [vit, swin, native], ids=["vit", "swin", "native"])
def test_shapes_on_the_meta_device(make):
    expected = make()(torch.randn(2, 3, 32, 32), return_dict=False)[0]
    found = make().to("meta")(torch.randn(2, 3, 32, 32, device="meta"), return_dict=False)[0]
    assert found.is_meta
    assert found.shape == expected.shape


def test_a_certificate_on_the_meta_device():
    assert certify(vit().to("meta"), torch.randn(1, 3, 32, 32, device="meta")).softmax_free


@pytest.mark.parametrize("make", [vit, swin, native], ids=["vit", "swin", "native"])
def test_shapes_of_fake_tensors(make):
    model, given = make(), torch.randn(2, 3, 32, 32)
    expected = model(given, return_dict=False)[0]
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        found = model(mode.from_tensor(given), return_dict=False)[0]
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype


@pytest.mark.parametrize("backend", ["auto", "eager", "reference"])
@pytest.mark.parametrize("kind", ["none", "padding", "float padding", "float full"])
def test_the_operation_on_the_meta_device(kind, backend):
    leaves = [x.to("meta").requires_grad_() for x in inputs(2, 3, 9, value_channels=5)]
    mask = {
        "none": None,
        "padding": torch.ones(2, 9, dtype=torch.bool, device="meta"),
        "float padding": torch.zeros(2, 9, device="meta"),
        "float full": torch.zeros(2, 1, 9, 9, device="meta"),
    }[kind]
    out = sima_attention(*leaves, mask, "tokens", backend=backend)
    assert out.shape == (2, 3, 9, 5)
    assert all(x.shape == y.shape for x, y in zip(torch.autograd.grad(out.sum(), leaves), leaves, strict=True))

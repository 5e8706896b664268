"""What cannot be calibrated is refused in a sentence, and left as it was."""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import prune
from transformers import ResNetConfig, ResNetModel

import sima_hf
from sima_hf.errors import CalibrationError, UnsupportedModelError
from tests.helpers.calibrated_models import (
    IMAGES,
    bytes_of,
    digits,
    same_bytes,
    swapped,
    vit,
)
from tests.helpers.hosts.at_hand import make


@pytest.mark.parametrize(
    ("model", "teacher", "batches", "options", "error", "words"),
    [
        (vit, vit, IMAGES, {}, CalibrationError, "is not a swapped model: call sima_hf.patch_model"),
        (
            lambda: swapped(vit()),
            lambda: swapped(vit()),
            IMAGES,
            {},
            CalibrationError,
            "teacher is a SimA model itself",
        ),
        (
            lambda: swapped(vit()),
            lambda: vit(intermediate_size=64),
            IMAGES,
            {},
            CalibrationError,
            r"'vit.layers.0.mlp.fc1.weight' is \(48, 32\) in the model and \(64, 32\) in the teacher",
        ),
        (
            lambda: swapped(vit()),
            lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])),
            IMAGES,
            {},
            CalibrationError,
            "missing in the teacher",
        ),
        (lambda: swapped(vit()), vit, [], {}, CalibrationError, "`batches` is empty"),
        (lambda: swapped(vit()), vit, IMAGES[0], {}, TypeError, "more than once, .* got Tensor"),
        (lambda: swapped(vit()), vit, iter(IMAGES), {}, TypeError, "more than once, .* got list_iterator"),
        (
            lambda: swapped(vit()),
            vit,
            [(IMAGES[0], 1)],
            {},
            TypeError,
            "tensor of pixel_values or a dict .*, got tuple",
        ),
        (
            lambda: swapped(vit()),
            vit,
            IMAGES,
            {"ridge": 0},
            CalibrationError,
            "`ridge` must be a positive number, got 0",
        ),
        (
            lambda: swapped(vit()),
            vit,
            IMAGES,
            {"class_token_weight": -1},
            CalibrationError,
            "`class_token_weight` must be a positive number",
        ),
        (
            lambda: swapped(make("vit", "ViTModel")),
            lambda: make("vit", "ViTModel"),
            IMAGES,
            {"classifier": True},
            CalibrationError,
            "needs a linear layer called classifier",
        ),
        (lambda: nn.Linear(2, 2), vit, IMAGES, {}, TypeError, "`model` must be a Transformers model"),
        (lambda: swapped(vit()), lambda: "vit", IMAGES, {}, TypeError, "`teacher` must be .* got str"),
        (lambda: swapped(vit()).to("meta"), lambda: vit().to("meta"), IMAGES, {}, CalibrationError, "are on meta"),
    ],
    ids=[
        "softmax",
        "sima-teacher",
        "shapes",
        "other",
        "empty",
        "tensor",
        "once",
        "tuple",
        "ridge",
        "weight",
        "no-head",
    ]
    + ["module", "text", "meta"],
)
def test_refusals(model, teacher, batches, options, error, words):
    with pytest.raises(error, match=words):
        sima_hf.calibrate(model(), teacher(), batches, progress=False, **options)


def test_a_layer_that_is_no_plain_linear_is_refused():
    teacher, model = vit(), swapped(vit())
    for net in (teacher, model):
        net.vit.layers[1].mlp.fc2.__class__ = type("Quantized", (nn.Linear,), {})
    with pytest.raises(
        UnsupportedModelError, match=r"vit.layers.1.mlp.fc2, which must be a plain nn.Linear, but it is a"
    ):
        sima_hf.calibrate(model, teacher, IMAGES, progress=False)


def test_a_weight_that_two_layers_share(trained):
    """As a user ties layers to save memory; which layer, and what with, is in the sentence."""
    places = ("vit.layers.0.attention.o_proj", "vit.layers.1.attention.o_proj")
    for tie in (
        lambda net: setattr(net.get_submodule(places[1]), "weight", net.get_submodule(places[0]).weight),
        lambda net: setattr(net.vit.layers[1].attention, "o_proj", net.get_submodule(places[0])),
        lambda net: setattr(net.vit.layers[1].attention, "k_proj", net.vit.layers[1].attention.q_proj),
    ):
        teacher = copy.deepcopy(trained)
        tie(teacher)
        model = swapped(teacher)
        before = bytes_of(model)
        with pytest.raises(
            CalibrationError, match=r"vit\.layers\.[01]\.attention\.\w+.* (are one weight|serves in sev)"
        ):
            sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)
        assert same_bytes(bytes_of(model), before)


class Quantized(torch.Tensor):
    """A tensor subclass that, as torchao's, knows few operations."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function in (torch.Tensor.float, torch.Tensor.__deepcopy__, torch.Tensor.to):
            raise NotImplementedError(f"{function} is not implemented")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("place", ["attention.o_proj", "attention.q_proj", "mlp.fc1"])
@pytest.mark.parametrize("who", ["model", "teacher"])
def test_weights_of_another_tensor_class(trained, place, who):
    teacher = copy.deepcopy(trained)
    model = swapped(trained)
    layer = {"model": model, "teacher": teacher}[who].vit.layers[1].get_submodule(place)
    layer.weight = nn.Parameter(layer.weight.data.as_subclass(Quantized), requires_grad=False)
    with pytest.raises(
        UnsupportedModelError, match=rf"vit.layers.1.{place}.weight of the {who} is a Quantized. Calibrate before"
    ):
        sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)


@pytest.mark.parametrize("place", ["attention.o_proj", "attention.v_proj", "mlp.fc1"])
def test_a_pruning_mask(trained, place):
    """Its product is no parameter: as it is after a forward with gradients, which cannot be copied, and after one without."""
    for grad in (True, False):
        teacher = copy.deepcopy(trained)
        model = swapped(trained)
        for net in (model, teacher):
            prune.l1_unstructured(net.vit.layers[0].get_submodule(place), "weight", amount=0.5)
            with torch.set_grad_enabled(grad):
                net(digits()[0][:2])
        before = bytes_of(model)
        if not grad and place != "attention.o_proj":  # it is left alone, and can be
            sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)
            assert torch.equal(
                model.vit.layers[0].get_submodule(place).weight_orig, before[f"vit.layers.0.{place}.weight_orig"]
            )
            continue
        with pytest.raises(UnsupportedModelError, match=rf"vit.layers.0.{place}.* computed anew for each forward"):
            sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)
        assert same_bytes(bytes_of(model), before)


def test_an_adapter_is_named_by_module_and_class(trained):
    peft = pytest.importorskip("peft", reason="pip install peft")
    teacher, model = copy.deepcopy(trained), swapped(trained)
    for net in (model, teacher):
        peft.get_peft_model(net, peft.LoraConfig(r=2, target_modules=["o_proj"]))
    with pytest.raises(
        UnsupportedModelError,
        match=r"vit\.layers\.0\.attention\.o_proj, which .* it is a peft\.tuners\.lora\.layer\.Linear\. ",
    ):
        sima_hf.calibrate(model, teacher, [digits()[0][:64]], progress=False)

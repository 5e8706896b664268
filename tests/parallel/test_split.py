"""One image over 2 and 3 processes: outputs, gradients and running statistics are those of one process, in float64."""

import copy

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel
from transformers import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification, SimAModel
from tests.helpers.hosts.interface import SIZES
from tests.helpers.joined_processes import run_joined
from tests.helpers.tensors import relative_error


HOST = {**SIZES, "image_size": [40, 24], "patch_size": 8, "num_labels": 3}
SQUARE = {**HOST, "image_size": 32}  # their positions are interpolated to the image's size
NATIVE = {
    **{"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_class_attention_layers": 2},
    **{"patch_size": 8, "layer_scale_init_value": 1.0, "num_labels": 3},
}
# name -> (config, class, height and width of the images); five rows of patches, so that shares are uneven
MODELS = {
    "vit": (ViTConfig(**HOST), ViTForImageClassification, (40, 24)),
    "deit": (DeiTConfig(**HOST), DeiTForImageClassificationWithTeacher, (40, 24)),
    "dinov2": (Dinov2Config(**SQUARE), Dinov2ForImageClassification, (43, 24)),
    "registers": (Dinov2WithRegistersConfig(**SQUARE), Dinov2WithRegistersForImageClassification, (40, 24)),
    "sima": (SimAConfig(**NATIVE), SimAForImageClassification, (37, 26)),
    "sima model": (SimAConfig(**{**NATIVE, "patch_size": 16, "attention_gain": "tokens"}), SimAModel, (65, 35)),
}


def make(name):
    config, cls, size = MODELS[name]
    torch.manual_seed(0)
    model = cls(copy.deepcopy(config)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 10)
    if name == "sima":
        model.gradient_checkpointing_enable()
    if not isinstance(model, SimAModel | SimAForImageClassification):
        sima_hf.patch_model(model)
    return model, torch.randn(2, 3, *size, dtype=torch.float64)


def answer(outputs):
    return outputs.logits if hasattr(outputs, "logits") else outputs.pooler_output


def run(model, pixels, training_model=None):
    """Inference, and one step: answer, tokens, loss, gradients, parameters and buffers after it."""
    with torch.no_grad():
        outputs = model(pixels, output_hidden_states=True)
    tokens = outputs.hidden_states[-1]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model.train()
    loss = answer((training_model or model)(pixels)).square().sum()
    loss.backward()
    gradients = {name: one.grad for name, one in model.named_parameters() if one.grad is not None}
    optimizer.step()
    return answer(outputs), tokens, loss.item(), gradients, {k: v.detach() for k, v in model.state_dict().items()}


def _together(models):
    distributed.init_process_group("gloo")
    found = {}
    for name, (model, pixels) in models.items():
        with sima_hf.split_tokens(model, distributed.group.WORLD):
            wrapped = DistributedDataParallel(model, find_unused_parameters=True)
            found[name] = run(model, pixels, wrapped)
        assert not any({"forward", "token_split"} & vars(module).keys() for module in model.modules())
    model, pixels = models["sima"]
    model = copy.deepcopy(model).eval().bfloat16()
    with sima_hf.split_tokens(model, distributed.group.WORLD), torch.no_grad():
        found["bfloat16"] = answer(model(pixels))
        try:
            model(pixels[:, :, :8])
        except ValueError as error:
            found["few rows"] = str(error)
    return found


@pytest.fixture(scope="module", params=[pytest.param(2, marks=pytest.mark.slow), 3])
def joined(request, tmp_path_factory):
    models = {name: make(name) for name in MODELS}
    codes, found = run_joined(
        _together, models, processes=request.param, folder=tmp_path_factory.mktemp("told"), seconds=100
    )
    assert codes == [0] * request.param, found
    return found


@pytest.fixture(scope="module")
def alone():
    return {name: run(*make(name)) for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_one_image_over_processes(name, joined, alone):
    expected, expected_tokens, expected_loss, expected_gradients, expected_state = alone[name]
    shared = sum(found[name][1].shape[1] for found in joined) - expected_tokens.shape[1]
    shared //= len(joined) - 1
    assert shared == {"sima": 1, "sima model": 1, "deit": 2, "registers": 5}.get(name, 1)
    parts = [found[name][1][:, shared:] for found in joined]
    assert len({part.shape for part in parts}) == 2  # uneven
    torch.testing.assert_close(torch.cat(parts, dim=1), expected_tokens[:, shared:], rtol=0, atol=1e-10)
    for found in joined:
        output, tokens, loss, gradients, state = found[name]
        torch.testing.assert_close(output, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(tokens[:, :shared], expected_tokens[:, :shared], rtol=0, atol=1e-10)
        assert loss == pytest.approx(expected_loss, rel=1e-10)
        assert gradients.keys() == expected_gradients.keys()
        for key, gradient in expected_gradients.items():
            single = "dinov2" in key and key.endswith("position_embeddings")  # the host resizes them in float32
            error = (gradients[key] - gradient).abs().max() / gradient.abs().max().clamp_min(1e-3)
            assert error.item() < (1e-6 if single else 1e-9), key
        for key, value in expected_state.items():  # running statistics among them
            torch.testing.assert_close(state[key], value, rtol=1e-9, atol=1e-9)


def test_half_precision(joined, alone):
    model, pixels = make("sima")
    with torch.no_grad():
        model.load_state_dict(alone["sima"][4])
        expected = answer(model.bfloat16()(pixels)).double()
    for found in joined:
        assert torch.equal(found["bfloat16"], joined[0]["bfloat16"])
        assert relative_error(found["bfloat16"], expected) < 5e-2


def test_each_process_needs_a_row(joined):
    for found in joined:
        assert f"must have a row of patches for each of {len(joined)} processes, got 1 rows" in found["few rows"]

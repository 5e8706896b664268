"""Swapped models under autocast, where rotary positions and norms leave query and key wider than the value."""

import pytest
import torch
from transformers import Trainer, TrainingArguments

import sima_hf
from sima_hf.attention import PositionBias, one_dtype, sima_attention_forward
from sima_hf.ops.autocast import without_autocast
from tests.helpers.hosts.at_hand import KINDS, given, make, tensors
from tests.helpers.tensors import DTYPES, definition, inputs, relative_error


def step(model, case, name, dtype=None):
    """The outputs of a forward under autocast to `dtype`, or without it, and the gradients of all parameters."""
    torch.manual_seed(2)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        found = tensors(model(**given(case, name)))
    sum(tensor.float().square().mean() for tensor in found).backward()
    grads = {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}
    return [tensor.detach() for tensor in found], grads


def error(found, expected):
    """The median of the relative errors of all outputs: a model that chooses, as detectors do, may choose otherwise."""
    errors = [relative_error(one, two) for one, two in zip(found, expected, strict=True) if two.any()]
    return sorted(errors)[len(errors) // 2] if errors else 0.0


# What runs in float32 under autocast is up to the kind of code: norms of query and key and rotary positions among it.
EACH = [*KINDS, ("internvl_vision/qk_norm", "InternVLVisionModel")]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name"), EACH, ids=[case for case, _ in EACH])
def test_a_step_under_autocast(case, name):
    try:
        softmax, _ = step(make(case, name), case, name, torch.bfloat16)
    except RuntimeError as problem:
        pytest.skip(f"the softmax model itself does not run under autocast: {problem}")
    allowed = max(0.1, 4 * error(softmax, step(make(case, name), case, name)[0]))
    found, grads = step(sima_hf.patch_model(make(case, name)), case, name, torch.bfloat16)
    expected, exact = step(sima_hf.patch_model(make(case, name)), case, name)
    assert all(tensor.isfinite().all() for tensor in (*found, *grads.values()))
    assert grads.keys() == exact.keys()
    assert error(found, expected) < allowed


@pytest.mark.parametrize(
    ("case", "name"), [("dinov3_vit", "DINOv3ViTModel"), ("sapiens2", "Sapiens2Model"), ("siglip2", "Siglip2Model")]
)
def test_a_step_under_float16_autocast(case, name):
    found, grads = step(sima_hf.patch_model(make(case, name)), case, name, torch.float16)
    expected, _ = step(sima_hf.patch_model(make(case, name)), case, name)
    assert all(tensor.isfinite().all() for tensor in (*found, *grads.values()))
    assert error(found, expected) < 0.02


class Classifier(torch.nn.Module):
    """Three classes on a tower."""

    def __init__(self, tower):
        super().__init__()
        self.tower, self.head = tower, torch.nn.Linear(tower.config.hidden_size, 3)

    def forward(self, pixel_values, labels):
        logits = self.head(self.tower(pixel_values).pooler_output)
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.slow
def test_trainer_in_bfloat16(tmp_path):
    """DINOv3's rotary positions are float32 whatever autocast says; the Trainer raised at its first step."""
    model = Classifier(sima_hf.patch_model(make("dinov3_vit", "DINOv3ViTModel")))
    before = {key: parameter.detach().clone() for key, parameter in model.named_parameters()}
    rows = [{"pixel_values": torch.randn(3, 32, 32), "labels": index % 3} for index in range(4)]
    options = {"max_steps": 1, "per_device_train_batch_size": 4, "report_to": "none", "save_strategy": "no"}
    arguments = TrainingArguments(str(tmp_path), bf16=True, use_cpu=True, disable_tqdm=True, **options)
    result = Trainer(model, arguments, train_dataset=rows).train()
    assert torch.tensor(result.training_loss).isfinite()
    attention = [key for key in before if "q_proj.weight" in key]
    assert attention
    assert all((model.get_parameter(key) != before[key]).any() for key in attention)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_makes_one_dtype(dtype):
    query, key, value = inputs(dtype=torch.float32)
    bias, keep = torch.randn(1, 3, 17, 17), torch.rand(2, 17) > 0.3
    with torch.autocast("cpu", dtype):
        found, maps = sima_attention_forward(
            None, query, key, value.to(dtype), PositionBias(bias, keep), gain="tokens", output_attentions=True
        )
        again, _ = sima_attention_forward(None, query, key, value.to(dtype), PositionBias(bias, keep), gain="tokens")
        wide, _ = sima_attention_forward(None, query.double(), key.double(), value.double(), keep)
    expected = definition(query, key, value, keep, bias, "tokens").transpose(1, 2)
    assert found.dtype == again.dtype == dtype
    assert relative_error(found, expected) < DTYPES[dtype]
    assert relative_error(again, expected) < DTYPES[dtype]
    assert relative_error((maps.double() @ value.double()).transpose(1, 2), expected) < DTYPES[dtype]
    assert wide.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_half_model_with_wide_norms(dtype):
    """As Transformers' flash attention does: what the next layer takes."""
    query, key, value = inputs(dtype=torch.float32)
    found, _ = sima_attention_forward(None, query, key, value.to(dtype))
    assert found.dtype == dtype
    assert relative_error(found, definition(query, key, value).transpose(1, 2)) < DTYPES[dtype]


def test_devices_without_autocast():
    """torch raises where it is asked about autocast on meta."""
    assert without_autocast("meta").__enter__() is None
    assert [x.dtype for x in one_dtype(*(torch.empty(1, 1, 2, 3, device="meta") for _ in range(3)))] == [
        torch.float32
    ] * 3

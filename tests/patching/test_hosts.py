"""Every host of the table, every class tried: swapped, right, saved, undone."""

import pytest
import torch
import transformers
from hosts_at_hand import CASES, MODELS, given, make, tensors
from safetensors.torch import load_file
from tensors import everyone, oracle, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

import sima_hf
from sima_hf import attention
from sima_hf.patching.hosts import HOSTS


SOFTMAX = ("softmax", "scaled_dot_product", "multi_head_attention")


class Counter(TorchDispatchMode):
    """Softmax-like operations that really run."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.name() == "aten::exp" or any(word in func.name() for word in SOFTMAX)
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def run(model, inputs):
    with Counter() as counter:
        outputs = tensors(model(**inputs))
    return outputs, counter.count


def test_the_table_is_tried_whole():
    assert set(CASES) == set(HOSTS)
    assert [row["model_type"] for row in sima_hf.supported_models()] == list(HOSTS)


@pytest.mark.parametrize(("host", "name"), MODELS, ids=[name for _, name in MODELS])
def test_swap_and_undo(host, name):
    model, inputs = make(host, name), given(host, name)
    before, count = run(model, inputs)
    assert count > 0
    parameters = {key: id(parameter) for key, parameter in model.named_parameters()}
    config, cls = model.config, type(model)

    assert sima_hf.patch_model(model) is model
    assert type(model).__name__ == f"SimA{name}"
    assert isinstance(model, cls)
    assert isinstance(model.config, type(config))
    assert model.config.model_type == f"sima_{host}"
    assert {key: id(parameter) for key, parameter in model.named_parameters()} == parameters
    after, count = run(model, inputs)
    assert count == 0
    assert all(tensor.isfinite().all() for tensor in after)
    assert not all(torch.equal(one, two) for one, two in zip(before, after, strict=True))

    assert sima_hf.unpatch_model(model) is model
    assert type(model) is cls
    assert model.config is config
    again, _ = run(model, inputs)
    assert all(torch.equal(one, two) for one, two in zip(before, again, strict=True))


@pytest.mark.parametrize("gain", ["tokens", "none"])
@pytest.mark.parametrize(("host", "name"), MODELS, ids=[name for _, name in MODELS])
def test_every_attention_is_the_formula(host, name, gain, monkeypatch):
    """Queries, keys and values as they reach SimA, through an oracle that shares no code with the package."""
    calls = []

    def spy(query, key, value, mask=None, **options):
        calls.append((query, key, value, mask, compute(query, key, value, mask, **options)))
        return calls[-1][-1]

    compute = attention.sima_attention
    model = sima_hf.patch_model(make(host, name).double(), gain=gain)
    monkeypatch.setattr(attention, "sima_attention", spy)
    inputs = {key: x.double() if x.is_floating_point() else x for key, x in given(host, name).items()}
    with torch.no_grad():
        model(**inputs)
    assert len(calls) >= 2
    for query, key, value, mask, out in calls:
        assert mask is None
        rows = everyone(query.shape[0], query.shape[2], query.shape[2])
        columns = everyone(query.shape[0], query.shape[2], key.shape[2])
        assert relative_error(out, oracle(query, key, value, rows, columns, gain)) < 1e-10


@pytest.mark.parametrize(("host", "name"), MODELS, ids=[name for _, name in MODELS])
def test_two_generations_of_save_and_load(host, name, tmp_path):
    model, inputs = sima_hf.patch_model(make(host, name), gain="none", backend="eager"), given(host, name)
    expected, _ = run(model, inputs)
    generation = model
    names = set(model.state_dict())
    for number in (1, 2):
        generation.save_pretrained(tmp_path / str(number))
        assert set(load_file(tmp_path / str(number) / "model.safetensors")) == names
        generation, report = type(model).from_pretrained(tmp_path / str(number), output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert generation.config.attention_gain == "none"
        found, count = run(generation.eval(), inputs)
        assert count == 0
        assert all(torch.equal(one, two) for one, two in zip(expected, found, strict=True))
    assert list(generation.state_dict()) == list(model.state_dict())


@pytest.mark.parametrize(("host", "name"), MODELS, ids=[name for _, name in MODELS])
def test_gradients_reach_every_attention_parameter(host, name):
    model = sima_hf.patch_model(make(host, name)).train()
    sum(tensor.square().sum() for tensor in tensors(model(**given(host, name)))).backward()
    attention_parameters = [
        (key, parameter)
        for key, parameter in model.named_parameters()
        if any(part in key for part in ("q_proj", "k_proj", "v_proj", "query", "key.", "value."))
    ]
    assert attention_parameters
    for key, parameter in attention_parameters:
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all(), key


AUTO = {
    "ForImageClassification": "AutoModelForImageClassification",
    "ForImageClassificationWithTeacher": "AutoModelForImageClassification",
    "ForVideoClassification": "AutoModelForVideoClassification",
    "ForMaskedImageModeling": "AutoModelForMaskedImageModeling",
    "ForObjectDetection": "AutoModelForObjectDetection",
    "ForSemanticSegmentation": "AutoModelForSemanticSegmentation",
    "ForDepthEstimation": "AutoModelForDepthEstimation",
    "ForPreTraining": "AutoModelForPreTraining",
    "Model": "AutoModel",
}


@pytest.mark.parametrize(("host", "name"), MODELS, ids=[name for _, name in MODELS])
def test_auto_classes_bring_it_back(host, name, tmp_path):
    head = next((head for head in sorted(AUTO, key=len, reverse=True) if name.endswith(head)), None)
    if head is None:  # AutoBackbone asks the Hub even for a local folder; from_config is what works offline
        config = sima_hf.patch_model(make(host, name)).config
        assert type(transformers.AutoBackbone.from_config(config)).__name__ == f"SimA{name}"
        return
    model, auto = make(host, name), getattr(transformers, AUTO[head])
    listed = type(model.config) in auto._model_mapping
    sima_hf.patch_model(model).save_pretrained(tmp_path)
    assert (type(model.config) in auto._model_mapping) is listed
    loaded = (auto if listed else type(model)).from_pretrained(tmp_path)
    assert type(loaded).__name__.startswith("SimA")
    _, count = run(loaded.eval(), given(host, name))
    assert count == 0


@pytest.mark.parametrize("host", ["vit", "deit", "dinov2", "ijepa"])
def test_bfloat16(host):
    name = CASES[host][1][0]
    model, inputs = sima_hf.patch_model(make(host, name)), given(host, name)
    expected, _ = run(model, inputs)
    found, count = run(model.to(torch.bfloat16), {"pixel_values": inputs["pixel_values"].bfloat16()})
    assert count == 0
    assert relative_error(found[0], expected[0]) < 0.05


@pytest.mark.parametrize("host", ["vit", "deit", "dinov2"])
def test_compile_in_one_graph(host):
    torch._dynamo.reset()
    name = CASES[host][1][1]
    model, inputs = sima_hf.patch_model(make(host, name)), given(host, name)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs).logits
        torch.testing.assert_close(found, model(**inputs).logits, rtol=1e-4, atol=1e-5)

"""What any Transformers model does, done by this one."""

import copy
import math
import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForImageClassification

from sima_hf import SimAConfig, SimAForImageClassification, SimAModel


def tiny(**kwargs):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_class_attention_layers": 2}
    return SimAConfig(**{**sizes, "num_labels": 5, **kwargs})


def pixels(batch=2, height=48, width=64):
    return torch.randn(batch, 3, height, width)


class Operations(TorchDispatchMode):
    """Names of the operations that run, and shapes of what they make."""

    def __init__(self):
        super().__init__()
        self.names, self.shapes = set(), set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.add(func.name())
        self.shapes |= {
            tuple(r.shape) for r in (result if isinstance(result, (tuple, list)) else [result]) if hasattr(r, "shape")
        }
        return result


@pytest.mark.parametrize("patch_size", [16, 8])
@pytest.mark.parametrize("size", [(32, 32), (48, 80), (50, 67), (1, 1), (16, 200)], ids=str)
def test_any_image_size(size, patch_size):
    model = SimAModel(tiny(patch_size=patch_size)).eval()
    tokens = math.prod(math.ceil(side / patch_size) for side in size)
    with torch.no_grad():
        outputs = model(torch.randn(1, 3, *size))
    assert outputs.last_hidden_state.shape == (1, 1 + tokens, 32)
    assert outputs.last_hidden_state.isfinite().all()


@pytest.mark.parametrize("shape", [(2, 1, 32, 32), (2, 4, 32, 32), (3, 32, 32), (2, 32, 32, 3)], ids=str)
def test_wrong_pixels_are_refused(shape):
    model = SimAForImageClassification(tiny())
    with pytest.raises(ValueError, match=r"must be \(batch, 3, height, width\).*got shape .*"):
        model(torch.randn(shape))


def test_hidden_states_and_attentions():
    model = SimAForImageClassification(tiny()).eval()
    outputs = model(pixels(), output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, 12, 32)] * 3 + [(2, 13, 32)] * 2
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, 4, 12, 12)] * 2 + [(2, 4, 1, 13)] * 2
    plain = model(pixels())
    assert plain.hidden_states is None
    assert plain.attentions is None


def test_maps_are_the_normalised_products():
    """First block, against the paper's formula on the projections themselves."""
    model = SimAForImageClassification(tiny()).double().eval()
    outputs = model(pixels().double(), output_hidden_states=True, output_attentions=True)
    layer = model.sima.layers[0]
    query, key, _ = layer.attention.project(layer.layernorm_attention(outputs.hidden_states[0]))
    expected = torch.einsum("bhic,bhjc->bhij", query / query.abs().sum(2, True), key / key.abs().sum(2, True))
    torch.testing.assert_close(outputs.attentions[0], expected)


def test_maps_are_only_built_when_asked_for():
    model = SimAForImageClassification(tiny()).eval()
    for asked in (False, True):
        with Operations() as operations, torch.no_grad():
            model(pixels(), output_attentions=asked)
        assert any(shape[-2:] == (12, 12) for shape in operations.shapes if len(shape) > 1) is asked


def test_no_softmax_and_no_exp_runs():
    model = SimAForImageClassification(tiny()).eval()
    with Operations() as operations, torch.no_grad():
        model(pixels())
    found = [name for name in operations.names if any(word in name for word in ("softmax", "exp.", "attention"))]
    assert all(name.startswith("sima::") for name in found)
    assert found or "aten::bmm" in operations.names


def test_return_dict_and_loss():
    model = SimAForImageClassification(tiny()).eval()
    images, labels = pixels(), torch.tensor([1, 4])
    outputs = model(images, labels=labels)
    torch.testing.assert_close(outputs.loss, torch.nn.functional.cross_entropy(outputs.logits, labels))
    loss, logits = model(images, labels=labels, return_dict=False)
    assert torch.equal(logits, outputs.logits)
    assert torch.equal(loss, outputs.loss)
    hidden, pooled = model.sima(images, return_dict=False)
    assert torch.equal(hidden[:, 0], pooled)


def test_gain_is_the_number_of_keys():
    """With one SimA block and zero projections elsewhere, the attention's output grows by the number of tokens."""
    attention = SimAModel(tiny(attention_gain="tokens")).layers[0].attention
    hidden_states = torch.randn(2, 30, 32)
    with_gain = attention(hidden_states)[0] - attention.o_proj.bias
    attention.config.attention_gain = "none"
    without = attention(hidden_states)[0] - attention.o_proj.bias
    torch.testing.assert_close(with_gain, 30 * without, rtol=1e-4, atol=1e-6)


def test_drop_path_drops_whole_samples_in_training_only():
    layer = SimAModel(tiny(drop_path_rate=0.4)).layers[0]
    ones = torch.ones(2000, 3, 4)
    assert layer.drop_path.eval()(ones) is ones
    dropped = layer.drop_path.train()(ones)
    values = dropped.flatten(1)
    assert ((values == values[:, :1]).all(dim=1)).all()
    assert {round(value, 4) for value in values[:, 0].tolist()} == {0.0, round(1 / 0.6, 4)}
    assert dropped.mean().item() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("rate", ["drop_path_rate", "hidden_dropout_prob"])
def test_training_is_noisy_and_evaluation_is_not(rate):
    model = SimAForImageClassification(tiny(**{rate: 0.5}))
    images = pixels(8)
    model.train()
    assert not torch.equal(model(images).logits, model(images).logits)
    model.eval()
    assert torch.equal(model(images).logits, model(images).logits)


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["saved-tensors", "reentrant"])
def test_gradient_checkpointing(use_reentrant):
    """Same gradients and same statistics, although every block is computed twice."""
    plain = SimAForImageClassification(tiny()).double().train()
    checkpointed = copy.deepcopy(plain)
    enable = (
        getattr(checkpointed, "activation_checkpointing_enable", None) or checkpointed.gradient_checkpointing_enable
    )
    enable({"use_reentrant": use_reentrant})
    runs = []
    for block in (*checkpointed.sima.layers, *checkpointed.sima.class_attention_layers):
        block.mlp.register_forward_pre_hook(lambda module, args: runs.append(module))
    images = pixels(4).double()
    for model in (plain, checkpointed):
        model(images, labels=torch.tensor([0, 1, 2, 3])).loss.backward()
    assert len(runs) == 2 * 4
    for (name, expected), found in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)
    for (name, expected), found in zip(plain.named_buffers(), checkpointed.buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)


def test_save_and_load_twice_is_bit_equal(tmp_path):
    model = SimAForImageClassification(tiny(attention_gain="tokens")).eval()
    model(pixels(4))
    images = pixels()
    first = model(images).logits
    model.save_pretrained(tmp_path / "one")
    again = AutoModelForImageClassification.from_pretrained(tmp_path / "one")
    again.save_pretrained(tmp_path / "two")
    twice = SimAForImageClassification.from_pretrained(tmp_path / "two")
    assert torch.equal(twice.eval()(images).logits, first)
    assert twice.config.to_diff_dict() | {"_name_or_path": ""} == again.config.to_diff_dict() | {"_name_or_path": ""}
    assert [path.name for path in (tmp_path / "two").glob("*.bin")] == []


def test_base_model_from_a_classifiers_folder_and_back(tmp_path):
    classifier = SimAForImageClassification(tiny()).eval()
    classifier.save_pretrained(tmp_path / "classifier")
    base, report = SimAModel.from_pretrained(tmp_path / "classifier", output_loading_info=True)
    assert not report["missing_keys"]
    images = pixels()
    assert torch.equal(base.eval()(images).pooler_output, classifier.sima(images).pooler_output)
    base.save_pretrained(tmp_path / "base")
    again, report = SimAForImageClassification.from_pretrained(tmp_path / "base", output_loading_info=True)
    assert set(report["missing_keys"]) == {"classifier.weight", "classifier.bias"}
    assert torch.equal(again.eval().sima(images).pooler_output, classifier.sima(images).pooler_output)


def test_missing_tensors_are_initialized_and_loaded_ones_kept(tmp_path):
    model = SimAForImageClassification(tiny())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(7)
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    gone = [
        "sima.class_token",
        "sima.layers.0.attention.q_proj.bias",
        "sima.layers.1.layer_scale_mlp",
        "sima.layers.0.interaction.norm.running_var",
        "sima.embeddings.patch_embeddings.layers.0.convolution.weight",
    ]
    save_file(
        {key: tensor for key, tensor in tensors.items() if key not in gone},
        tmp_path / "model.safetensors",
        {"format": "pt"},
    )
    loaded = SimAForImageClassification.from_pretrained(tmp_path).state_dict()
    for name, expected in model.state_dict().items():
        if name not in gone:
            assert torch.equal(loaded[name], expected), name
    assert 0 < loaded["sima.class_token"].abs().max() < 0.2
    assert (loaded["sima.layers.0.attention.q_proj.bias"] == 0).all()
    assert (loaded["sima.layers.1.layer_scale_mlp"] == 1).all()
    assert (loaded["sima.layers.0.interaction.norm.running_var"] == 1).all()
    assert loaded["sima.embeddings.patch_embeddings.layers.0.convolution.weight"].abs().max() < 1


def test_initialization_is_the_originals():
    config = SimAConfig.from_variant("sima_tiny_24_p8", num_hidden_layers=2)
    model = SimAForImageClassification(config)
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.02, rel=0.05), name
            assert (module.bias == 0).all(), name
        elif isinstance(module, torch.nn.Conv2d):  # torch's default: uniform with bound 1 / sqrt(fan in)
            bound = 1 / math.sqrt(module.weight[0].numel())
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
            assert module.weight.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
            if module.bias is not None:
                assert 0.9 * bound < module.bias.abs().max() <= bound, name
        elif isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)):
            assert (module.weight == 1).all(), name
            assert (module.bias == 0).all(), name
    scales = [p for name, p in model.named_parameters() if "layer_scale" in name]
    assert len(scales) == 2 * 3 + 2 * 2
    assert all(torch.equal(scale, torch.full_like(scale, 1e-5)) for scale in scales)
    assert model.sima.class_token.std().item() == pytest.approx(0.02, rel=0.25)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_inference(tmp_path, dtype):
    model = SimAForImageClassification(tiny()).eval()
    model.save_pretrained(tmp_path)
    narrow = SimAForImageClassification.from_pretrained(tmp_path, dtype=dtype).eval()
    images = pixels()
    logits = narrow(images).logits  # float32 pixels are cast, as by ViT
    assert logits.dtype == dtype
    assert (logits.float() - model(images).logits).norm() < 0.05 * model(images).logits.norm()


@pytest.mark.parametrize("name", ["sdpa", "flash_attention_2", "flex_attention", "paged|eager", "made_up"])
def test_softmax_is_refused(name, tmp_path):
    model = SimAForImageClassification(tiny())
    with pytest.raises(ValueError, match="computes SimA attention"):
        model.set_attn_implementation(name)
    with pytest.raises(ValueError, match="computes SimA attention"):
        AutoModelForImageClassification.from_config(tiny(), attn_implementation=name)
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="computes SimA attention"):
        AutoModelForImageClassification.from_pretrained(tmp_path, attn_implementation=name)
    assert model.config._attn_implementation == "sima"


def test_softmax_written_into_the_config_is_refused_at_the_call():
    model = SimAForImageClassification(tiny()).eval()
    model.config._attn_implementation = "sdpa"
    with pytest.raises(ValueError, match="computes SimA attention"):
        model(pixels())


@pytest.mark.parametrize("name", ["eager", "sima_eager", "sima_reference"])
def test_simas_own_backends_agree(name, tmp_path):
    model = SimAForImageClassification(tiny(attention_gain="tokens")).eval()
    model.save_pretrained(tmp_path)
    other = SimAForImageClassification.from_pretrained(tmp_path, attn_implementation=name).eval()
    assert other.config._attn_implementation == name
    images = pixels()
    ours, theirs = (m(images, output_attentions=True, output_hidden_states=True) for m in (model, other))
    torch.testing.assert_close(theirs.logits, ours.logits, rtol=1e-4, atol=1e-6)
    for found, expected in zip(theirs.attentions, ours.attentions, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    other.save_pretrained(tmp_path / "again")
    assert SimAForImageClassification.from_pretrained(tmp_path / "again").config._attn_implementation == "sima"


@pytest.mark.slow
def test_compile_in_one_graph():
    torch._dynamo.reset()
    model = SimAForImageClassification(tiny()).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((48, 64), (32, 32), (80, 50)):
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(images).logits, model(images).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_compiled_training_step():
    torch._dynamo.reset()
    model = SimAForImageClassification(tiny()).train()
    twin = copy.deepcopy(model)
    images, labels = pixels(4), torch.tensor([0, 1, 2, 3])
    torch.compile(model, fullgraph=True, backend="aot_eager")(images, labels=labels).loss.backward()
    twin(images, labels=labels).loss.backward()
    for (name, expected), found in zip(twin.named_parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)
    for (name, expected), found in zip(twin.named_buffers(), model.buffers(), strict=True):
        torch.testing.assert_close(found, expected, msg=name)


@pytest.mark.slow
def test_export_with_dynamic_batch_and_resolution():
    model = SimAForImageClassification(tiny()).eval()
    dynamic = {0: torch.export.Dim("batch"), 2: 16 * torch.export.Dim("rows"), 3: 16 * torch.export.Dim("columns")}
    program = torch.export.export(model, (pixels(3),), dynamic_shapes={"pixel_values": dynamic}).module()
    for batch, height, width in ((1, 48, 64), (5, 160, 32)):
        images = pixels(batch, height, width)
        torch.testing.assert_close(program(images).logits, model(images).logits, rtol=1e-4, atol=1e-5)


def test_synchronized_batch_norm_keeps_the_keys():
    model = SimAForImageClassification(tiny())
    converted = torch.nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(model))
    assert any(isinstance(module, torch.nn.SyncBatchNorm) for module in converted.modules())
    converted.load_state_dict(model.state_dict())
    assert list(converted.state_dict()) == list(model.state_dict())


def test_deepcopy_and_pickle():
    model = SimAForImageClassification(tiny()).eval()
    images = pixels()
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(images).logits, model(images).logits)

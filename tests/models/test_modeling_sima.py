"""What any Transformers model does, done by this one."""

import copy
import math
import pickle
from pathlib import Path

import fixture_recipe
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    Trainer,
    VisionTextDualEncoderConfig,
    VisionTextDualEncoderModel,
)

from sima_hf import SimABackbone, SimAConfig, SimAForImageClassification, SimAModel, convert_original_state_dict
from sima_hf.models.sima.convert_sima import original_name


FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"


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

    def of_softmax(self):
        """Those that exponentiate or normalise as softmax does, or that are attention of torch's own."""
        return {
            name
            for name in self.names
            if name in ("exp", "exp_", "exp2", "expm1", "logsumexp") or "softmax" in name or "attention" in name
        }

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.names.add(func.name().split("::")[1].split(".")[0])
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
    with pytest.raises(ValueError, match=r"must be \(batch, 3, height, width\).*but shape .* came"):
        model(torch.randn(shape))


def test_other_numbers_of_channels():
    assert SimAForImageClassification(tiny(num_channels=1))(torch.randn(2, 1, 32, 32)).logits.shape == (2, 5)


def test_hidden_states_and_attentions():
    model = SimAForImageClassification(tiny()).eval()
    outputs = model(pixels(), output_hidden_states=True, output_attentions=True)
    assert [tuple(h.shape) for h in outputs.hidden_states] == [(2, 12, 32)] * 3 + [(2, 13, 32)] * 2
    assert [tuple(a.shape) for a in outputs.attentions] == [(2, 4, 12, 12)] * 2 + [(2, 4, 1, 13)] * 2
    plain = model(pixels())
    assert plain.hidden_states is None
    assert plain.attentions is None


def test_attentions_by_config():
    model = SimAForImageClassification(tiny(output_attentions=True, output_hidden_states=True)).eval()
    outputs = model(pixels())
    assert len(outputs.attentions) == 4
    assert len(outputs.hidden_states) == 5


def test_maps_are_the_normalised_products():
    """First block, against the paper's formula on the projections themselves."""
    model = SimAForImageClassification(tiny()).double().eval()
    outputs = model(pixels().double(), output_hidden_states=True, output_attentions=True)
    layer = model.sima.layers[0]
    query, key, _ = layer.attention.project(layer.layernorm_attention(outputs.hidden_states[0]))
    expected = torch.einsum("bhic,bhjc->bhij", query / query.abs().sum(2, True), key / key.abs().sum(2, True))
    torch.testing.assert_close(outputs.attentions[0], expected)


@pytest.mark.parametrize("implementation", ["eager", "sima", "sima_reference"])
@pytest.mark.parametrize("gain", ["none", "tokens"])
def test_maps_times_values_are_the_attentions_output(gain, implementation):
    """Of both kinds of attention: what a map shows is what was done."""
    model = SimAModel(tiny(attention_gain=gain)).double().eval()
    model.set_attn_implementation(implementation)
    hidden_states = torch.randn(2, 12, 32).double()
    for attention in (model.layers[0].attention, model.class_attention_layers[0].attention):
        output, attentions = attention(hidden_states, output_attentions=True)
        _, _, value = attention.project(hidden_states)
        merged = (attentions @ value).transpose(1, 2).flatten(2)
        assert merged.shape == output.shape
        torch.testing.assert_close(attention.o_proj(merged), output)


@pytest.mark.parametrize("training", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize("asked", [False, True], ids=["not-asked", "asked"])
def test_maps_are_only_built_when_asked_for(asked, training):
    """12 patches and 13 tokens, numbers that no other axis has twice: neither forward nor backward makes an N x N tensor."""
    model = SimAForImageClassification(tiny()).train(training)
    with Operations() as operations, torch.set_grad_enabled(training):
        outputs = model(pixels(), labels=torch.tensor([0, 1]), output_attentions=asked)
        if training:
            outputs.loss.backward()
    squares = [shape for shape in operations.shapes if shape.count(12) > 1 or shape.count(13) > 1]
    assert bool(squares) is asked, squares


def test_softmax_would_be_noticed():
    """The check of the tests below, on what it must find."""
    query = torch.randn(1, 1, 4, 8)
    for compute, name in (
        (lambda: query.exp(), "exp"),
        (lambda: query.softmax(-1), "_softmax"),
        (lambda: torch.nn.functional.scaled_dot_product_attention(query, query, query), "attention"),
        (lambda: query.expand(2, 1, 4, 8), None),
    ):
        with Operations() as operations:
            compute()
        found = operations.of_softmax()
        assert any(name in one for one in found) if name else not found


@pytest.mark.parametrize("output_attentions", [False, True], ids=["plain", "with-maps"])
@pytest.mark.parametrize("implementation", ["eager", "sima", "sima_eager", "sima_reference"])
def test_no_softmax_and_no_exp_runs(implementation, output_attentions):
    for model in (SimAForImageClassification(tiny()), SimABackbone(tiny())):
        model.set_attn_implementation(implementation)
        with Operations() as operations:
            outputs = model.train()(pixels(), output_attentions=output_attentions)
            (outputs.logits if "logits" in outputs else outputs.feature_maps[0]).square().sum().backward()
            with torch.no_grad():
                model.eval()(pixels(), output_attentions=output_attentions)
        assert operations.of_softmax() == set()
        assert "bmm" in operations.names


def test_an_implementation_written_into_the_config_runs_no_softmax():
    """Scripts do this, and assigning to a composite model's config does it to every part: loud, or still SimA."""
    model = SimAForImageClassification(tiny()).eval()
    model.config._attn_implementation = "sdpa"
    with Operations() as operations, torch.no_grad():
        try:
            model(pixels())
        except ValueError as error:
            assert "computes SimA attention" in str(error)
    assert operations.of_softmax() == set()


def test_inside_a_composite_model_it_stays_sima(tmp_path):
    """Whose other half takes "sdpa" by default, through saving and loading."""
    text = BertConfig(hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=50)
    config = VisionTextDualEncoderConfig(vision_config=tiny().to_dict(), text_config=text.to_dict())
    first = VisionTextDualEncoderModel(config).eval()
    first.save_pretrained(tmp_path)
    images = pixels()
    for model in (first, VisionTextDualEncoderModel.from_pretrained(tmp_path).eval()):
        assert type(model.vision_model) is SimAModel
        with pytest.raises(ValueError, match="SimAModel computes SimA attention"):
            model.set_attn_implementation("sdpa")
        with Operations() as operations, torch.no_grad():
            pooled = model.vision_model(images).pooler_output
        assert operations.of_softmax() == set()
        assert torch.equal(pooled, first.vision_model(images).pooler_output)
    with pytest.raises(ValueError, match="SimAModel computes SimA attention"):
        VisionTextDualEncoderModel.from_pretrained(tmp_path, attn_implementation="sdpa")


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


@pytest.mark.parametrize(
    ("problem_type", "num_labels", "labels", "loss"),
    [
        ("regression", 1, torch.tensor([0.5, -2.0]), lambda logits, y: (logits[:, 0] - y).square().mean()),
        ("single_label_classification", 5, torch.tensor([0, 3]), torch.nn.functional.cross_entropy),
        (
            "multi_label_classification",
            5,
            torch.tensor([[0.0, 1, 0, 1, 1], [1, 0, 0, 0, 1]]),
            torch.nn.functional.binary_cross_entropy_with_logits,
        ),
    ],
    ids=["regression", "single-label", "multi-label"],
)
@pytest.mark.parametrize("named", [True, False], ids=["named", "guessed"])
def test_problem_types(problem_type, num_labels, labels, loss, named):
    """Named in the config, or told by the labels' dtype as in every Transformers model."""
    model = SimAForImageClassification(tiny(problem_type=problem_type if named else None, num_labels=num_labels))
    outputs = model(pixels(), labels=labels)
    torch.testing.assert_close(outputs.loss, loss(outputs.logits, labels))
    outputs.loss.backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_gain_is_the_number_of_keys():
    """With one SimA block and zero projections elsewhere, the attention's output grows by the number of tokens."""
    attention = SimAModel(tiny(attention_gain="tokens")).layers[0].attention
    hidden_states = torch.randn(2, 30, 32)
    with_gain = attention(hidden_states)[0] - attention.o_proj.bias
    attention.config.attention_gain = "none"
    without = attention(hidden_states)[0] - attention.o_proj.bias
    torch.testing.assert_close(with_gain, 30 * without, rtol=1e-4, atol=1e-6)


def test_one_head():
    model = SimAForImageClassification(tiny(num_attention_heads=1)).eval()
    outputs = model(pixels(), output_attentions=True)
    assert outputs.attentions[0].shape == (2, 1, 12, 12)
    assert model.num_parameters() == SimAForImageClassification(tiny()).num_parameters()


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


@pytest.mark.parametrize("use_reentrant", [False, True], ids=["saved-tensors", "reentrant"])
@pytest.mark.parametrize("rate", ["drop_path_rate", "hidden_dropout_prob"])
def test_gradient_checkpointing_draws_the_same_noise_again(rate, use_reentrant):
    plain = SimAForImageClassification(tiny(**{rate: 0.5})).double().train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
    images = pixels(6).double()
    for model in (plain, checkpointed):
        torch.manual_seed(3)
        model(images).logits.square().sum().backward()
    for (name, expected), found in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, msg=name)


def test_compiled_gradient_checkpointing_keeps_the_statistics():
    torch._dynamo.reset()
    plain = SimAForImageClassification(tiny(num_hidden_layers=1, num_class_attention_layers=1)).train()
    checkpointed = copy.deepcopy(plain)
    checkpointed.gradient_checkpointing_enable({"use_reentrant": False})
    images = pixels(4)
    plain(images).logits.square().sum().backward()
    torch.compile(checkpointed, fullgraph=True, backend="aot_eager")(images).logits.square().sum().backward()
    for (name, expected), found in zip(plain.named_parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-3, atol=1e-5, msg=name)
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


def test_other_number_of_labels(tmp_path):
    SimAForImageClassification(tiny()).save_pretrained(tmp_path)
    with pytest.raises(RuntimeError, match="ignore_mismatched_sizes"):
        SimAForImageClassification.from_pretrained(tmp_path, num_labels=7)
    model, report = SimAForImageClassification.from_pretrained(
        tmp_path, num_labels=7, ignore_mismatched_sizes=True, output_loading_info=True
    )
    assert model(pixels()).logits.shape == (2, 7)
    assert {entry[0] for entry in report["mismatched_keys"]} == {"classifier.weight", "classifier.bias"}
    assert not report["missing_keys"]


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


def test_missing_tensors_are_initialised_and_loaded_ones_kept(tmp_path):
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


def test_initialisation_is_the_originals():
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


def test_a_model_made_on_the_meta_device_is_complete_once_initialised(tmp_path):
    with torch.device("meta"):
        model = SimAForImageClassification(tiny())
    assert all(tensor.is_meta for tensor in model.state_dict().values())
    model.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.fill_(9)  # what memory held before
    for module in model.modules():
        module._is_hf_initialized = False
    model.init_weights()
    assert all(tensor.abs().max() <= 1 for tensor in model.state_dict().values())
    model.save_pretrained(tmp_path)
    loaded = SimAForImageClassification.from_pretrained(tmp_path)
    assert {name for name, _ in loaded.named_buffers()} <= loaded.state_dict().keys()  # none that loading leaves empty
    assert torch.equal(loaded.eval()(ones := torch.ones(1, 3, 32, 32)).logits, model.eval()(ones).logits)
    assert loaded(ones).logits.isfinite().all()


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
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", ["sima", "sima_eager", "sima_reference"])
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
    assert SimAForImageClassification.from_pretrained(tmp_path / "again").config._attn_implementation == "eager"


def test_compile_in_one_graph():
    torch._dynamo.reset()
    model = SimAForImageClassification(tiny()).eval()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        for size in ((48, 64), (32, 32), (80, 50)):
            images = torch.randn(2, 3, *size)
            torch.testing.assert_close(compiled(images).logits, model(images).logits, rtol=1e-4, atol=1e-5)


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


def test_export_with_dynamic_batch_and_resolution():
    model = SimAForImageClassification(tiny()).eval()
    dynamic = {0: torch.export.Dim("batch"), 2: 16 * torch.export.Dim("rows"), 3: 16 * torch.export.Dim("columns")}
    program = torch.export.export(model, (pixels(3),), dynamic_shapes={"pixel_values": dynamic}).module()
    for batch, height, width in ((1, 48, 64), (5, 160, 32)):
        images = pixels(batch, height, width)
        torch.testing.assert_close(program(images).logits, model(images).logits, rtol=1e-4, atol=1e-5)


def test_weight_decay_groups():
    model = SimAForImageClassification(tiny())
    decayed = set(Trainer.get_decay_parameter_names(None, model))
    for name, module in model.named_modules():
        for parameter, _ in module.named_parameters(recurse=False):
            full = f"{name}.{parameter}" if name else parameter
            if parameter == "bias" or isinstance(module, (torch.nn.LayerNorm, torch.nn.BatchNorm2d)):
                assert full not in decayed
            elif isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                assert full in decayed


def test_synchronised_batch_norm_keeps_the_keys():
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


@pytest.mark.parametrize("variant", ["sima_nano_12_p16", "sima_tiny_12_p8"])
def test_gradients_that_the_fixtures_hold_in_full(variant):
    """Number by number, where tests/models/test_fixtures_sima.py compares summaries."""
    fixture = fixture_recipe.load(variant, FIXTURES)
    model = SimAForImageClassification(SimAConfig.from_variant(variant))
    model.load_state_dict(convert_original_state_dict(fixture_recipe.state_dict(fixture)))
    logits = model.double().train()(fixture_recipe.pixel_values(fixture["training"]["input"]).double()).logits
    (logits * fixture_recipe.direction("loss", logits.shape).double()).sum().backward()
    assert fixture_recipe.relative_error(logits, fixture["tensors"]["training/train_logits64"]) < 1e-9

    found = {}
    for name, parameter in model.named_parameters():
        found.setdefault(f"training/grad64/{original_name(name)}", []).append(parameter.grad)
    for name, buffer in model.named_buffers():
        found.setdefault(f"training/after64/{original_name(name)}", []).append(buffer)
    expected = {
        name: tensor
        for name, tensor in fixture["tensors"].items()
        if name.startswith(("training/grad64/", "training/after64/"))
    }
    assert len(expected) == 9
    for name, tensor in expected.items():
        ours = torch.cat(found[name])
        assert (ours - tensor).abs().max() < 1e-9 * tensor.square().mean().sqrt(), name

"""The swap as an act: what it keeps, what it refuses, and that nothing else in the process notices."""

import pytest
import torch
from transformers import (
    AutoModelForImageClassification,
    CLIPTextModel,
    LlamaConfig,
    LlamaForCausalLM,
    ResNetConfig,
    ResNetModel,
    ViTForImageClassification,
    ViTModel,
)

import sima_hf
from sima_hf.errors import UnsupportedModelError
from tests.helpers.hosts.at_hand import given, logits, make, vit


def test_it_is_the_same_object_with_a_config_of_its_own():
    """Two models made from one config object: patching one leaves the other as it was."""
    one = vit()
    two = ViTForImageClassification(one.config).eval()
    expected = logits(two)
    config, saved = one.config, one.config.to_dict()
    assert sima_hf.patch_model(one) is one
    assert torch.equal(logits(two), expected)
    assert two.config is config
    assert config.to_dict() == saved
    assert one.config is not config
    assert all(module.config is one.config for module in one.modules() if hasattr(module, "config"))
    three = vit()
    assert type(three) is ViTForImageClassification
    assert three.config._attn_implementation == "sdpa"


def test_again_changes_gain_and_backend_only():
    model = sima_hf.patch_model(vit())
    config, cls, tokens = model.config, type(model), logits(model)
    assert sima_hf.patch_model(model) is model
    assert (type(model), model.config) == (cls, config)
    assert torch.equal(logits(model), tokens)
    sima_hf.patch_model(model, gain="none", backend="reference")
    assert model.config.attention_gain == "none"
    assert model.config._attn_implementation == "sima_reference"
    assert not torch.allclose(logits(model), tokens)
    sima_hf.unpatch_model(model)
    assert type(model) is ViTForImageClassification


def test_a_model_with_a_swapped_part_is_swapped_whole(tmp_path):
    """Whoever patched the inner model first does not save a softmax type by patching the outer one."""
    model, whole = vit(), sima_hf.patch_model(vit())
    inner = type(model.vit)
    sima_hf.patch_model(model.vit)
    assert type(model) is ViTForImageClassification
    with sima_hf.patched(model):
        assert model.config.model_type == "sima_vit"
    assert type(model) is ViTForImageClassification
    assert type(model.vit).__name__ == "SimAViTModel"
    sima_hf.patch_model(model)
    assert type(model).__name__ == "SimAViTForImageClassification"
    assert torch.equal(logits(model), logits(whole))
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForImageClassification.from_pretrained(tmp_path).eval()), logits(whole))
    sima_hf.unpatch_model(model)
    assert type(model) is ViTForImageClassification
    assert type(sima_hf.unpatch_model(model.vit)) is inner


def test_gain_none_is_tokens_over_the_number_of_keys():
    model = sima_hf.patch_model(vit(num_hidden_layers=1))
    inputs = given("vit", "")
    for parameter in model.vit.layers[0].attention.o_proj.parameters():
        parameter.data.mul_(5)
    with torch.no_grad():
        maps = [
            sima_hf.patch_model(model, gain=gain)(**inputs, output_attentions=True).attentions[0]
            for gain in ("tokens", "none")
        ]
    torch.testing.assert_close(maps[0], 17 * maps[1])


@pytest.mark.parametrize("model", [torch.nn.Linear(2, 2), "vit", None], ids=["module", "text", "none"])
def test_not_a_transformers_model(model):
    with pytest.raises(TypeError, match="takes a Transformers model"):
        sima_hf.patch_model(model)


class Tower(ViTModel):
    """A subclass from outside Transformers, whose forward may do anything."""


def vit_in_an_outside_class():
    model = vit()
    model.vit.__class__ = Tower
    return model


def vit_with_another_model_inside():
    model = vit()
    model.extra = LlamaForCausalLM(
        LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    )
    return model


def vit_without_attention():
    model = vit()
    for layer in model.vit.layers:
        layer.attention = torch.nn.Identity()
    return model


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            lambda: ResNetModel(ResNetConfig(embedding_size=8, hidden_sizes=[8], depths=[1])),
            "'resnet' is not among the",
        ),
        (
            lambda: LlamaForCausalLM(
                LlamaConfig(
                    hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9
                )
            ),
            "'llama' is not among",
        ),
        (
            lambda: type("MyViT", (ViTForImageClassification,), {})(vit().config),
            "MyViT is not one of Transformers' own",
        ),
        (vit_in_an_outside_class, "'vit' in this ViTForImageClassification is a Tower"),
        (vit_with_another_model_inside, "holds a 'llama' model as 'extra'"),
        (vit_without_attention, "No attention to swap was found"),
        (
            lambda: CLIPTextModel(make("clip", "CLIPModel").config.text_config),
            "'clip_text_model' cannot be swapped to SimA: it is a causal text tower",
        ),
    ],
    ids=["cnn", "text", "subclass", "subclass-inside", "stranger-inside", "no-attention", "text-tower"],
)
def test_refusals_leave_the_model_untouched(model, words):
    model = model()
    cls, config, types = type(model), model.config, [type(part) for part in model.modules()]
    with pytest.raises(UnsupportedModelError, match=words):
        sima_hf.patch_model(model)
    assert [type(part) for part in model.modules()] == types
    assert type(model) is cls
    assert model.config is config


@pytest.mark.parametrize(
    ("model_type", "words"),
    [
        ("mobilevitv2", "softmax over the tokens of one channel"),
        ("florence2", "over channels"),
        ("perceiver", "50,176"),
        ("dinov2x", "Similar names that can: dinov2"),
    ],
)
def test_reasons(model_type, words):
    from sima_hf.patching.hosts import find_host

    with pytest.raises(UnsupportedModelError, match=words):
        find_host(model_type)


@pytest.mark.parametrize(
    ("options", "words"), [({"gain": "all"}, "`gain` must be"), ({"backend": "cuda"}, "`backend` must be")]
)
def test_wrong_options_leave_the_model_untouched(options, words):
    model = vit()
    with pytest.raises(ValueError, match=words):
        sima_hf.patch_model(model, **options)
    assert type(model) is ViTForImageClassification


def test_a_failure_in_the_middle_leaves_the_model_untouched(monkeypatch):
    from sima_hf.patching import patch as swap

    def fail(plan):
        raise RuntimeError("broken")

    model = vit()
    config, expected = model.config, logits(model)
    monkeypatch.setattr(swap, "convert", fail)
    with pytest.raises(RuntimeError, match="broken"):
        sima_hf.patch_model(model)
    assert (type(model), type(model.vit)) == (ViTForImageClassification, ViTModel)
    assert model.config is config
    assert torch.equal(logits(model), expected)


def test_patched_for_the_length_of_a_block():
    model = vit()
    expected = logits(model)
    with sima_hf.patched(model, gain="none") as same:
        assert same is model
        assert not torch.equal(logits(model), expected)
    assert torch.equal(logits(model), expected)
    with pytest.raises(KeyError), sima_hf.patched(model):
        raise KeyError
    assert torch.equal(logits(model), expected)
    sima_hf.patch_model(model, gain="none")
    with sima_hf.patched(model, gain="tokens"):
        assert model.config.attention_gain == "tokens"
    assert model.config.attention_gain == "none"
    assert type(model).__name__ == "SimAViTForImageClassification"


def test_optimizer_hooks_and_tied_weights_survive():
    model = vit()
    model.vit.layers[1].attention.q_proj.weight = model.vit.layers[0].attention.q_proj.weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    seen = []
    model.vit.layers[0].register_forward_hook(lambda module, args, output: seen.append(output.shape))
    sima_hf.patch_model(model)
    before = model.classifier.weight.clone()
    model(**given("vit", ""), labels=torch.tensor([0, 2])).loss.backward()
    optimizer.step()
    assert seen == [(2, 17, 32)]
    assert not torch.equal(model.classifier.weight, before)
    assert model.vit.layers[1].attention.q_proj.weight is model.vit.layers[0].attention.q_proj.weight


@pytest.mark.parametrize("name", ["sdpa", "flash_attention_2", "made_up"])
def test_softmax_cannot_be_chosen_when_it_is_loaded(name, tmp_path):
    model = sima_hf.patch_model(vit())
    model.save_pretrained(tmp_path)
    again = AutoModelForImageClassification.from_pretrained(tmp_path, attn_implementation="sima_eager")
    assert again.config._attn_implementation == "sima_eager"
    with pytest.raises(ValueError, match="turn it back to softmax"):
        AutoModelForImageClassification.from_pretrained(tmp_path, attn_implementation=name)
    with pytest.raises(ValueError, match="turn it back to softmax"):
        AutoModelForImageClassification.from_config(model.config, attn_implementation=name)


def test_a_wrong_gain_in_a_config_is_refused():
    config = sima_hf.patch_model(vit()).config
    with pytest.raises(ValueError, match="`gain` must be"):
        type(config)(attention_gain="much")

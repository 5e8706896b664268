"""What users do to a model while it is SimA, and what is left of it when the model is turned back."""

import copy
import pickle

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from transformers import CLIPVisionModel
from transformers.utils import logging

import sima_hf
from sima_hf.patching import undo
from tests.helpers.hosts.at_hand import given, logits, make, vit


SWINV2 = "swinv2", "Swinv2Model"
LLAVA = "llava", "LlavaForConditionalGeneration"


@torch.no_grad()
def run(model, case):
    return model(**given(*case)).last_hidden_state


def state_of(model):
    """All that the swap may change: class, attributes and configs of every module."""
    return [(module, type(module), dict(vars(module))) for module in model.modules()]


@pytest.fixture
def warnings_of(caplog):
    logging.get_logger("sima_hf").propagate = True
    logging.enable_propagation()
    yield caplog
    logging.disable_propagation()


# Copies that were made while the model was SimA.


def test_adapters_with_modules_to_save_are_turned_back():
    peft = pytest.importorskip("peft", reason="pip install peft")
    model = vit()
    softmax = logits(model)
    sima_hf.patch_model(model)
    sima = logits(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["fc1"], modules_to_save=["attention"]))
    adapted.eval()
    assert torch.equal(logits(adapted), sima)
    sima_hf.unpatch_model(model)
    assert torch.equal(logits(adapted), softmax)
    assert sima_hf.certify(adapted, given("vit", "")).count == 2


@pytest.mark.parametrize("case", [("vit", "ViTModel"), ("deit", "DeiTModel")], ids=["vit", "deit"])
def test_layers_grown_by_deepcopy_are_turned_back(case):
    model, plain = make(*case), make(*case)
    sima_hf.patch_model(model)
    for one in (model, plain):
        one.layers.append(copy.deepcopy(one.layers[0]))
    assert not torch.allclose(run(model, case), run(plain, case), atol=1e-3)
    sima_hf.unpatch_model(model)
    assert torch.equal(run(model, case), run(plain, case))
    model.set_attn_implementation("eager")
    assert sima_hf.certify(model, given(*case)).count == 3
    sima_hf.patch_model(model)
    assert sima_hf.certify(model, given(*case)).count == 0


def test_blocks_with_code_of_their_own_grown_by_deepcopy_are_turned_back():
    model, plain = sima_hf.patch_model(make(*SWINV2)), make(*SWINV2)
    for one in (model, plain):
        blocks = one.encoder.layers[0].blocks
        blocks.append(copy.deepcopy(blocks[0]))
    sima_hf.unpatch_model(model)
    assert [type(module) for module in model.modules()] == [type(module) for module in plain.modules()]
    assert not any("sima_config" in vars(module) for module in model.modules())
    assert torch.equal(run(model, SWINV2), run(plain, SWINV2))


def test_a_grown_layer_of_the_encoder_alone_is_turned_back():
    case = "detr", "DetrModel"
    model, plain = sima_hf.patch_model(make(*case)), make(*case)
    for one in (model, plain):
        one.encoder.layers.append(copy.deepcopy(one.encoder.layers[0]))
    sima_hf.unpatch_model(model)
    assert not any("SimA" in type(held).__name__ for module in model.modules() for held in vars(module).values())
    assert torch.equal(run(model, case), run(plain, case))


def test_a_softmax_layer_put_in_and_patched_again():
    model, plain, fresh = vit(), vit(), vit(num_hidden_layers=3).vit.layers[2]
    plain.vit.layers.append(copy.deepcopy(fresh))
    sima_hf.patch_model(model)
    model.vit.layers.append(fresh)
    assert sima_hf.certify(model, given("vit", "")).count == 1
    with sima_hf.patched(model):
        assert sima_hf.certify(model, given("vit", "")).count == 0
    assert sima_hf.certify(model, given("vit", "")).count == 1
    sima_hf.patch_model(model)
    assert sima_hf.certify(model, given("vit", "")).count == 0
    sima_hf.unpatch_model(model)
    assert torch.equal(logits(model), logits(plain))
    assert type(model.config).__name__ == "ViTConfig"
    assert all(type(layer.attention.config).__name__ == "ViTConfig" for layer in model.vit.layers)


def test_a_tower_exchanged_and_patched_again():
    model, plain = sima_hf.patch_model(make(*LLAVA)), make(*LLAVA)
    torch.manual_seed(5)
    plain.model.vision_tower = CLIPVisionModel(plain.config.vision_config).eval()
    model.model.vision_tower = copy.deepcopy(plain.model.vision_tower)
    sima_hf.patch_model(model)
    assert sima_hf.certify(model, given(*LLAVA)).in_swapped == ()
    sima_hf.unpatch_model(model)
    with torch.no_grad():
        assert torch.equal(model(**given(*LLAVA)).logits, plain(**given(*LLAVA)).logits)
    assert type(model.config.vision_config).__name__ == "CLIPVisionConfig"


def test_a_part_loaded_as_sima_and_put_in_since_is_refused():
    model = sima_hf.patch_model(vit())
    model.extra = sima_hf.patch_model(make("swin", "SwinModel"))
    before = state_of(model)
    with pytest.raises(ValueError, match=r"'extra' in this model came into it after the swap.*Take it out"):
        sima_hf.unpatch_model(model)
    assert state_of(model) == before
    del model.extra
    assert type(sima_hf.unpatch_model(model)).__name__ == "ViTForImageClassification"


# Classes that torch made over SimA's.


class Limit(nn.Module):
    def forward(self, x):
        return x.clamp(max=4.0)


def test_parametrize_after_the_patch():
    model, plain = sima_hf.patch_model(make(*SWINV2)), make(*SWINV2)
    for one in (model, plain):
        block = one.encoder.layers[0].blocks[0]
        parametrize.register_parametrization(block.attention.self, "logit_scale", Limit())
        parametrizations.weight_norm(block.intermediate.dense, "weight")
    sima_hf.unpatch_model(model)
    attention = model.encoder.layers[0].blocks[0].attention.self
    assert type(attention).__name__ == "ParametrizedSwinv2SelfAttention"
    assert torch.equal(run(model, SWINV2), run(plain, SWINV2))
    parametrize.remove_parametrizations(attention, "logit_scale")
    assert type(attention).__name__ == "Swinv2SelfAttention"


def test_weight_norm_on_a_pooling_head_after_the_patch():
    case = "siglip_vision_model", "SiglipVisionModel"
    model, plain = sima_hf.patch_model(make(*case)), make(*case)
    for one in (model, plain):
        parametrizations.weight_norm(one.head.attention, "in_proj_weight")
    sima_hf.unpatch_model(model)
    with torch.no_grad():
        assert torch.equal(model(**given(*case)).pooler_output, plain(**given(*case)).pooler_output)


def test_fully_sharded_after_the_patch():
    fsdp = pytest.importorskip("torch.distributed.fsdp")
    if not hasattr(fsdp, "fully_shard"):
        pytest.skip("this torch has no fully_shard")
    from torch.distributed.device_mesh import init_device_mesh

    model, other = vit(), sima_hf.patch_model(vit())
    softmax = logits(model)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        mesh = init_device_mesh("cpu", (1,))
        for one in (sima_hf.patch_model(model), other):
            fsdp.fully_shard(one, mesh=mesh)
        sima = logits(model)
        sima_hf.unpatch_model(model)
        assert isinstance(model, fsdp.FSDPModule)
        assert type(model).__name__ == "FSDPViTForImageClassification"
        assert torch.equal(logits(model), softmax)
        assert torch.equal(logits(other), sima)
        assert type(other).__name__ == "FSDPSimAViTForImageClassification"
        model.unshard()
    finally:
        torch.distributed.destroy_process_group()


def test_a_users_class_over_a_swapped_one_is_refused():
    model = sima_hf.patch_model(make(*SWINV2))
    attention = model.encoder.layers[0].blocks[0].attention.self

    class Watched(type(attention)):
        def forward(self, *args, **kwargs):
            return super().forward(*args, **kwargs)

    original, attention.__class__ = type(attention), Watched
    before, expected = state_of(model), run(model, SWINV2)
    words = r"'encoder.layers.0.blocks.0.attention.self' was given the class Watched after the swap.*Take that back"
    with pytest.raises(ValueError, match=words):
        sima_hf.unpatch_model(model)
    assert state_of(model) == before
    assert torch.equal(run(model, SWINV2), expected)
    attention.__class__ = original
    sima_hf.unpatch_model(model)
    assert torch.equal(run(model, SWINV2), run(make(*SWINV2), SWINV2))


def test_a_failure_in_the_middle_of_the_undo_leaves_the_model_as_it_was(monkeypatch):
    model = sima_hf.patch_model(make(*SWINV2))
    model.config.problem_type = "regression"
    before, expected = state_of(model), run(model, SWINV2)
    old = vars(model)[undo.RECORD].configs[0].old
    calls = []

    def fail_late(module, cls):
        calls.append(module)
        if len(calls) == 3:
            raise RuntimeError("broken")

    with monkeypatch.context() as patch:
        patch.setattr(undo, "rebind_forwards", fail_late)
        with pytest.raises(RuntimeError, match="broken"):
            sima_hf.unpatch_model(model)
    assert state_of(model) == before
    assert old.problem_type is None
    assert torch.equal(run(model, SWINV2), expected)
    sima_hf.unpatch_model(model)
    assert model.config is old
    assert old.problem_type == "regression"


# Accelerate's hooks.


def hooked(model):
    from accelerate.hooks import ModelHook, add_hook_to_module

    for module in list(model.modules()):
        add_hook_to_module(module, ModelHook())
    return model


def unhooked(model):
    from accelerate.hooks import remove_hook_from_module

    remove_hook_from_module(model, recurse=True)
    return model


def offloaded(model):
    from accelerate import cpu_offload

    return cpu_offload(model, execution_device=torch.device("cpu"))


@pytest.mark.parametrize("case", [SWINV2, ("vilt", "ViltModel"), ("vit", "ViTModel")], ids=["swinv2", "vilt", "vit"])
@pytest.mark.parametrize(
    "steps",
    [
        (sima_hf.patch_model, offloaded, sima_hf.unpatch_model),
        (hooked, sima_hf.patch_model, unhooked, sima_hf.unpatch_model),
        (sima_hf.patch_model, hooked, sima_hf.unpatch_model, unhooked),
        (hooked, unhooked, sima_hf.patch_model, sima_hf.unpatch_model),
        (hooked, unhooked, sima_hf.patch_model, hooked, sima_hf.unpatch_model, unhooked, sima_hf.patch_model),
    ],
    ids=["offload", "hooks-off-before-undo", "hooks-off-after-undo", "hooks-before", "hooks-twice"],
)
def test_hooks_come_and_go(case, steps):
    model, plain = make(*case), make(*case)
    expected = {sima_hf.unpatch_model: output(plain, case)}
    expected[sima_hf.patch_model] = output(sima_hf.patch_model(plain), case)
    for step in steps:
        model = step(model)
        if step in expected:
            assert torch.equal(output(model, case), expected[step])


def output(model, case):
    torch.manual_seed(2)  # ViLT draws the places that it keeps
    return run(model, case)


# Changes to the config.


def test_a_new_head_and_fewer_layers_while_it_is_sima():
    model = vit(num_hidden_layers=4)
    with sima_hf.patched(model, gain="none"):
        model.classifier = nn.Linear(32, 9)
        model.config.num_labels = 9
        model.config.problem_type = "multi_label_classification"
        model.config.output_hidden_states = True
        model.vit.layers = model.vit.layers[:2]
        model.config.num_hidden_layers = 2
        expected = model.config.id2label
    config = model.config
    assert (config.num_labels, config.num_hidden_layers, config.id2label) == (9, 2, expected)
    assert config.problem_type == "multi_label_classification"
    assert config.output_hidden_states
    assert config is model.vit.config
    assert len(model(**given("vit", "")).hidden_states) == 3
    again = type(model)(config)
    again.load_state_dict(model.state_dict())


def test_what_is_simas_own_is_not_carried_over(tmp_path):
    model = vit()
    config, before = model.config, model.config.to_dict()
    implementation = config._attn_implementation
    with sima_hf.patched(model, gain="none", backend="reference"):
        model.save_pretrained(tmp_path)  # sets `architectures` and `dtype`
    assert model.config is config
    assert {**config.to_dict(), "dtype": before["dtype"]} == before
    assert config._attn_implementation == implementation
    assert config.model_type == "vit"
    assert not hasattr(config, "attention_gain")


def test_nested_configs_keep_what_was_changed():
    model = make(*LLAVA)
    config, tower = model.config, model.config.vision_config
    sima_hf.patch_model(model)
    model.config.image_token_index = 7
    model.config.vision_config.initializer_range = 0.5
    model.set_attn_implementation({"text_config": "eager"})
    sima_hf.unpatch_model(model)
    assert model.config is config
    assert config.vision_config is tower
    assert model.model.vision_tower.config is tower
    assert (config.image_token_index, tower.initializer_range) == (7, 0.5)
    assert (config.text_config._attn_implementation, tower._attn_implementation) == ("eager", "sdpa")
    assert type(tower).__name__ == "CLIPVisionConfig"


def test_a_config_exchanged_while_it_is_sima():
    model = sima_hf.patch_model(vit())
    model.config = copy.deepcopy(model.config)
    model.config.num_labels = 9
    sima_hf.unpatch_model(model)
    assert (type(model.config).__name__, model.config.num_labels) == ("ViTConfig", 9)
    assert "attention_gain" not in model.config.to_dict()


def test_maps_that_fused_softmax_does_not_have_are_not_kept(warnings_of):
    model = vit()
    with sima_hf.patched(model):
        model.config.output_attentions = True
    assert not model.config.output_attentions
    assert "`output_attentions` was set while the model was SimA, and is not kept" in warnings_of.text
    model.set_attn_implementation("eager")
    with sima_hf.patched(model):
        model.config.output_attentions = True
    assert len(model(**given("vit", "")).attentions) == 2


def test_another_model_with_the_same_config_keeps_what_it_changed():
    """The swapped model has a copy, which says nothing of what it did not change itself."""
    one = vit()
    two = type(one)(one.config)
    with sima_hf.patched(one):
        two.config.num_labels = 5
    assert two.config.num_labels == 5


def test_changes_survive_deepcopy_and_pickle():
    model = sima_hf.patch_model(vit())
    model.config.num_labels = 9
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert sima_hf.unpatch_model(twin).config.num_labels == 9
        assert twin.vit.config is twin.config
    assert model.config.model_type == "sima_vit"


# Parts.


def test_a_part_of_a_patched_model_names_the_whole():
    model = sima_hf.patch_model(vit())
    for part in (model.vit, model.vit.layers[0].attention):
        if "config" in vars(part):
            with pytest.raises(ValueError, match=r"was swapped as part of a SimAViTForImageClassification\. Call"):
                sima_hf.unpatch_model(part)
    assert sima_hf.certify(model, given("vit", "")).softmax_free
    sima_hf.unpatch_model(model)
    assert sima_hf.unpatch_model(model.vit) is model.vit


def test_a_part_patched_before_the_whole_is_not_turned_back_alone():
    model = vit()
    softmax = logits(model)
    sima_hf.patch_model(model.vit)
    sima_hf.patch_model(model)
    with pytest.raises(ValueError, match="as part of a SimAViTForImageClassification"):
        sima_hf.unpatch_model(model.vit)
    sima_hf.unpatch_model(model)
    assert not torch.equal(logits(model), softmax)
    sima_hf.unpatch_model(model.vit)
    assert torch.equal(logits(model), softmax)
    assert model.vit.config is model.config


def test_settings_of_the_encoder_alone_come_back_after_a_block():
    model = sima_hf.patch_model(make("detr", "DetrModel"), backend="eager")
    before = dict(vars(model.config))
    with sima_hf.patched(model, gain="none", backend="reference"):
        assert model.config._sima_implementation == "sima_reference"
    assert vars(model.config) == before

"""Every host of the table, every class tried: swapped, right, saved, undone.

What depends on the config and not on the head is tried once per config, what depends on the kind of code that runs once per kind.
"""

import copy
import pickle

import pytest
import torch
import transformers
from safetensors.torch import load_file

import sima_hf
from sima_hf import attention
from sima_hf.errors import UnsupportedModelError
from sima_hf.patching import describe
from sima_hf.patching.host_table import COMPOSITES
from sima_hf.patching.hosts import HOSTS, PREFIX, auto_classes
from tests.helpers.hosts.at_hand import (
    CASES,
    CONFIG_IDS,
    CONFIGS,
    IDS,
    KIND_IDS,
    KINDS,
    MAIN,
    MODELS,
    REFUSED,
    TYPES,
    given,
    kind_of,
    make,
    tensors,
    type_of,
)
from tests.helpers.tensors import definition, relative_error


every_model = pytest.mark.parametrize(("case", "name"), MODELS, ids=IDS)
every_config = pytest.mark.parametrize(("case", "name"), CONFIGS, ids=CONFIG_IDS)
every_kind = pytest.mark.parametrize(("case", "name"), KINDS, ids=KIND_IDS)


@torch.no_grad()
def run(model, inputs):
    """The tensors of a forward; the seed is for ViLT, which draws an order of the patches each time."""
    torch.manual_seed(2)
    return tensors(model(**inputs))


def equal(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_the_table_is_tried_whole():
    assert {type_of(case) for case in CASES if case not in REFUSED} == {*HOSTS, *COMPOSITES}
    assert [row["model_type"] for row in sima_hf.supported_models()] == list(HOSTS)
    attentions = {row["model_type"]: row["attentions"] for row in sima_hf.supported_models()}
    assert attentions["vit"][:2] == ["sima", "inline"]
    assert attentions["swinv2"] == ["sima"]
    assert "inline" not in attentions["swin"]


def test_the_kinds_run_every_attention_class():
    """Of those in the table; a new one needs a model among them."""
    tried = {place for case, _ in KINDS if type_of(case) in HOSTS for place in HOSTS[type_of(case)].forwards.values()}
    assert tried == {place for host in HOSTS.values() for place in host.forwards.values()}
    for case, name in KINDS:
        host = HOSTS.get(type_of(case))
        model = sima_hf.patch_model(make(case, name))
        running = {base.__name__ for module in model.modules() for base in type(module).__mro__}
        assert not host or {place.split(".")[1] for place in host.forwards.values()} <= running


@every_model
def test_swap_and_undo(case, name):
    model, inputs = make(case, name), given(case, name)
    before = run(model, inputs)
    classes, keys = {module: type(module) for module in model.modules()}, list(model.state_dict())
    parameters = {key: id(parameter) for key, parameter in model.named_parameters()}
    config, cls, saved = model.config, type(model), model.config.to_dict()

    assert sima_hf.patch_model(model) is model
    in_table = type_of(case) in HOSTS
    assert type(model).__name__ == (f"SimA{name}" if in_table else name)
    assert isinstance(model, cls)
    assert isinstance(model.config, type(config))
    assert model.config.model_type == (f"sima_{type_of(case)}" if in_table else type_of(case))
    assert {key: id(parameter) for key, parameter in model.named_parameters()} == parameters
    assert list(model.state_dict()) == keys
    assert config.to_dict() == saved
    assert sima_hf.certify(model, inputs).in_swapped == ()
    swapped = describe(model).swapped
    assert swapped
    assert all(part.attentions > 0 for part in swapped)
    after = run(model, inputs)
    assert all(tensor.isfinite().all() for tensor in after)
    assert not equal(before, after)

    assert sima_hf.unpatch_model(model) is model
    assert {module: type(module) for module in model.modules()} == classes
    assert model.config is config
    assert not any("sima" in attribute for module in model.modules() for attribute in vars(module))
    assert equal(before, run(model, inputs))


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    model = make(case, CASES[case][1][0])
    classes = {module: type(module) for module in model.modules()}
    config = model.config
    with pytest.raises(UnsupportedModelError):
        sima_hf.patch_model(model)
    assert {module: type(module) for module in model.modules()} == classes
    assert model.config is config


@pytest.mark.parametrize(
    ("case", "name", "gain"),
    [*((*pair, "tokens") for pair in CONFIGS), *((*pair, "none") for pair in KINDS)],
    ids=[*CONFIG_IDS, *(f"{one}-no_gain" for one in KIND_IDS)],
)
def test_every_attention_is_the_definition(case, name, gain, monkeypatch):
    """Queries, keys, values, mask and bias as they reach SimA, through an oracle that shares no code with the package."""
    calls = []

    def spy(query, key, value, mask=None, **options):
        calls.append((query, key, value, mask, options, compute(query, key, value, mask, **options)))
        return calls[-1][-1]

    compute = attention.sima_attention
    model = sima_hf.patch_model(make(case, name).double(), gain=gain)
    policies = {part.position_bias for part in describe(model).swapped}
    monkeypatch.setattr(attention, "sima_attention", spy)
    run(model, {key: x.double() if is_real(x) else x for key, x in given(case, name).items()})
    assert calls
    biased = False
    for query, key, value, mask, options, out in calls:
        assert options["gain"] == gain
        if "swin" in case:  # values of a float mask would be looked at, for which a GPU waits
            assert mask is None or mask.dtype == torch.bool
        bias = options.get("bias")
        biased |= bias is not None
        assert relative_error(out, definition(query, key, value, mask, bias, gain)) < 1e-10
    if not any(word in case for word in ("absolute", "plain")):
        assert biased is ("add" in policies) or case in ("vitdet", "dpt/beit")


def is_real(x):
    return isinstance(x, torch.Tensor) and x.is_floating_point()


@every_model
def test_two_generations_of_save_and_load(case, name, tmp_path):
    """By the class itself, and by an Auto class wherever one brings softmax models of this class back; other heads by that alone."""
    softmax, inputs = make(case, name), given(case, name)
    auto = auto_class_of(softmax)
    model = sima_hf.patch_model(softmax, gain="none")
    assert auto_class_of(model) is auto
    expected, parts = run(model, inputs), describe(model).swapped
    by_class = type(model).from_pretrained
    by_auto = auto.from_pretrained if auto else by_class
    generation = model
    for number, load in enumerate((by_class, by_auto) if (case, name) in TYPES else (by_auto,)):
        generation.save_pretrained(tmp_path / str(number))
        if type_of(case) in HOSTS and (tmp_path / str(number) / "model.safetensors").exists():
            assert set(load_file(tmp_path / str(number) / "model.safetensors")) <= set(model.state_dict())
        generation, report = load(tmp_path / str(number), output_loading_info=True)
        assert type(generation) is type(model)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        assert describe(generation).swapped == parts
        for parameter in generation.parameters():
            # Mapped files are not aligned, which changes the last bits of small products.
            parameter.data = parameter.data.clone()
        assert equal(expected, run(generation.eval(), inputs))
    assert sima_hf.certify(generation, inputs).in_swapped == ()
    assert list(generation.state_dict()) == list(model.state_dict())


def auto_class_of(model):
    """An Auto class that loads a folder of `model` as its class; None where there is none, or it asks the Hub."""
    known = {auto: classes for auto, classes in auto_classes(type(model.config)) if type(model) in classes}
    known.pop(transformers.AutoBackbone, None)
    return min(known, key=lambda auto: (known[auto][0] is not type(model), auto.__name__), default=None)


# What needs no gradient: a norm of query and key has a weight for each channel, which SimA's norms divide out again.
CANCELED = {
    "internvl_vision/qk_norm": ("q_norm.weight", "k_norm.weight"),
    "janus_vision_model/qk_norm": ("q_norm.weight", "k_norm.weight"),
}


@every_config
def test_gradients_reach_what_they_reached(case, name):
    """Every parameter that learns under softmax learns under SimA, position biases included.

    In float64, and beside softmax's gradient: in float32 rounding noise looks like one, and Adam makes full steps of it.
    """

    def gradients(model):
        inputs = {key: x.double() if is_real(x) else x for key, x in given(case, name).items()}
        torch.manual_seed(2)
        sum(tensor.square().sum() for tensor in tensors(model(**inputs))).backward()
        grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
        assert all(grad.isfinite().all() for grad in grads.values())
        return {key: grad.norm().item() for key, grad in grads.items()}

    before = gradients(make(case, name).double())
    after = gradients(sima_hf.patch_model(make(case, name).double()))
    noise = 1e-12 * max(before.values())
    learning = {key for key, norm in before.items() if norm > noise and not key.endswith(CANCELED.get(case, ()))}
    assert learning
    assert {key for key in learning if after.get(key, 0.0) < 1e-6 * before[key]} == set()


@pytest.mark.parametrize(("case", "name"), [pair for pair in MODELS if pair[1].endswith("Backbone")])
def test_auto_backbone_makes_it(case, name):
    """From a config: AutoBackbone asks the Hub even for a local folder."""
    config = sima_hf.patch_model(make(case, name)).config
    assert type(transformers.AutoBackbone.from_config(config)).__name__ == f"SimA{name}"


@every_kind
def test_deepcopy_and_pickle(case, name):
    try:
        pickle.dumps(make(case, name))
        copies = (copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model)))
    except AttributeError:  # backbones have hooks of Transformers' that cannot be pickled, with softmax as well
        copies = (copy.deepcopy,)
    model, inputs = sima_hf.patch_model(make(case, name)), given(case, name)
    twins = [one(model) for one in copies]  # before the first forward, which may leave such hooks as well
    expected = run(model, inputs)
    for twin in twins:
        assert type(twin) is type(model)
        assert equal(expected, run(twin, inputs))
        sima_hf.unpatch_model(twin)
        assert type(twin).__name__ == name
    assert equal(expected, run(model, inputs))


@every_kind
def test_simas_backends_can_be_chosen_and_softmax_cannot(case, name):
    model = sima_hf.patch_model(make(case, name))
    expected = run(model, given(case, name))
    for softmax in ("sdpa", "eager"):
        if type_of(case) not in HOSTS:  # other parents have reasons of their own, or leave it to the tower to refuse
            with pytest.raises(ValueError, match=r"softmax|attn_implementation|attention"):
                model.set_attn_implementation(softmax)
            continue
        with pytest.raises(ValueError, match="back to softmax"):
            model.set_attn_implementation(softmax)
        with pytest.raises(ValueError, match="back to softmax"):
            model.config._attn_implementation = softmax
        with pytest.raises(ValueError, match="back to softmax"):
            type(model)._from_config(copy.deepcopy(model.config), attn_implementation=softmax)
    assert equal(expected, run(model, given(case, name)))
    if type_of(case) in HOSTS:
        model.set_attn_implementation("sima_reference")
        assert {part.backend for part in describe(model).swapped} == {"reference"}
        for one, two in zip(expected, run(model, given(case, name)), strict=True):
            assert relative_error(one, two) < 1e-4


@every_kind
def test_bfloat16(case, name):
    """Beside the error that bfloat16 itself makes: the softmax model's own."""
    inputs = given(case, name)
    half = {key: x.bfloat16() if is_real(x) else x for key, x in inputs.items()}
    try:
        run(make(case, name).to(torch.bfloat16), half)
    except RuntimeError:
        pytest.skip("the softmax model itself does not run in bfloat16")
    found = run(sima_hf.patch_model(make(case, name)).to(torch.bfloat16), half)
    assert all(tensor.isfinite().all() for tensor in found)
    if (case, name) in MAIN:
        expected = run(sima_hf.patch_model(make(case, name)), inputs)
        assert relative_error(found[0], expected[0]) < 0.08


# One for each kind of code, of those that most users swap.
COMPILED = [*{kind_of(case): (case, name) for case, name in reversed(MAIN)}.values()]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "name"), COMPILED, ids=[case for case, _ in COMPILED])
def test_compile_in_one_graph(case, name):
    if case == "beit" and not hasattr(transformers.PreTrainedConfig, "sub_configs_defaults"):
        pytest.skip(
            "older Transformers add a mask to BEiT's bias in every forward, which dynamo cannot follow in one graph"
        )
    torch._dynamo.reset()
    model, inputs = sima_hf.patch_model(make(case, name)), given(case, name)
    with torch.no_grad():
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(**inputs)
    for one, two in zip(tensors(found), run(model, inputs), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


# Inputs that only a padded token sees: changing them must change nothing that is not padding.
PADDED = {
    "siglip2_vision_model": ("pixel_values", (1, 15), "pooler_output"),
    "phi4_multimodal_vision": ("pixel_values", (1, slice(None), slice(24, None)), "pooler_output"),
}


@pytest.mark.parametrize("case", PADDED)
def test_padding_is_out_of_norms_and_sums(case):
    argument, place, answer = PADDED[case]
    model, inputs = sima_hf.patch_model(make(case, CASES[case][1][0])), given(case, CASES[case][1][0])
    with torch.no_grad():
        expected = getattr(model(**inputs), answer)
        inputs[argument][place] += 3
        found = getattr(model(**inputs), answer)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)


def test_packed_images_do_not_see_each_other():
    model, inputs = sima_hf.patch_model(make("pixtral", "PixtralVisionModel")), given("pixtral", "PixtralVisionModel")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        inputs["pixel_values"][1] += 3
        found = model(**inputs).last_hidden_state
    assert torch.allclose(found[:, :16], expected[:, :16], atol=1e-6)
    assert not torch.allclose(found[:, 16:], expected[:, 16:], atol=1e-2)


def test_a_mask_beside_a_bias_is_kept_apart():
    """Transformers adds a boolean mask to BEiT's bias, which would make it a bias of one."""
    model, pixels = sima_hf.patch_model(make("beit", "BeitModel")), given("beit", "BeitModel")["pixel_values"]
    keep = torch.ones(2, 17, dtype=torch.long)
    keep[1, 12:] = 0
    changed = pixels.clone()
    changed[1, :, 24:] += 3  # patches 12 to 15 are tokens 13 to 16
    with torch.no_grad():
        expected = model(pixels, attention_mask=keep).last_hidden_state
        found = model(changed, attention_mask=keep).last_hidden_state
        unmasked = model(pixels).last_hidden_state
    assert torch.allclose(found[1, :12], expected[1, :12], atol=1e-5)
    assert not torch.allclose(unmasked[1, :12], expected[1, :12], atol=1e-3)


def test_shifted_windows_are_simA_within_each_group():
    """A window cut by the shift holds groups that do not see each other: SimA in each by itself, plus its part of the bias."""
    model = sima_hf.patch_model(make("swin", "SwinModel")).double()
    block = model.encoder.layers[0].blocks[1] if hasattr(model, "encoder") else model.layers[0].blocks[1]
    attend = block.attention
    tokens = 16
    hidden = torch.randn(1, tokens, attend.q_proj.in_features).double()
    group = torch.arange(tokens) % 3
    mask = torch.where(group[:, None] == group, 0.0, -100.0).double()[None]
    with torch.no_grad():
        found, _ = attend(hidden, mask)
        bias = attend.relative_position_bias()
        heads = bias.shape[1]
        query, key, value = (
            project(hidden).unflatten(-1, (heads, -1)).transpose(1, 2)
            for project in (attend.q_proj, attend.k_proj, attend.v_proj)
        )
        parts = torch.zeros_like(query)
        for one in range(3):
            inside = (group == one).nonzero().flatten()
            parts[:, :, inside] = definition(
                query[:, :, inside],
                key[:, :, inside],
                value[:, :, inside],
                None,
                bias[:, :, inside][..., inside],
                "tokens",
            )
        expected = attend.o_proj(parts.transpose(1, 2).flatten(2))
    assert relative_error(found, expected) < 1e-12


def test_names_of_classes_are_attributes():
    from sima_hf.patching import attentions, classes

    sima_hf.patch_model(make("flava", "FlavaModel"))
    assert classes.SimAFlavaImageModel.__name__ == "SimAFlavaImageModel"
    assert attentions.SimAFlavaSelfAttention.__mro__[2].__name__ == "FlavaSelfAttention"
    for name in (f"{PREFIX}Nothing", "FlavaModel"):
        with pytest.raises(AttributeError):
            getattr(classes, name)
        with pytest.raises(AttributeError):
            getattr(attentions, name)

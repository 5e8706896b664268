"""Attention maps of swapped models: wherever eager softmax gives them, and part of the graph when gradients are on."""

import contextlib

import pytest
import torch

import sima_hf
from sima_hf import SimAConfig, SimAForImageClassification, attention
from tests.helpers.hosts.at_hand import KIND_IDS, KINDS, TYPE_IDS, TYPES, given, make, tensors, type_of
from tests.helpers.tensors import relative_error


every_kind = pytest.mark.parametrize(("case", "name"), KINDS, ids=KIND_IDS)
# They choose a class of attention when they are built, which stays.
BUILT_EAGER = ("data2vec-vision", "sam_vision_model", "sam_hq_vision_model", "sam", "sam_hq")


def eager(case, name):
    """The host with softmax that returns its maps, as far as it can."""
    model = make(case, name, **({"attn_implementation": "eager"} if type_of(case) in BUILT_EAGER else {}))
    with contextlib.suppress(ValueError):
        model.set_attn_implementation("eager")
    return model


def run(model, case, name, by="keyword"):
    """The output with maps, and the maps by field; the seed is for ViLT, which draws an order of the patches each time."""
    torch.manual_seed(2)
    keyword = {"output_attentions": True} if by == "keyword" else {}
    if by == "config":
        model.config.output_attentions = True
    output = model(**given(case, name), **keyword)
    fields = output.items() if hasattr(output, "items") else ()  # BridgeTower's tower returns a tensor
    return output, {field: tensors(maps or ()) for field, maps in fields if field.endswith("attentions")}


def softmax_maps(case, name, by="keyword"):
    """The maps of the softmax model; the test is skipped where it has none to give."""
    try:
        return run(eager(case, name), case, name, by)
    except (TypeError, ValueError, IndexError) as error:  # no such argument; refused; Llama 4's tower fails at this
        pytest.skip(f"the softmax model itself does not give maps when asked this way: {error}")


@pytest.mark.parametrize(
    ("case", "name", "by"),
    [*((*pair, "keyword") for pair in TYPES), *((*pair, "config") for pair in KINDS)],
    ids=[*TYPE_IDS, *(f"{one}-by_config" for one in KIND_IDS)],
)
@torch.no_grad()
def test_maps_come_wherever_eager_softmax_gives_them(case, name, by):
    _, expected = softmax_maps(case, name, by)
    _, found = run(sima_hf.patch_model(eager(case, name)), case, name, by)
    assert {field: [one.shape for one in maps] for field, maps in found.items()} == {
        field: [one.shape for one in maps] for field, maps in expected.items()
    }


@every_kind
def test_gradients_reach_the_maps_that_are_returned(case, name):
    """Wherever softmax's do (ViTDet's maps are copies), as relevance methods need; and the output is the one without maps."""
    output, expected = softmax_maps(case, name)
    model = sima_hf.patch_model(eager(case, name))
    maps_output, found = run(model, case, name)

    def reached(output, maps):
        flat = [one for field in maps.values() for one in field]
        others = {id(one) for one in flat}
        total = sum(x.square().sum() for x in tensors(output) if id(x) not in others)
        grads = torch.autograd.grad(total, flat, allow_unused=True) if flat else ()
        return [grad is not None and bool(grad.isfinite().all()) for grad in grads]

    pairs = zip(reached(maps_output, found), reached(output, expected), strict=True)
    assert all(ours or not theirs for ours, theirs in pairs)
    with torch.no_grad():
        torch.manual_seed(2)
        plain = model(**given(case, name))
    for field, value in plain.items() if found else ():
        if isinstance(value, torch.Tensor) and value.is_floating_point():
            assert relative_error(maps_output[field].detach(), value) < 1e-4, field


@every_kind
def test_no_map_is_built_when_nobody_asks(case, name, monkeypatch):
    """A map costs N x N."""
    built = []

    def spy(query, key, value, *args, **options):
        built.append(value.shape[-1] == value.shape[-2] and bool((value == torch.eye(value.shape[-1])).all()))
        return compute(query, key, value, *args, **options)

    compute = attention.sima_attention
    monkeypatch.setattr(attention, "sima_attention", spy)
    model = sima_hf.patch_model(make(case, name))
    torch.manual_seed(2)
    model(**given(case, name))
    assert built
    assert not any(built)


@pytest.mark.slow
def test_maps_are_recorded_in_a_compiled_graph():
    model, inputs = (
        sima_hf.patch_model(make("siglip_vision_model", "SiglipVisionModel")),
        given("siglip_vision_model", ""),
    )
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert not compiled(**inputs).attentions
        expected = model(**inputs, output_attentions=True).attentions  # sets the hooks, which a compiler cannot
        found = compiled(**inputs, output_attentions=True).attentions
    for one, two in zip(found, expected, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_layer_compiled_by_itself():
    model, inputs = sima_hf.patch_model(make("vit", "ViTModel")), given("vit", "")
    with torch.no_grad():
        expected = model(**inputs).last_hidden_state
        for layer in model.layers if hasattr(model, "layers") else model.encoder.layer:
            layer.compile(fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(model(**inputs).last_hidden_state, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("implementation", ["sima", "eager"])
def test_relevance_of_a_native_model(implementation):
    config = SimAConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_class_attention_layers=1,
        num_attention_heads=4,
        image_size=32,
        num_labels=3,
    )
    torch.manual_seed(0)
    model = SimAForImageClassification(config).eval()
    model.set_attn_implementation(implementation)
    pixels = torch.randn(2, 3, 32, 32)
    output = model(pixels, output_attentions=True)
    for one in output.attentions:
        one.retain_grad()
    output.logits[0, 0].backward()
    assert all(one.grad is not None and one.grad.any() for one in output.attentions)
    with torch.no_grad():
        assert relative_error(output.logits, model(pixels).logits) < 1e-4

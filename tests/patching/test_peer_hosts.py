"""SimA's peers in its place: every mechanism on hosts of each kind, by the tests that SimA has to pass there."""

import dataclasses
import functools

import pytest
import torch
from transformers import AttentionInterface

import sima_hf
from sima_hf.attention import peer_attention_forward
from sima_hf.errors import UnsupportedModelError
from sima_hf.patching import describe
from sima_hf.patching.attentions.mechanisms import why_not_offered
from sima_hf.patching.configs import nested
from sima_hf.patching.hosts import HOSTS
from sima_hf.peers import PEERS
from tests.helpers.hosts.at_hand import CONFIG_IDS, CONFIGS, KINDS, given, make, tensors, type_of
from tests.helpers.peer_formulas import formula_of
from tests.helpers.tensors import relative_error


DROP_INS = [name for name, peer in PEERS.items() if peer.drop_in]
# Plain; with LayerScale; fewer keys than queries, in code of the host's own and through the interface; a batch of patches; a
# pooling head; one part alone; a tower in a larger model, of the table and not; windows with a bias.
FEW = [
    ("vit", "ViTForImageClassification"),
    ("dinov2", "Dinov2ForImageClassification"),
    ("cvt", "CvtForImageClassification"),
    ("segformer", "SegformerForImageClassification"),
    ("mobilevit", "MobileViTForImageClassification"),
    ("siglip_vision_model", "SiglipVisionModel"),
    ("detr", "DetrModel"),
    ("clip", "CLIPModel"),
    ("llava", "LlavaForConditionalGeneration"),
    ("swin", "SwinForImageClassification"),
    ("sam_vision_model", "SamVisionModel"),
]
EVERY_DAY = [("inline", *pair) for pair in FEW] + [(name, *FEW[0]) for name in DROP_INS]
EVERY_DAY += [("relu_over_tokens", *pair) for pair in FEW[-2:]]
ALL = dict.fromkeys(EVERY_DAY) | dict.fromkeys((name, *pair) for name in DROP_INS for pair in FEW)
# On all kinds of code: a mechanism without logits, and one that takes a bias.
ALL |= dict.fromkeys((name, *pair) for name in ("inline", "relu_over_tokens") for pair in KINDS)


def parameters(rows, quick=()):
    marks = {row: () if row in quick else (pytest.mark.slow,) for row in rows}
    return pytest.mark.parametrize(
        ("attention", "host", "head"), [pytest.param(*row, marks=marks[row], id="-".join(row)) for row in rows]
    )


@torch.no_grad()
def run(model, inputs):
    torch.manual_seed(2)
    return tensors(model(**inputs))


def equal(one, two):
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def wide(inputs):
    return {key: x.double() if torch.is_tensor(x) and x.is_floating_point() else x for key, x in inputs.items()}


def refusal_of(attention, model):
    """The sentence that refuses a peer where the table says that it is not offered, once the model is seen as it was; else None."""
    classes, config = {module: type(module) for module in model.modules()}, model.config
    hosts = [HOSTS.get(type(one).model_type) for one in nested(model.config)]
    if not any(host and why_not_offered(attention, host) for host in hosts):
        return None
    with pytest.raises(UnsupportedModelError, match="is not offered for the") as refused:
        sima_hf.patch_model(model, attention=attention)
    assert {module: type(module) for module in model.modules()} == classes
    assert model.config is config
    return str(refused.value)


def swapped(attention, model):
    """The model with a peer in it; the test ends where that is refused as it has to be."""
    if words := refusal_of(attention, model):
        pytest.skip(words)
    return sima_hf.patch_model(model, attention=attention)


def check_definition(attention, model, inputs):
    """Queries, keys, values, masks and biases as they reach the peer inside the model, through its literal formula."""
    calls = []

    def spy(query, key, value, attn_mask=None, *, bias=None, scale=None, **options):
        out = PEERS[attention].function(query, key, value, attn_mask, bias=bias, scale=scale, **options)
        calls.append((query, key, value, attn_mask, bias, scale, out))
        return out

    row = dataclasses.replace(PEERS[attention], function=spy)
    AttentionInterface.register(attention, functools.partial(peer_attention_forward, mechanism=row))
    try:
        run(model, inputs)
    finally:
        AttentionInterface.register(attention, functools.partial(peer_attention_forward, mechanism=PEERS[attention]))
    assert calls
    for query, key, value, mask, bias, scale, out in calls:
        assert relative_error(out, formula_of(attention, query, key, value, mask, bias, scale)) < 1e-10


def learning(model, host, head):
    torch.manual_seed(2)
    sum(tensor.square().sum() for tensor in tensors(model(**wide(given(host, head))))).backward()
    grads = {key: p.grad for key, p in model.named_parameters() if p.grad is not None}
    assert all(grad.isfinite().all() for grad in grads.values())
    return {key: grad.norm().item() for key, grad in grads.items()}


@parameters(ALL, EVERY_DAY)
def test_swap_save_and_undo(attention, host, head, tmp_path):
    model, inputs = make(host, head), given(host, head)
    before = run(model, inputs)
    classes, state = {module: type(module) for module in model.modules()}, model.state_dict()
    ids = {key: id(parameter) for key, parameter in model.named_parameters()}
    config, saved = model.config, model.config.to_dict()

    swapped(attention, model)
    in_table = type_of(host) in HOSTS
    assert type(model).__name__ == (f"SimA{head}" if in_table else head)
    assert {key: id(parameter) for key, parameter in model.named_parameters()} == ids
    assert list(model.state_dict()) == list(state)
    assert config.to_dict() == saved
    assert {part.mechanism for part in describe(model).swapped} == {attention}
    after, certificate = run(model, inputs), sima_hf.certify(model, inputs)
    assert all(tensor.isfinite().all() for tensor in after)
    assert not equal(before, after)
    assert certificate.in_swapped == ()
    assert certificate.remaining == PEERS[attention].remaining

    model.save_pretrained(tmp_path)
    again, report = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert describe(again).swapped == describe(model).swapped
    for parameter in again.parameters():
        parameter.data = parameter.data.clone()  # mapped files are not aligned, which changes the last bits
    assert equal(after, run(again.eval(), inputs))
    assert attention in (tmp_path / "config.json").read_text()

    assert sima_hf.unpatch_model(model) is model
    assert {module: type(module) for module in model.modules()} == classes
    assert model.config is config
    assert not any("sima" in attribute for module in model.modules() for attribute in vars(module))
    assert equal(before, run(model, inputs))


@parameters(ALL, EVERY_DAY)
def test_every_attention_is_the_definition(attention, host, head):
    check_definition(attention, swapped(attention, make(host, head).double()), wide(given(host, head)))


@parameters(ALL, EVERY_DAY)
def test_gradients_reach_what_they_reached(attention, host, head):
    """Every parameter that learns under softmax learns, but for what the formula cancels, a shift of all keys."""
    before = learning(make(host, head).double(), host, head)
    after = learning(swapped(attention, make(host, head).double()), host, head)
    noise, canceled = 1e-12 * max(before.values()), ("k_proj.bias",) if attention in ("inline", "efficient") else ()
    lost = {key for key, norm in before.items() if norm > noise and not after.get(key, 0.0) >= 1e-6 * norm}
    assert {key for key in lost if not key.endswith(canceled)} == set()


@pytest.mark.slow
@pytest.mark.parametrize(("host", "head"), CONFIGS, ids=CONFIG_IDS)
def test_all_hosts(host, head):
    """What depends on the host: what reaches the peer, where it is offered, and that nothing else attends.

    By the mechanism without logits; by the one that takes a bias where the former is refused.
    """
    model, inputs = make(host, head).double(), wide(given(host, head))
    attention = "relu_over_tokens" if refusal_of("inline", model) else "inline"
    if refusal_of(attention, model):
        return
    sima_hf.patch_model(model, attention=attention)
    check_definition(attention, model, inputs)
    certificate = sima_hf.certify(model, inputs)
    assert certificate.in_swapped == ()
    assert certificate.remaining == PEERS[attention].remaining

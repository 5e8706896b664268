"""Every drop-in against its literal formula in float64, forward and backward; the table against what the functions do."""

import importlib

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from sima_hf.peers import PEERS, find_peer
from tests.helpers.tensors import DTYPE_IDS, DTYPES, inputs, relative_error


DROP_INS = [name for name, mechanism in PEERS.items() if mechanism.drop_in]
ORDERS = {name: ["quadratic"] if not PEERS[name].linear_in_tokens else ["linear", "quadratic"] for name in DROP_INS}
ORDERS["hydra"] = ["linear"]
CASES = [(name, order) for name, orders in ORDERS.items() for order in ["auto", *orders]]


def reference(name, query, key, value, mask=None, bias=None):
    """The formula, in float64, on as many heads each; `mask` as the functions take it."""
    query, key, value = query.double(), key.double(), value.double()
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    formula = getattr(importlib.import_module(f"sima_hf.peers.{name}"), f"{name}_reference")
    if mask is not None and mask.dtype != torch.bool:
        mask = mask == 0
    if not PEERS[name].takes_full_mask:
        return formula(query, key, value, keep=mask)
    if mask is not None:
        mask = (mask[:, None, None] if mask.dim() == 2 else mask).expand(*query.shape[:3], key.shape[2])
    return formula(query, key, value, mask, **({} if bias is None else {"bias": bias.double()}))


def gradients(function, tensors, upstream):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    output = function(*leaves)
    return [output.detach(), *torch.autograd.grad(output, leaves, upstream.to(output.dtype))]


def agree(name, tensors, mask=None, bias=None, tolerance=1e-11, **options):
    torch.manual_seed(1)
    upstream = torch.randn(*tensors[0].shape[:3], tensors[2].shape[-1], dtype=torch.float64)
    attend = PEERS[name].function
    found = gradients(lambda *given: attend(*given, mask, bias=bias, **options), tensors, upstream)
    expected = gradients(lambda *given: reference(name, *given, mask, bias), tensors, upstream)
    assert all(result.dtype == tensors[0].dtype for result in found)
    for result, right in zip(found, expected, strict=True):
        assert relative_error(result, right) <= tolerance


def tensors_of(name, **sizes):
    torch.manual_seed(0)
    sizes = {"queries": 11, "keys": 19, "value_channels": 5, **sizes}
    if name == "hydra":
        sizes["value_channels"] = sizes.get("channels", 8)
    return inputs(**sizes)


@pytest.mark.parametrize("key_heads", [3, 1])
@pytest.mark.parametrize(("name", "order"), CASES)
def test_numbers_and_gradients(name, order, key_heads):
    agree(name, tensors_of(name, key_heads=key_heads), order=order)


@pytest.mark.parametrize(("name", "order"), CASES)
def test_few_and_more(name, order):
    agree(name, tensors_of(name, queries=1, keys=2), order=order)
    agree(name, tensors_of(name, batch=1, heads=1, queries=67, keys=67, channels=3), order=order)


@pytest.mark.parametrize("form", ["boolean", "float"])
@pytest.mark.parametrize(("name", "order"), CASES)
def test_padding(name, order, form):
    tensors = tensors_of(name)
    keep = torch.rand(2, 19) > 0.4
    mask = keep if form == "boolean" else torch.zeros(2, 19).masked_fill(~keep, -torch.inf)
    agree(name, tensors, mask, order=order)
    query, key, value = (tensor.clone() for tensor in tensors)
    key[~keep[:, None].expand(2, 3, -1)] = torch.nan  # what padding holds does not matter
    value[~keep[:, None].expand(2, 3, -1)] = torch.inf
    attend = PEERS[name].function
    assert torch.equal(attend(query, key, value, mask, order=order), attend(*tensors, mask, order=order))


@pytest.mark.parametrize("name", [name for name in DROP_INS if PEERS[name].takes_full_mask])
def test_full_masks(name):
    agree(name, tensors_of(name), torch.rand(2, 1, 11, 19) > 0.4)
    agree(name, tensors_of(name), torch.rand(1, 3, 11, 19) > 0.4)
    tensors = tensors_of(name)
    nothing = torch.rand(2, 3, 11, 19) > 0.4
    nothing[0, :, 4] = False
    output = PEERS[name].function(*tensors, nothing)
    assert (output[0, :, 4] == 0).all()
    assert output.isfinite().all()
    with pytest.raises(ValueError, match=r"'auto' or 'quadratic'"):
        PEERS[name].function(*tensors, nothing, order="linear")


@pytest.mark.parametrize("name", [name for name in DROP_INS if not PEERS[name].takes_full_mask])
def test_full_masks_are_refused(name):
    with pytest.raises(ValueError, match=r"takes no full mask, .* padding of shape \(batch, keys\) = \(2, 19\)"):
        PEERS[name].function(*tensors_of(name), torch.rand(2, 1, 11, 19) > 0.4)


@pytest.mark.parametrize("name", DROP_INS)
def test_position_bias(name):
    tensors, bias = tensors_of(name), torch.randn(1, 3, 11, 19, dtype=torch.float64)
    if PEERS[name].takes_bias:
        agree(name, tensors, torch.rand(2, 19) > 0.4, bias)
    else:
        with pytest.raises(ValueError, match="takes no position bias, because it has no logits"):
            PEERS[name].function(*tensors, bias=bias)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize(("name", "order"), [case for case in CASES if case[1] != "auto"])
def test_dtypes(name, order, dtype):
    agree(name, tensors_of(name, dtype=dtype), order=order, tolerance=DTYPES[dtype] * 2)
    tensors = tensors_of(name, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        again = PEERS[name].function(*tensors, order=order)
    assert torch.equal(again, PEERS[name].function(*tensors, order=order))


@pytest.mark.parametrize("name", DROP_INS)
def test_linear_in_value_as_the_table_says(name):
    query, key, value = tensors_of(name)
    attend, other = PEERS[name].function, torch.randn_like(value)
    summed = attend(query, key, 2 * value + other)
    parts = 2 * attend(query, key, value) + attend(query, key, other)
    assert (relative_error(summed, parts) < 1e-12) == PEERS[name].linear_in_value


@pytest.mark.parametrize("name", DROP_INS)
def test_cost_as_the_table_says(name):
    """Four times the tokens: four times the products where linear, sixteen times where not."""

    def count(tokens):
        with FlopCounterMode(display=False) as counter:
            PEERS[name].function(*(torch.randn(1, 2, tokens, 8) for _ in range(3)))
        return counter.get_total_flops()

    expected = 4 if PEERS[name].linear_in_tokens else 16
    assert count(512) == (0 if name == "hydra" else expected * count(128))  # Hydra has no matrix product


@pytest.mark.parametrize("name", DROP_INS)
def test_what_remains_as_the_table_says(name):
    tensors = tensors_of(name)
    with torch.profiler.profile() as profile:
        PEERS[name].function(*tensors)
    ran = {event.name.removeprefix("aten::") for event in profile.events()}
    softmax, exp = "softmax" in ran, bool(ran & {"exp", "elu", "sigmoid"})
    assert PEERS[name].remaining == (("softmax",) if softmax else ("exp",) if exp else ())


@pytest.mark.parametrize("name", DROP_INS)
def test_a_graph_serves_other_sizes(name):
    class Attention(torch.nn.Module):
        def forward(self, query, key, value, mask):
            return PEERS[name].function(query, key, value, mask)

    tensors = [*tensors_of(name, queries=19), torch.rand(2, 19) > 0.4]
    tokens = torch.export.Dim("tokens", min=4, max=4096)
    shapes = [{2: tokens}] * 3 + [{1: tokens}]
    graph = torch.export.export(Attention(), tuple(tensors), dynamic_shapes=tuple(shapes)).module()
    others = [*tensors_of(name, queries=40, keys=40), torch.rand(2, 40) > 0.4]
    assert relative_error(graph(*others), PEERS[name].function(*others)) < 1e-12


def test_names():
    assert list(PEERS) == [mechanism.name for mechanism in PEERS.values()]
    assert find_peer("inline") is PEERS["inline"]
    with pytest.raises(ValueError, match=r"one of 'inline', .* got 'in_line'\. Did you mean 'inline'"):
        find_peer("in_line")


@pytest.mark.parametrize("name", DROP_INS)
def test_wrong_inputs_get_a_sentence(name):
    attend, (query, key, value) = PEERS[name].function, tensors_of(name)
    with pytest.raises(ValueError, match=rf"{name}_attention needs one dtype for all three"):
        attend(query.float(), key, value)
    with pytest.raises(ValueError, match="`order` must be one of 'auto', 'linear', 'quadratic', got 'fast'"):
        attend(query, key, value, order="fast")
    for order in {"linear", "quadratic"} - set(ORDERS[name]):
        with pytest.raises(ValueError, match=f"which has that one alone, got '{order}'"):
            attend(query, key, value, order=order)

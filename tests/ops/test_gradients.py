"""Gradients: gradcheck in every mode, half precision against float64, and channels that are dead."""

import pytest
import torch

from sima_hf import sima_attention
from tests.helpers.tensors import DTYPES, formula, inputs, relative_error


MASKS = {
    "none": None,
    "padding": torch.tensor([[True, True, False, True, True], [True, False, True, True, True]]),
    "full": torch.tensor(
        [[1, 1, 0, 0, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]], dtype=torch.bool
    )[None, None],
}

# In float64 `auto` is eager.
SERVED = [("auto", dtype) for dtype in DTYPES if dtype != torch.float64] + [("eager", dtype) for dtype in DTYPES]


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("order", ["linear", "quadratic"])
def test_gradcheck(order, gain, mask, backend):
    tensors = [tensor.requires_grad_() for tensor in inputs(2, 2, 5, channels=3, value_channels=2)]
    assert torch.autograd.gradcheck(
        lambda q, k, v: sima_attention(q, k, v, MASKS[mask], gain, order, backend), tensors
    )


def test_gradcheck_cross_attention_with_grouped_heads():
    tensors = [t.requires_grad_() for t in inputs(1, 4, 3, 6, channels=3, value_channels=2, key_heads=2)]
    keep = torch.tensor([[True, False, True, True, True, False]])
    assert torch.autograd.gradcheck(lambda q, k, v: sima_attention(q, k, v, keep, "tokens"), tensors)


def test_gradgradcheck():
    tensors = [tensor.requires_grad_() for tensor in inputs(1, 2, 4, channels=2)]
    assert torch.autograd.gradgradcheck(sima_attention, tensors)


@pytest.mark.parametrize("order", ["linear", "quadratic"])
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_gradcheck_of_grouped_heads_without_a_mask(backend, order):
    tensors = [t.requires_grad_() for t in inputs(2, 4, 4, channels=3, value_channels=2, key_heads=2)]
    assert torch.autograd.gradcheck(lambda q, k, v: sima_attention(q, k, v, None, "none", order, backend), tensors)


def results(attend, tensors, upstream):
    """The output of `attend` and the gradients with respect to query, key and value."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    out = attend(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, upstream.to(out.dtype))


def check_close(found, expected, dtype):
    for index, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        assert ours.dtype == dtype
        assert relative_error(ours, theirs) <= DTYPES[dtype], index


@pytest.mark.parametrize(("backend", "dtype"), SERVED, ids=str)
@pytest.mark.parametrize(("order", "gain"), [("linear", "tokens"), ("quadratic", "none")])
def test_against_float64(order, gain, dtype, backend):
    for tokens, channels in ((2, 8), (63, 48), (197, 64), (1025, 16)):
        tensors = inputs(2, 3, tokens, channels=channels, dtype=dtype)
        upstream = torch.randn(2, 3, tokens, channels).to(dtype)
        doubles = [tensor.double() for tensor in tensors]
        expected = results(lambda q, k, v: formula(q, k, v, gain), doubles, upstream.double())
        found = results(lambda q, k, v: sima_attention(q, k, v, None, gain, order, backend), tensors, upstream)
        check_close(found, expected, dtype)


@pytest.mark.slow
@pytest.mark.parametrize(("backend", "dtype"), SERVED, ids=str)
@pytest.mark.parametrize("tokens", [16384, 65536])
def test_many_tokens_against_float64(tokens, dtype, backend):
    """With the gain, for without it the gradients too sink below float16's range."""
    tensors = inputs(1, 2, tokens, channels=8, dtype=dtype)
    upstream = torch.randn(1, 2, tokens, 8).to(dtype)
    expected = results(
        lambda q, k, v: formula(q, k, v, "tokens"), [tensor.double() for tensor in tensors], upstream.double()
    )
    check_close(
        results(lambda q, k, v: sima_attention(q, k, v, gain="tokens", backend=backend), tensors, upstream),
        expected,
        dtype,
    )


@pytest.mark.parametrize(("backend", "dtype"), SERVED, ids=str)
@pytest.mark.parametrize("order", ["linear", "quadratic"])
def test_one_token_alone(order, dtype, backend):
    """Its weights are constant, signs times signs, so dq and dk are zero up to rounding of numbers of that size."""
    tensors = inputs(2, 3, 1, channels=8, dtype=dtype)
    upstream = torch.randn(2, 3, 1, 8).to(dtype)
    found = results(lambda q, k, v: sima_attention(q, k, v, order=order, backend=backend), tensors, upstream)
    expected = results(formula, [tensor.double() for tensor in tensors], upstream.double())
    assert relative_error(found[0], expected[0]) <= DTYPES[dtype]
    assert relative_error(found[3], expected[3]) <= DTYPES[dtype]
    query, key, value = (tensor.double() for tensor in tensors)
    size = (upstream.double().abs() * value.abs()).sum(-1, keepdim=True)
    rounding = {torch.float64: 1e-14}.get(dtype, 1e-6)  # half precision is computed in float32
    assert (found[1].double().abs() <= rounding * size / query.abs()).all()
    assert (found[2].double().abs() <= rounding * size / key.abs()).all()


@pytest.mark.parametrize(("backend", "dtype"), SERVED, ids=str)
@pytest.mark.parametrize(("order", "gain"), [("linear", "tokens"), ("quadratic", "none")])
@pytest.mark.parametrize("mask", ["padding", "full"])
def test_masks_against_float64(mask, gain, order, dtype, backend):
    """The reference in float64 is itself held to the definition, and its gradients to finite differences."""
    tensors = inputs(2, 4, 31, channels=12, value_channels=7, key_heads=2, dtype=dtype)
    upstream = torch.randn(2, 4, 31, 7).to(dtype)
    given = torch.rand(2, 31) > 0.3 if mask == "padding" else torch.rand(2, 1, 31, 31) > 0.3
    expected = results(
        lambda q, k, v: sima_attention(q, k, v, given, gain, backend="reference"),
        [tensor.double() for tensor in tensors],
        upstream.double(),
    )
    check_close(
        results(lambda q, k, v: sima_attention(q, k, v, given, gain, order, backend), tensors, upstream),
        expected,
        dtype,
    )


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("order", ["linear", "quadratic"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_below_the_floor(dtype, order, backend):
    """There the norms are constants, so the sign terms vanish; held channel by channel, as their sizes differ greatly."""
    query, key, value = inputs(channels=4)
    tiny = torch.tensor([1, 1e-20, 1, 1e-16])
    tensors = [tensor.to(dtype) for tensor in (query * tiny, key * tiny[[0, 2, 1, 3]], value)]
    upstream = torch.randn(2, 3, 17, 4).to(dtype)
    expected = results(formula, [tensor.double() for tensor in tensors], upstream.double())
    found = results(lambda q, k, v: sima_attention(q, k, v, order=order, backend=backend), tensors, upstream)
    for channel in range(4):
        check_close([t[..., channel] for t in found[1:3]], [t[..., channel] for t in expected[1:3]], dtype)


@pytest.mark.parametrize("poison", [1.0, float("inf"), float("nan")], ids=str)
@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("order", ["linear", "quadratic"])
def test_padded_tokens_neither_receive_nor_spoil_gradients(order, gain, poison):
    keep = torch.rand(2, 17) > 0.3
    keep[1] = False  # an image of padding alone
    tensors, upstream = inputs(), torch.randn(2, 3, 17, 8, dtype=torch.float64)
    expected = results(lambda q, k, v: sima_attention(q, k, v, keep, gain, order), tensors, upstream)
    for tensor in tensors:
        tensor.transpose(1, 2)[~keep] = poison
    found = results(lambda q, k, v: sima_attention(q, k, v, keep, gain, order), tensors, upstream)
    for ours, theirs in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs)
        assert (ours.transpose(1, 2)[~keep] == 0).all()
        assert (ours[0] != 0).any()


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [*SERVED, ("reference", torch.float64)],
    ids=str,
)
@pytest.mark.parametrize("dead", ["query", "both", "whole-key", "everything"])
def test_dead_channels_give_zeros_and_no_gradient(dead, dtype, backend):
    for mask, order in (("none", "linear"), ("none", "quadratic"), ("padding", "linear"), ("full", "quadratic")):
        check_dead_channels(dead, mask, order, dtype, backend)


def check_dead_channels(dead, mask, order, dtype, backend):
    query, key, value = inputs(2, 2, 5, channels=4, dtype=dtype)
    whole = dead in ("whole-key", "everything")
    channel = slice(None) if whole else slice(1, 2)
    if dead != "whole-key":
        query[..., channel] = 0
    if dead != "query":
        key[..., channel] = 0
    upstream = torch.randn(2, 2, 5, 4).to(dtype)
    found = results(
        lambda q, k, v: sima_attention(q, k, v, MASKS[mask], order=order, backend=backend),
        (query, key, value),
        upstream,
    )
    assert all(tensor.isfinite().all() for tensor in found)
    for grad in found[1:3]:
        assert (grad[..., channel] == 0).all()
    with torch.no_grad():
        inference = sima_attention(query, key, value, MASKS[mask], order=order, backend=backend)
    if whole:
        assert (found[0] == 0).all()
        assert (found[3] == 0).all()
        assert (inference == 0).all()
    else:
        # As if the channel were not there.
        alive = [0, 2, 3]
        expected = results(
            lambda q, k, v: sima_attention(q, k, v, MASKS[mask], backend="reference"),
            (query[..., alive].double(), key[..., alive].double(), value.double()),
            upstream.double(),
        )
        check_close((found[0], *(grad[..., alive] for grad in found[1:3]), found[3]), expected, dtype)
        assert relative_error(inference, expected[0]) <= DTYPES[dtype]

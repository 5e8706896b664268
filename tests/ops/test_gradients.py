"""Gradients: gradcheck in every mode, half precision against float64, and channels that are dead."""

import pytest
import torch
from tensors import DTYPE_IDS, DTYPES, inputs, relative_error

from sima_hf import sima_attention


MASKS = {
    "none": None,
    "padding": torch.tensor([[True, True, False, True, True], [True, False, True, True, True]]),
    "full": torch.tensor(
        [[1, 1, 0, 0, 1], [0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 0, 1, 0]], dtype=torch.bool
    )[None, None],
}


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


def gradients(tensors, upstream, **options):
    leaves = [tensor.detach().clone().requires_grad_() for tensor in tensors]
    return torch.autograd.grad(sima_attention(*leaves, **options), leaves, upstream)


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("order", ["linear", "quadratic"])
@pytest.mark.parametrize(("tokens", "channels"), [(1, 8), (63, 48), (197, 64), (1025, 16)])
def test_against_float64(tokens, channels, order, dtype):
    tensors = inputs(2, 3, tokens, channels=channels, dtype=dtype)
    upstream = torch.randn(2, 3, tokens, channels).to(dtype)
    wide = [tensor.double() for tensor in tensors]
    expected = gradients(wide, upstream.double(), gain="tokens", order="linear", backend="reference")
    found = gradients(tensors, upstream, gain="tokens", order=order)
    for name, ours, theirs in zip("qkv", found, expected, strict=True):
        assert ours.dtype == dtype
        if theirs.norm() > 1e-9:  # one token alone has constant weights: dq and dk are zero up to rounding
            assert relative_error(ours, theirs) <= 2 * DTYPES[dtype], name
        else:
            assert ours.abs().max() < 1e-5 * upstream.abs().max() * tensors[2].abs().max() * channels, name


@pytest.mark.parametrize("backend", ["eager", "reference"])
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("order", ["linear", "quadratic"])
@pytest.mark.parametrize("mask", ["none", "padding", "full"])
@pytest.mark.parametrize("dead", ["query", "key", "both", "everything"])
def test_dead_channels_give_zeros_and_no_gradient(dead, mask, order, dtype, backend):
    query, key, value = inputs(2, 2, 5, channels=4, dtype=dtype)
    channel = slice(None) if dead == "everything" else slice(1, 2)
    if dead in ("query", "both", "everything"):
        query[..., channel] = 0
    if dead in ("key", "both", "everything"):
        key[..., channel] = 0
    leaves = [tensor.detach().clone().requires_grad_() for tensor in (query, key, value)]
    out = sima_attention(*leaves, MASKS[mask], order=order, backend=backend)
    assert out.isfinite().all()
    if dead == "everything":
        assert (out == 0).all()
    grads = torch.autograd.grad(out, leaves, torch.randn_like(out))
    assert all(grad.isfinite().all() for grad in grads)
    for grad in grads[:2]:
        assert (grad[..., channel] == 0).all()

"""Position bias in the operation: against the definition, in every dtype, backend and order, with every mask."""

import pytest
import torch

from sima_hf import sima_attention
from tests.helpers.tensors import DTYPE_IDS, DTYPES, definition, inputs, relative_error


BACKENDS = ("eager", "reference")
SHAPES = ["one for all", "by head", "by image", "by both"]


def bias_of(shape, queries, keys, dtype=torch.float64, batch=2, heads=3):
    sizes = {"one for all": (1, 1), "by head": (1, heads), "by image": (batch, 1), "by both": (batch, heads)}[shape]
    return torch.randn(*sizes, queries, keys, dtype=torch.float64).to(dtype)


def masks(queries, keys):
    padding = torch.ones(2, keys, dtype=torch.bool)
    padding[1, keys // 2 :] = False
    found = {"none": None, "padding": padding}
    if queries == keys:
        blocks = torch.arange(keys) // 4
        found["blocks"] = (blocks[:, None] == blocks)[None, None]
        found["blocks as floats"] = torch.where(found["blocks"], 0.0, -100.0).double()
    return found


@pytest.mark.parametrize(("order", "gain"), [("linear", "tokens"), ("quadratic", "none")])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_forward(shape, backend, order, gain):
    for queries, keys in ((17, 17), (17, 5), (1, 9), (1, 1)):
        query, key, value = inputs(queries=queries, keys=keys, value_channels=5)
        bias = bias_of(shape, queries, keys)
        for name, mask in masks(queries, keys).items():
            found = sima_attention(query, key, value, mask, gain=gain, order=order, backend=backend, bias=bias)
            assert relative_error(found, definition(query, key, value, mask, bias, gain)) < 1e-12, (
                queries,
                keys,
                name,
            )


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_dtypes(dtype, backend):
    query, key, value = inputs(dtype=dtype, key_heads=1)
    bias = bias_of("by head", 17, 17, dtype)
    found = sima_attention(query, key, value, backend=backend, bias=bias)
    assert found.dtype == dtype
    tolerance = DTYPES[dtype] * (10 if backend == "reference" else 1)
    assert relative_error(found, definition(query, key, value, None, bias)) < tolerance


@pytest.mark.parametrize("mask", ["none", "padding", "blocks"])
@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("shape", SHAPES)
def test_backward(shape, gain, mask):
    leaves = [*inputs(queries=9), bias_of(shape, 9, 9)]
    leaves = [leaf.detach().clone().requires_grad_() for leaf in leaves]
    mask = masks(9, 9)[mask]
    weights = torch.randn(2, 3, 9, 8, dtype=torch.float64)
    gradients = []
    for attend in (
        lambda q, k, v, b: sima_attention(q, k, v, mask, gain=gain, bias=b),
        lambda q, k, v, b: definition(q, k, v, mask, b, gain),
    ):
        out = attend(*leaves)
        gradients.append(torch.autograd.grad((out * weights).sum(), leaves))
    for found, expected in zip(*gradients, strict=True):
        assert relative_error(found, expected) < 1e-10


def test_what_hidden_tokens_hold_does_not_matter():
    query, key, value = inputs(queries=9)
    bias = bias_of("by head", 9, 9)
    mask = masks(9, 9)["padding"]
    expected = sima_attention(query, key, value, mask, bias=bias)
    key[1, :, 4:], value[1, :, 4:] = float("nan"), float("inf")
    torch.testing.assert_close(sima_attention(query, key, value, mask, bias=bias), expected)


@pytest.mark.parametrize(
    ("bias", "error", "words"),
    [
        (
            torch.zeros(17, 17),
            ValueError,
            r"`bias` must be of shape \(2 or 1, 3 or 1, 17, 17\), got shape \(17, 17\)",
        ),
        (torch.zeros(1, 2, 17, 17), ValueError, "3 or 1, 17, 17"),
        (torch.zeros(1, 3, 17, 1), ValueError, "3 or 1, 17, 17"),
        (torch.zeros(1, 1, 17, 17, dtype=torch.long), TypeError, "floating point tensor or None, got torch.int64"),
        ("bias", TypeError, "floating point tensor or None, got str"),
        (torch.zeros(1, 1, 17, 17, device="meta"), ValueError, "must be on cpu"),
    ],
)
def test_wrong_biases(bias, error, words):
    with pytest.raises(error, match=words):
        sima_attention(*inputs(), bias=bias)

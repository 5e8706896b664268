"""Key padding beside as many queries as keys: whether they are the same tokens, only the caller knows."""

import pytest
import torch

from sima_hf import sima_attention
from sima_hf.attention import sima_attention_forward
from tests.helpers.backends import BOTH
from tests.helpers.tensors import everyone, inputs, oracle, relative_error


BACKENDS = [*BOTH, "eager", "reference"]
TOLERANCE = 1e-5


def padding(tokens):
    return torch.arange(tokens) < torch.tensor([[tokens], [tokens // 2 + 1]])


def expected(tensors, keep, same, gain="none", bias=None):
    """By the definition, row by row, in float64: `same` if queries are the tokens that keys are."""
    tokens = keep.shape[1]
    see_key = keep[:, None].expand(2, tokens, tokens)
    see_query = everyone(2, tokens, tokens)
    if same:
        see_query = see_key = see_key & keep[:, :, None]
    out = oracle(*tensors, see_query, see_key, gain)
    if bias is not None:
        added = (bias * see_key[:, None]) @ tensors[2].double()
        out = out + added * (see_key.sum(-1)[:, None, :, None] if gain == "tokens" else 1)
    return out


@pytest.mark.parametrize("same", [True, False, None])
@pytest.mark.parametrize(("with_bias", "gain"), [(False, "none"), (True, "tokens")], ids=["plain", "bias-gain"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_cross_attention_between_sequences_of_one_length(backend, with_bias, gain, same):
    """Output and gradients; a Perceiver with as many latents as tokens, say. By default they are the same tokens."""
    leaves = [x.requires_grad_() for x in inputs(2, 2, 9, channels=16, dtype=torch.float32)]
    doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
    keep, bias = padding(9), torch.randn(2, 2, 9, 9).double() if with_bias else None
    right = expected(doubles, keep, same is not False, gain, bias)
    found = sima_attention(*leaves, keep, gain, backend=backend, bias=bias, mask_queries=same)
    assert relative_error(found, right) < TOLERANCE
    hidden = found.transpose(1, 2)[~keep]
    assert hidden.any() if same is False else not hidden.any()
    wanted = torch.autograd.grad(right.square().sum(), doubles)
    for one, two in zip(torch.autograd.grad(found.square().sum(), leaves), wanted, strict=True):
        assert relative_error(one, two) < TOLERANCE
    with torch.no_grad():
        again = sima_attention(*leaves, keep, gain, backend=backend, bias=bias, mask_queries=same)
    assert relative_error(again, right) < TOLERANCE


@pytest.mark.parametrize("order", ["linear", "quadratic"])
@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_in_either_order(backend, order):
    tensors, keep = inputs(2, 3, 11), padding(11)
    found = sima_attention(*tensors, keep, order=order, backend=backend, mask_queries=False)
    assert relative_error(found, expected(tensors, keep, False)) < 1e-12


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "tokens"), [(2, 9), (1, 520)], ids=["one piece", "pieces"])
@pytest.mark.parametrize("backend", BOTH)
def test_transforms_know_which_it_is(backend, heads, tokens):
    """vmap, gradients of gradients and a compiled graph, against the plain operations in float64."""
    tensors = inputs(2, heads, tokens, channels=16, dtype=torch.float32)
    keep = padding(tokens)

    def loss(query, key, value, backend=backend):
        return sima_attention(query, key, value, keep, "tokens", backend=backend, mask_queries=False).pow(3).sum()

    doubles = [x.double() for x in tensors]
    right = torch.func.grad(loss)(*doubles, "reference")
    torch._dynamo.reset()
    compiled = torch.compile(torch.func.grad(loss), fullgraph=True, backend="aot_eager")
    for found in (
        torch.func.grad(loss)(*tensors),
        compiled(*tensors),
        torch.vmap(torch.func.grad(loss), (0, None, None))(tensors[0][None], *tensors[1:])[0],
    ):
        assert relative_error(found, right) < TOLERANCE

    def second(*tensors, backend):
        return torch.func.grad(lambda q: torch.func.grad(loss)(q, *tensors[1:], backend).square().sum())(tensors[0])

    assert relative_error(second(*tensors, backend=backend), second(*doubles, backend="reference")) < 1e-4


def test_hidden_queries_that_are_no_keys_are_refused():
    with pytest.raises(ValueError, match=r"`mask_queries` must be False or None.*with 11 queries and 19 keys"):
        sima_attention(*inputs(queries=11, keys=19), torch.ones(2, 19, dtype=torch.bool), mask_queries=True)


def test_without_key_padding_it_changes_nothing():
    tensors = inputs(2, 3, 11)
    full = torch.rand(2, 1, 11, 11) > 0.3
    for mask in (None, full):
        for same in (True, False):
            assert torch.equal(sima_attention(*tensors, mask, mask_queries=same), sima_attention(*tensors, mask))


def test_attention_function_of_transformers_hands_it_on():
    tensors, keep = inputs(2, 3, 11), padding(11)
    output, maps = sima_attention_forward(
        None, *tensors, keep[:, None, None], output_attentions=True, mask_queries=False
    )
    assert relative_error(output.transpose(1, 2), expected(tensors, keep, False)) < 1e-12
    assert relative_error((maps @ tensors[2]).transpose(1, 2), output) < 1e-12

"""torch.compile, torch.export and torch.func."""

import functools

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from sima_hf import sima_attention
from tests.helpers.tensors import inputs, relative_error


pytestmark = pytest.mark.slow
SIZES = (197, 577, 1024, 49, 50, 5)


@pytest.fixture(autouse=True)
def _fresh_dynamo():
    torch._dynamo.reset()


def test_one_graph_for_every_number_of_tokens():
    counter = CompileCounter()
    compiled = torch.compile(sima_attention, fullgraph=True, dynamic=True, backend=counter)
    for tokens in SIZES:
        tensors = inputs(queries=tokens)
        assert relative_error(compiled(*tensors), sima_attention(*tensors)) < 1e-12
    assert counter.frame_count == 1


def test_one_graph_where_the_user_marks_the_tokens():
    counter = CompileCounter()
    compiled = torch.compile(sima_attention, fullgraph=True, backend=counter)
    for tokens in SIZES:
        tensors = inputs(queries=tokens)
        for tensor in tensors:
            torch._dynamo.mark_dynamic(tensor, 2)
        assert relative_error(compiled(*tensors), sima_attention(*tensors)) < 1e-12
    assert counter.frame_count == 1


def test_left_to_itself_it_recompiles_once():
    counter = CompileCounter()
    compiled = torch.compile(sima_attention, fullgraph=True, backend=counter)
    for tokens in SIZES:
        compiled(*inputs(queries=tokens))
    assert counter.frame_count == 2


@pytest.mark.parametrize("low", [None, -100.0], ids=["boolean", "float"])
def test_masks_compile(low):
    counter = CompileCounter()
    compiled = torch.compile(sima_attention, fullgraph=True, dynamic=True, backend=counter)
    for tokens in (197, 577, 50):
        tensors, keep = inputs(queries=tokens), torch.rand(2, tokens) > 0.3
        mask = keep if low is None else torch.zeros(2, tokens).masked_fill(~keep, low)
        assert relative_error(compiled(*tensors, mask), sima_attention(*tensors, keep)) < 1e-12
    assert counter.frame_count == 1


def test_a_bias_is_refused_inside_a_graph_too():
    compiled = torch.compile(sima_attention, fullgraph=True, backend="aot_eager")
    with pytest.raises(RuntimeError, match="position bias"):
        compiled(*inputs(), torch.randn(2, 17))


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_a_compiled_gradient_of_torch_func(backend):
    """It was zero, without a word, where the fused kernels serve."""

    def loss(query, key, value):
        return sima_attention(query, key, value, gain="tokens", backend=backend).pow(3).sum()

    tensors = inputs(channels=16, dtype=torch.float32)
    leaves = [x.double().requires_grad_() for x in tensors]
    expected = torch.autograd.grad(loss(*leaves), leaves)
    for gradient in (
        torch.func.grad(loss, (0, 1, 2)),
        lambda *tensors: torch.func.vjp(loss, *tensors)[1](torch.ones(())),
    ):
        found = torch.compile(gradient, fullgraph=True, backend="aot_eager")(*tensors)
        assert all(relative_error(one, two) < 1e-5 for one, two in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inductor_forward_and_backward(dtype, backend):
    attend = functools.partial(sima_attention, backend=backend)
    tensors = inputs(queries=70, channels=16, dtype=dtype)
    leaves = [[tensor.detach().clone().requires_grad_() for tensor in tensors] for _ in range(2)]
    upstream = torch.randn(2, 3, 70, 16).to(dtype)
    results = []
    for function, own in zip((torch.compile(attend, fullgraph=True), attend), leaves, strict=True):
        out = function(*own)
        results.append((out, *torch.autograd.grad(out, own, upstream)))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    for found, expected in zip(*results, strict=True):
        assert relative_error(found, expected) < tolerance


class Attention(torch.nn.Module):
    def __init__(self, **options):
        super().__init__()
        self.options = options

    def forward(self, query, key, value, mask=None):
        return sima_attention(query, key, value, mask, **self.options)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("masked", [False, True], ids=["no-mask", "padding"])
def test_export_with_dynamic_batch_and_tokens(masked, strict):
    batch, tokens = torch.export.Dim("batch"), torch.export.Dim("tokens")
    shape = {0: batch, 2: tokens}
    example = (*inputs(queries=197), *([torch.rand(2, 197) > 0.3] if masked else []))
    shapes = (shape, shape, shape, *([{0: batch, 1: tokens}] if masked else []))
    module = Attention(gain="tokens")
    program = torch.export.export(module, example, dynamic_shapes=shapes, strict=strict).module()
    for size, length in ((1, 5), (4, 577), (3, 2)):
        given = (*inputs(size, queries=length), *([torch.rand(size, length) > 0.3] if masked else []))
        assert relative_error(program(*given), module(*given)) < 1e-12


def test_gradient_per_sample_and_forward_mode():
    query, key, value = inputs(3, queries=7)
    samples = torch.func.vmap(
        torch.func.grad(lambda q, k, v: sima_attention(q[None], k[None], v[None]).square().sum())
    )
    leaf = query.clone().requires_grad_()
    (expected,) = torch.autograd.grad(sima_attention(leaf, key, value).square().sum(), leaf)
    assert relative_error(samples(query, key, value), expected) < 1e-12

    tangent = torch.randn_like(query)
    _, directional = torch.func.jvp(lambda q: sima_attention(q, key, value), (query,), (tangent,))
    step = 1e-6
    ahead, behind = (sima_attention(query + sign * step * tangent, key, value) for sign in (1, -1))
    assert relative_error(directional, (ahead - behind) / (2 * step)) < 1e-6

"""The fused kernels against float64: in Triton's interpreter here, on the device itself where there is one (`-m gpu`)."""

import os

import pytest
import torch
from tensors import DTYPES, definition, formula, inputs, relative_error

from sima_hf import sima_attention
from sima_hf.errors import BackendError
from sima_hf.ops import triton as fused


pytest.importorskip("triton", reason="pip install triton")
HALVES = (torch.float32, torch.bfloat16, torch.float16)
SIZES = [  # batch, heads, queries, keys, channels, value channels
    (2, 3, 1, 1, 16, 16),
    (2, 1, 49, 49, 32, 32),
    (1, 2, 63, 63, 48, 48),
    (1, 2, 197, 197, 64, 64),
    (1, 1, 64, 16, 80, 96),
    (2, 1, 5, 130, 8, 24),
    (1, 1, 70, 70, 128, 128),
    (1, 1, 33, 33, 256, 256),
]
LARGE = [(1, 1, 577, 577, 64, 64), (1, 1, 1025, 1025, 32, 32), (1, 1, 4096, 4096, 16, 16)]
ON_DEVICE = [
    *SIZES,
    *LARGE,
    (8, 6, 197, 197, 64, 64),
    (1, 6, 16384, 16384, 64, 64),
    (1, 1, 1_000_003, 1_000_003, 32, 32),
]


def leaves(sizes, dtype, device="cpu"):
    batch, heads, queries, keys, channels, values = sizes
    found = inputs(batch, heads, queries, keys, channels, values, dtype=dtype)
    return [leaf.detach().to(device).requires_grad_() for leaf in found]


def padding(sizes, device="cpu"):
    keep = torch.ones(sizes[0], sizes[3], dtype=torch.bool, device=device)
    keep[-1, sizes[3] // 2 + 1 :] = False
    return keep


def expected(tensors, keep, gain):
    if keep is None:
        return formula(*tensors, gain)
    return definition(*tensors, keep, None, gain)


def check(sizes, dtype, masked, gain, device="cpu"):
    """Output and gradients; where a single token makes a gradient vanish, it has to be small beside the others."""
    query, key, value = leaves(sizes, dtype, device)
    keep = padding(sizes, device) if masked else None
    out = sima_attention(query, key, value, keep, gain=gain, backend="triton")
    assert out.dtype == dtype
    assert out.transpose(1, 2).is_contiguous()
    weights = torch.randn_like(out)
    found = torch.autograd.grad((out * weights).sum(), (query, key, value))
    doubles = [leaf.detach().double().requires_grad_() for leaf in (query, key, value)]
    right = expected(doubles, keep, gain)
    wanted = torch.autograd.grad((right * weights.double()).sum(), doubles)
    tolerance = DTYPES[dtype] * (2 if dtype != torch.float32 else 1)
    assert relative_error(out, right) < tolerance
    for one, two in zip(found, wanted, strict=True):
        if sizes[2] > 1 and sizes[3] > 1:
            assert relative_error(one, two) < tolerance
        assert one.isfinite().all()


@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sizes", SIZES, ids=str)
def test_one_program_for_each_head(sizes, dtype, masked, gain):
    check(sizes, dtype, masked, gain)


@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "padded"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sizes", SIZES[1:6], ids=str)
def test_tokens_split_over_programs(sizes, dtype, masked, gain, monkeypatch):
    monkeypatch.setattr(fused, "_pieces", lambda heads, tokens, device: 3)
    check(sizes, dtype, masked, gain)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sizes", LARGE, ids=str)
def test_many_tokens(sizes, dtype):
    """float16 neither overflows nor vanishes, whatever the number of tokens."""
    check(sizes, dtype, False, "tokens")


@pytest.mark.gpu
@pytest.mark.parametrize("gain", ["none", "tokens"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sizes", ON_DEVICE, ids=str)
def test_on_the_device(sizes, dtype, gain):
    check(sizes, dtype, False, gain, "cuda")


def test_outputs_are_written_whole(monkeypatch):
    """Whatever the memory held before."""
    made = fused._rows_first
    monkeypatch.setattr(fused, "_rows_first", lambda query, width: made(query, width).fill_(float("nan")))
    for sizes in SIZES:
        check(sizes, torch.float32, True, "tokens")


@pytest.mark.parametrize("view", ["heads first", "every second token", "channels apart", "one for all images"])
def test_strides_are_honoured(view):
    def seen(x):
        return {
            "heads first": lambda: x.contiguous(),
            "every second token": lambda: x.repeat_interleave(2, dim=2)[:, :, ::2],
            "channels apart": lambda: x.transpose(-1, -2).contiguous().transpose(-1, -2),
            "one for all images": lambda: x[:1].expand(2, -1, -1, -1),
        }[view]()

    query, key, value = (seen(x) for x in inputs(2, 3, 33, dtype=torch.float32, channels=16))
    found = sima_attention(query, key, value, backend="triton")
    assert relative_error(found, formula(query, key, value)) < 1e-5


def test_dead_channels_and_grouped_heads():
    query, key, value = (
        leaf.detach().clone() for leaf in inputs(2, 4, 9, key_heads=2, channels=16, dtype=torch.float32)
    )
    query[:, 1, :, 3] = 0
    key[:, 0, :, 5] = 0
    tensors = [x.requires_grad_() for x in (query, key, value)]
    found = sima_attention(*tensors, backend="triton")
    right = sima_attention(*tensors, backend="eager")
    assert relative_error(found, right) < 1e-5
    for one, two in zip(*(torch.autograd.grad(out.square().sum(), tensors) for out in (found, right)), strict=True):
        assert relative_error(one, two) < 1e-4


def test_what_padded_tokens_hold_does_not_matter():
    query, key, value = inputs(2, 2, 17, channels=16, dtype=torch.float32)
    keep = padding((2, 2, 17, 17, 16, 16))
    right = sima_attention(query, key, value, keep, backend="triton")
    for x in (query, key, value):
        x[1, :, 9:] = float("nan")
    assert torch.equal(sima_attention(query, key, value, keep, backend="triton"), right)


@pytest.mark.parametrize("case", ["full mask", "bias", "empty", "wide values"])
def test_what_the_kernels_leave_to_eager(case):
    query, key, value = inputs(
        2, 2, 9, channels=16, value_channels=300 if case == "wide values" else None, dtype=torch.float32
    )
    options = {}
    if case == "full mask":
        options["mask"] = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    elif case == "bias":
        options["bias"] = torch.randn(1, 2, 9, 9)
    elif case == "empty":
        query, key, value = query[:0], key[:0], value[:0]
    found = sima_attention(query, key, value, backend="triton", **options)
    assert torch.equal(found, sima_attention(query, key, value, backend="eager", **options))


def test_operators_are_what_torch_expects():
    """Schema and fake tensors, by torch's own checks."""
    query, key, value = inputs(2, 2, 9, channels=16, dtype=torch.float32)
    checks = ("test_schema", "test_faketensor")
    for keep in (None, padding((2, 2, 9, 9))):
        torch.library.opcheck(torch.ops.sima.attention.default, (query, key, value, keep, True), test_utils=checks)
        out, *saved = torch.ops.sima.attention(query, key, value, keep, True)
        arguments = (out, query, key, value, keep, *saved)
        torch.library.opcheck(torch.ops.sima.attention_backward.default, arguments, test_utils=checks)


def test_one_graph_and_its_gradients():
    torch._dynamo.reset()
    tensors = leaves((2, 2, 33, 33, 16, 16), torch.float32)

    def loss(*tensors):
        return sima_attention(*tensors, gain="tokens", backend="triton").square().sum()

    right = torch.autograd.grad(loss(*tensors), tensors)
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*tensors), tensors)
    for one, two in zip(found, right, strict=True):
        torch.testing.assert_close(one, two)


def test_exported_graphs_hold_plain_operations():
    class Attend(torch.nn.Module):
        def forward(self, query, key, value):
            return sima_attention(query, key, value, backend="triton")

    tensors = inputs(1, 2, 33, channels=16, dtype=torch.float32)
    program = torch.export.export(Attend(), tensors)
    assert not any("sima" in str(node.target) for node in program.graph.nodes)
    assert relative_error(program.module()(*tensors), formula(*tensors)) < 1e-5


def test_function_transforms():
    query, key, value = inputs(3, 2, 9, channels=16, dtype=torch.float32)

    def one(query, key, value):
        return sima_attention(query[None], key[None], value[None], backend="triton")[0]

    together = sima_attention(query, key, value, backend="triton")
    torch.testing.assert_close(torch.vmap(one)(query, key, value), together)
    torch.testing.assert_close(torch.vmap(one, in_dims=(0, None, None))(query, key[0], value[0])[0], together[0])

    def loss(query, key, value):
        return one(query, key, value).square().sum()

    found = torch.vmap(torch.func.grad(loss))(query, key, value)
    right = torch.stack([torch.func.grad(loss)(*rows) for rows in zip(query, key, value, strict=True)])
    torch.testing.assert_close(found, right)


def test_reasons(monkeypatch):
    query = torch.randn(1, 1, 4, 16)
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "0")
    assert fused.why_not(query) == "it needs a CUDA device, and the tensors are on cpu"
    with pytest.raises(
        BackendError, match=r"'triton' cannot serve here: it needs a CUDA device.*backend='auto' picks one"
    ):
        sima_attention(query, query, query, backend="triton")
    monkeypatch.setitem(os.environ, "TRITON_INTERPRET", "1")
    assert "float64 came" in fused.why_not(query.double())
    assert "at most 256" in fused.why_not(torch.randn(1, 1, 4, 257))
    monkeypatch.setattr(fused.importlib.util, "find_spec", lambda name: None)
    assert fused.why_not(query) == "triton is not installed: pip install triton"


def test_auto_never_interprets():
    """The interpreter is for tests; on a CPU the eager backend serves."""
    from sima_hf.ops.backends import pick_backend
    from sima_hf.ops.eager import eager_attention

    assert pick_backend("auto", torch.randn(1, 1, 4, 16)) is eager_attention

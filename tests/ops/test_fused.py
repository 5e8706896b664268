"""The fused kernels of CPU and CUDA against float64: the latter in Triton's interpreter here, on the device where there is one."""

import dataclasses
import functools
import types
from pathlib import Path

import pytest
import torch
from torch.autograd import forward_ad
from torch.distributed.tensor import Shard, distribute_tensor

from sima_hf import sima_attention
from sima_hf.errors import BackendError
from sima_hf.ops import backends, cpu, triton
from tests.helpers.backends import BOTH, NO_CPU, NO_TRITON
from tests.helpers.tensors import DTYPES, definition, formula, inputs, relative_error


both = pytest.mark.parametrize("backend", BOTH)
MODULES = {"cpu": cpu, "triton": triton}
HALVES = (torch.float32, torch.bfloat16, torch.float16)
# bfloat16 adds conversions alone, float16 scaling of its own.
each_dtype = pytest.mark.parametrize(
    ("dtype", "masked", "gain"),
    [
        (torch.float32, False, "none"),
        (torch.float32, True, "tokens"),
        (torch.bfloat16, True, "tokens"),
        (torch.float16, False, "none"),
        (torch.float16, True, "tokens"),
    ],
    ids=str,
)
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


def in_pieces(monkeypatch):
    """Few tokens and columns a program, and several programs a head."""
    monkeypatch.setattr(triton, "launch", lambda *sizes: (3, 2))
    monkeypatch.setattr(triton, "blocks_for", lambda *sizes: triton.Blocks(16, 16, 4))


def check(backend, sizes, dtype, masked, gain, device="cpu"):
    """Output and gradients; where a single token makes a gradient vanish, it has to be small beside the others."""
    query, key, value = leaves(sizes, dtype, device)
    keep = padding(sizes, device) if masked else None
    out = sima_attention(query, key, value, keep, gain=gain, backend=backend)
    assert out.dtype == dtype
    assert out.transpose(1, 2).is_contiguous()
    weights = torch.randn_like(out)
    found = torch.autograd.grad((out * weights).sum(), (query, key, value))
    doubles = [leaf.detach().double().requires_grad_() for leaf in (query, key, value)]
    right = expected(doubles, keep, gain)
    wanted = torch.autograd.grad((right * weights.double()).sum(), doubles)
    tolerance = DTYPES[dtype] * (2 if dtype != torch.float32 else 1)
    assert relative_error(out, right) < tolerance, sizes
    for one, two in zip(found, wanted, strict=True):
        if sizes[2] > 1 and sizes[3] > 1:
            assert relative_error(one, two) < tolerance, sizes
        assert one.isfinite().all()


@pytest.mark.slow
@each_dtype
@both
def test_every_shape(backend, dtype, masked, gain, monkeypatch):
    """Written whole, whatever the memory held before."""
    module = MODULES[backend]
    made = module.empty_bnhd
    monkeypatch.setattr(module, "empty_bnhd", lambda like, width: made(like, width).fill_(float("nan")))
    for sizes in SIZES:
        check(backend, sizes, dtype, masked, gain)


@pytest.mark.slow
@each_dtype
@pytest.mark.skipif(NO_TRITON is not None, reason=str(NO_TRITON))
def test_tokens_split_over_programs(dtype, masked, gain, monkeypatch):
    in_pieces(monkeypatch)
    for sizes in (SIZES[2], SIZES[4], SIZES[5]):
        check("triton", sizes, dtype, masked, gain)


@pytest.mark.slow
@each_dtype
@pytest.mark.skipif(NO_CPU is not None, reason=str(NO_CPU))
def test_tokens_in_pieces(dtype, masked, gain):
    for sizes in ((1, 2, 1300, 1300, 24, 40), (2, 1, 600, 70, 64, 64), (1, 1, 9, 2049, 17, 5)):
        check("cpu", sizes, dtype, masked, gain)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sizes", LARGE, ids=str)
@both
def test_many_tokens(backend, sizes, dtype):
    """float16 neither overflows nor vanishes, whatever the number of tokens."""
    check(backend, sizes, dtype, False, "tokens")


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("sizes", ON_DEVICE, ids=str)
def test_on_the_device(sizes, dtype, record_testsuite_property):
    record_testsuite_property("gpu", torch.cuda.get_device_name())  # in the file of `make gpu-check`
    for gain in ("none", "tokens"):
        check("triton", sizes, dtype, False, gain, "cuda")


@both
def test_dead_channels_and_grouped_heads(backend):
    query, key, value = (
        leaf.detach().clone() for leaf in inputs(2, 4, 9, key_heads=2, channels=16, dtype=torch.float32)
    )
    query[:, 1, :, 3] = 0
    key[:, 0, :, 5] = 0
    tensors = [x.requires_grad_() for x in (query, key, value)]
    found = sima_attention(*tensors, backend=backend)
    right = sima_attention(*tensors, backend="eager")
    assert relative_error(found, right) < 1e-5
    for one, two in zip(*(torch.autograd.grad(out.square().sum(), tensors) for out in (found, right)), strict=True):
        assert relative_error(one, two) < 1e-4


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@both
def test_norms_whose_product_is_no_float32(backend, split, monkeypatch):
    """Each is one, so they are divided by one after the other."""
    if split:
        in_pieces(monkeypatch)
    query, key, value = leaves((1, 2, 33, 33, 16, 16), torch.float32)
    tensors = [(scale * x.detach()).requires_grad_() for x, scale in ((query, 1e18), (key, 1e18), (value, 1e-3))]
    doubles = [x.detach().double().requires_grad_() for x in tensors]
    assert (doubles[0].abs().sum(2) * doubles[1].abs().sum(2) > torch.finfo(torch.float32).max).any()
    weights = 1e-3 * torch.randn(1, 2, 33, 16)
    found, right = sima_attention(*tensors, gain="tokens", backend=backend), formula(*doubles, "tokens")
    assert relative_error(found, right) < 1e-5
    wanted = torch.autograd.grad((right * weights).sum(), doubles)
    for one, two in zip(torch.autograd.grad((found * weights).sum(), tensors), wanted, strict=True):
        assert relative_error(one * 1e18, two * 1e18) < 1e-5


@pytest.mark.parametrize("split", [False, True], ids=["whole", "split"])
@both
def test_small_channels_count_as_much_as_large_ones_in_float16(backend, split, monkeypatch):
    """Output and gradients, channel by channel: one of q and one of k is a millionth of the others, one of v a thousandth."""
    if split:
        in_pieces(monkeypatch)
    query, key, value = (x.detach() for x in leaves((1, 2, 33, 33, 16, 16), torch.float32))
    for x, channel in ((query, 3), (key, 5)):
        x *= 1e3  # so that float16 holds their millionth, and the gradients by it
        x[..., channel] *= 1e-6
    value[..., 7] *= 1e-3
    tensors = [x.half().requires_grad_() for x in (query, key, value)]
    doubles = [x.detach().double().requires_grad_() for x in tensors]
    found, right = sima_attention(*tensors, gain="tokens", backend=backend), formula(*doubles, "tokens")
    weights = torch.randn(1, 2, 33, 16).half()
    gradients = torch.autograd.grad(found, tensors, weights), torch.autograd.grad(right, doubles, weights.double())
    for one, two in ((found, right), *zip(*gradients, strict=True)):
        for channel in range(16):
            assert relative_error(one[..., channel], two[..., channel]) < 1e-2, channel


@pytest.mark.parametrize("view", ["every second token", "one for all images", "part of a longer one", "transposed"])
@both
def test_masks_of_any_strides(backend, view):
    """Forward and backward, with gradients that are views of one number."""
    keep = torch.rand(2, 33) > 0.3
    seen = {
        "every second token": lambda: keep.repeat_interleave(2, 1)[:, ::2],
        "one for all images": lambda: keep[:1].expand(2, -1),
        "part of a longer one": lambda: torch.cat([~keep, keep], 1)[:, 33:],
        "transposed": lambda: keep.t().contiguous().t(),
    }[view]()
    tensors = leaves((2, 3, 33, 33, 16, 16), torch.float32)
    found, right = sima_attention(*tensors, seen, backend=backend), definition(*tensors, seen)
    assert relative_error(found, right) < 1e-5
    for one, two in zip(*(torch.autograd.grad(x.sum(), tensors) for x in (found, right)), strict=True):
        assert relative_error(one, two) < 1e-5


@pytest.mark.parametrize("case", ["full mask", "bias and padding", "empty", "wide values"])
@both
def test_what_the_kernels_leave_to_eager(backend, case):
    query, key, value = inputs(
        2, 2, 9, channels=16, value_channels=300 if case == "wide values" else None, dtype=torch.float32
    )
    options = {}
    if case == "full mask":
        options["mask"] = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    elif case == "bias and padding":
        options["bias"] = torch.randn(1, 2, 9, 9)
        options["mask"] = torch.arange(9) < torch.tensor([[9], [5]])
    elif case == "empty":
        query, key, value = query[:0], key[:0], value[:0]
    found = sima_attention(query, key, value, backend=backend, **options)
    assert torch.equal(found, sima_attention(query, key, value, backend="eager", **options))


@both
def test_operators_are_what_torch_expects(backend):
    """Schema and fake tensors, by torch's own checks."""
    query, key, value = inputs(2, 2, 9, channels=16, dtype=torch.float32)
    checks = ("test_schema", "test_faketensor")
    forward, backward = (getattr(torch.ops.sima, f"{backend}_attention{part}").default for part in ("", "_backward"))
    for keep in (None, padding((2, 2, 9, 9))):
        for save in (True, False):
            torch.library.opcheck(forward, (query, key, value, keep, keep is not None, True, save), test_utils=checks)
        out, *saved = forward(query, key, value, keep, keep is not None, True, True)
        torch.library.opcheck(backward, (out, query, key, value, keep, keep is not None, *saved), test_utils=checks)


@pytest.mark.slow
@both
def test_one_graph_and_its_gradients(backend):
    torch._dynamo.reset()
    tensors = leaves((2, 2, 33, 33, 16, 16), torch.float32)

    def loss(*tensors):
        return sima_attention(*tensors, gain="tokens", backend=backend).square().sum()

    right = torch.autograd.grad(loss(*tensors), tensors)
    found = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(*tensors), tensors)
    for one, two in zip(found, right, strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.slow
@both
def test_exported_graphs_hold_plain_operations(backend):
    class Attend(torch.nn.Module):
        def forward(self, query, key, value):
            return sima_attention(query, key, value, backend=backend)

    tensors = inputs(1, 2, 33, channels=16, dtype=torch.float32)
    program = torch.export.export(Attend(), tensors)
    assert not any("sima" in str(node.target) for node in program.graph.nodes)
    assert relative_error(program.module()(*tensors), formula(*tensors)) < 1e-5


@pytest.mark.slow
@both
def test_traced_graphs_hold_plain_operations(backend):
    """What torch.jit.trace and the exporters built on it write is to run without this package."""
    tensors = inputs(1, 2, 33, channels=16, dtype=torch.float32)
    traced = torch.jit.trace(lambda *qkv: sima_attention(*qkv, backend=backend), tensors, check_trace=False)
    assert "sima::" not in str(traced.graph)
    assert relative_error(traced(*tensors), formula(*tensors)) < 1e-5


@both
def test_forward_mode(backend):
    """By dual tensors and by torch.func.jvp, against the derivative along a line in float64."""
    tensors = inputs(1, 2, 9, channels=16, dtype=torch.float32)
    tangents = [torch.randn_like(x) for x in tensors]
    doubles = [x.double() for x in tensors]
    ahead, behind = (
        formula(*(x + sign * 1e-6 * t.double() for x, t in zip(doubles, tangents, strict=True))) for sign in (1, -1)
    )
    expected = (ahead - behind) / 2e-6
    attend = functools.partial(sima_attention, backend=backend)
    _, found = torch.func.jvp(attend, tensors, tuple(tangents))
    assert relative_error(found, expected) < 1e-4
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(x, t) for x, t in zip(tensors, tangents, strict=True)]
        assert relative_error(forward_ad.unpack_dual(attend(*duals)).tangent, expected) < 1e-4


@pytest.fixture
def one_process(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield torch.distributed.init_device_mesh("cpu", (1,))
    torch.distributed.destroy_process_group()


@both
def test_distributed_tensors(backend, one_process):
    """Their own dispatch knows torch's operations, not ours."""
    tensors = inputs(1, 2, 9, channels=16, dtype=torch.float32)
    sharded = [distribute_tensor(x, one_process, [Shard(1)]) for x in tensors]
    found = sima_attention(*sharded, backend=backend)
    assert relative_error(found.full_tensor(), formula(*tensors)) < 1e-5


@both
def test_function_transforms(backend):
    query, key, value = inputs(3, 2, 9, channels=16, dtype=torch.float32)

    def one(query, key, value):
        return sima_attention(query[None], key[None], value[None], backend=backend)[0]

    together = sima_attention(query, key, value, backend=backend)
    torch.testing.assert_close(torch.vmap(one)(query, key, value), together)
    torch.testing.assert_close(torch.vmap(one, in_dims=(0, None, None))(query, key[0], value[0])[0], together[0])

    def loss(query, key, value):
        return one(query, key, value).square().sum()

    found = torch.vmap(torch.func.grad(loss))(query, key, value)
    right = torch.stack([torch.func.grad(loss)(*rows) for rows in zip(query, key, value, strict=True)])
    torch.testing.assert_close(found, right)


@both
def test_gradients_of_gradients(backend):
    """Through autograd and through torch.func, with padding too, against float64."""
    tensors = leaves((1, 2, 7, 7, 3, 4), torch.float32)
    keep = torch.arange(7)[None] < 5

    def second(tensors, **options):
        out = sima_attention(*tensors, keep, gain="tokens", **options)
        first = torch.autograd.grad(out.pow(3).sum(), tensors, create_graph=True)
        return torch.autograd.grad(sum(x.square().sum() for x in first), tensors)

    doubles = [x.detach().double().requires_grad_() for x in tensors]
    for found, right in zip(second(tensors, backend=backend), second(doubles), strict=True):
        assert relative_error(found, right) < 1e-4

    def loss(query, **options):
        return sima_attention(query, *(x.to(query.dtype) for x in tensors[1:]), keep, **options).pow(2).sum()

    found = torch.func.hessian(functools.partial(loss, backend=backend))(tensors[0].detach())
    assert relative_error(found, torch.func.hessian(loss)(doubles[0].detach())) < 1e-4


@both
@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 1)], ids=str)
@pytest.mark.parametrize("gain", ["none", "tokens"])
def test_a_position_bias_is_added(backend, gain, shape):
    tensors, bias = leaves((2, 2, 9, 9, 16, 16), torch.float32), torch.randn(*shape, 9, 9, requires_grad=True)
    found = sima_attention(*tensors, gain=gain, bias=bias, backend=backend)
    right = definition(*tensors, None, bias, gain)
    assert relative_error(found, right) < 1e-5
    given = (*tensors, bias)
    for one, two in zip(*(torch.autograd.grad(x.square().sum(), given) for x in (found, right)), strict=True):
        assert relative_error(one, two) < 1e-5


@pytest.mark.skipif(NO_CPU is not None, reason=str(NO_CPU))
@pytest.mark.parametrize("tokens", [49, 1300])
def test_threads_change_nothing(tokens):
    tensors = leaves((2, 3, tokens, tokens, 32, 32), torch.float32)
    results, before = [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = sima_attention(*tensors, backend="cpu")
            results.append((out, *torch.autograd.grad(out.square().sum(), tensors)))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one, two) for one, two in zip(*results, strict=True))


def test_reasons_of_triton(monkeypatch):
    query = torch.randn(1, 1, 4, 16)
    if NO_TRITON is None:
        monkeypatch.setenv("TRITON_INTERPRET", "0")
        assert triton.why_not(query) == "it needs a CUDA device, and the tensors are on cpu"
        with pytest.raises(
            BackendError, match=r"'triton' cannot serve here: it needs a CUDA device.*backend='auto' picks one"
        ):
            sima_attention(query, query, query, backend="triton")
        if not torch.cuda.is_available():
            assert backends.backend_report()["triton"] == "it needs a CUDA device, and torch finds none here"
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert backends.backend_report()["triton"].startswith("fused kernels for CUDA")
        assert "got float64" in triton.why_not(query.double())
        for capability, words in (((7, 5), "compute capability 8.0 or more, got 7.5"), ((8, 0), None)):
            monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
            on_gpu = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, shape=(1, 1, 4, 16))
            assert words is triton.why_not(on_gpu) or words in triton.why_not(on_gpu)
        assert "at most 256" in triton.why_not(torch.randn(1, 1, 4, 257))
    monkeypatch.setattr(triton.importlib.util, "find_spec", lambda name: None)
    assert triton.why_not(query) == "triton is not installed: pip install triton"


def test_auto_takes_the_kernels_for_cuda_once_they_have_run_on_a_gpu(monkeypatch):
    """The flag wants the file of the run; until then plain torch serves, and the report says so."""
    ran = backends.TRITON_RAN_ON_A_GPU
    assert not ran or (Path(__file__).parents[2] / "benchmarks/results/gpu_tests.xml").exists()
    able = [dataclasses.replace(row, why_not=lambda query: None) for row in backends.BACKENDS]
    monkeypatch.setattr(backends, "BACKENDS", able)
    assert ("'auto' takes 'eager'" in backends.backend_report()["triton"]) is not ran
    query = types.SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32, shape=(1, 1, 4, 16))
    assert backends.served_by("auto", query) == ("triton" if ran else "eager")


def test_auto_takes_the_cpu_kernels_and_else_eager(monkeypatch):
    """Never Triton's interpreter, which is for tests."""
    query = torch.randn(1, 1, 4, 16)
    if NO_CPU is None:
        assert backends.pick_backend("auto", query) is cpu.cpu_attention
        assert backends.pick_backend("auto", query.double()) is backends.eager_attention
        assert backends.pick_backend("auto", torch.randn(1, 1, 4, 257)) is backends.eager_attention
    monkeypatch.setattr(cpu, "library", lambda: "no C++ compiler was found")
    assert backends.pick_backend("auto", query) is backends.eager_attention
    with pytest.raises(BackendError, match=r"'cpu' cannot serve here: no C\+\+ compiler was found"):
        sima_attention(query, query, query, backend="cpu")

"""Numbers: both backends against a float64 oracle, for every mask, order, gain, dtype and size promised."""

import pytest
import torch

from sima_hf import sima_attention
from tests.helpers.backends import BOTH
from tests.helpers.tensors import (
    DTYPE_IDS,
    DTYPES,
    definition,
    everyone,
    formula,
    inputs,
    oracle,
    relative_error,
    strided,
)


BACKENDS = ("eager", "reference")
ORDERS = ("linear", "quadratic")
GAINS = ("none", "tokens")

every_way = [
    pytest.mark.parametrize("backend", BACKENDS),
    pytest.mark.parametrize("order", ORDERS),
    pytest.mark.parametrize("gain", GAINS),
]


def in_every_way(test):
    for mark in every_way:
        test = mark(test)
    return test


def padding(batch, tokens):
    keep = torch.rand(batch, tokens) > 0.3
    keep[:, 0] = True
    return keep


@in_every_way
def test_no_mask(backend, order, gain):
    query, key, value = inputs(value_channels=5)
    expected = oracle(query, key, value, everyone(2, 17, 17), everyone(2, 17, 17), gain)
    assert relative_error(formula(query, key, value, gain), expected) < 1e-12
    assert relative_error(sima_attention(query, key, value, None, gain, order, backend), expected) < 1e-12
    all_of_them = torch.ones(2, 17, dtype=torch.bool)
    assert relative_error(sima_attention(query, key, value, all_of_them, gain, order, backend), expected) < 1e-12


@in_every_way
def test_cross_attention_norms_run_over_their_own_tokens(backend, order, gain):
    query, key, value = inputs(queries=11, keys=19, value_channels=5)
    expected = oracle(query, key, value, everyone(2, 11, 11), everyone(2, 11, 19), gain)
    assert relative_error(sima_attention(query, key, value, None, gain, order, backend), expected) < 1e-12


@in_every_way
def test_key_padding_is_out_of_norms_and_sum(backend, order, gain):
    query, key, value = inputs()
    keep = padding(2, 17)
    keep[1] = False  # an image of padding alone
    pairs = keep[:, :, None] & keep[:, None, :]
    expected = oracle(query, key, value, pairs, pairs, gain)
    found = sima_attention(query, key, value, keep, gain, order, backend)
    assert relative_error(found, expected) < 1e-12
    assert (found.transpose(1, 2)[~keep] == 0).all()


@in_every_way
def test_key_padding_of_cross_attention(backend, order, gain):
    query, key, value = inputs(queries=11, keys=19)
    keep = padding(2, 19)
    expected = oracle(query, key, value, everyone(2, 11, 11), keep[:, None].expand(2, 11, 19), gain)
    assert relative_error(sima_attention(query, key, value, keep, gain, order, backend), expected) < 1e-12


@in_every_way
@pytest.mark.parametrize("kind", ["random", "causal"])
def test_full_masks(backend, order, gain, kind):
    query, key, value = inputs()
    allow = torch.rand(2, 1, 17, 17) > 0.4 if kind == "random" else everyone(1, 17, 17).tril()[None]
    allow[0, 0, 5] = kind == "causal" and allow[0, 0, 5]  # a row that sees nothing gives zeros
    seen = allow.expand(2, 1, 17, 17)[:, 0]
    expected = oracle(query, key, value, seen, seen, gain)
    assert relative_error(sima_attention(query, key, value, allow, gain, order, backend), expected) < 1e-12


@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
@in_every_way
def test_a_channel_that_a_row_sees_at_none_but_itself_hidden(backend, order, gain, gradients):
    """Its norm is zero and it counts for nothing, in inference as in training: the row's own number is not blown up."""
    query, key, value = inputs()
    query[:, :, 1:, 3] = 0
    allow = torch.rand(2, 1, 17, 17) > 0.4
    allow[..., 0] = False
    without = query.clone()
    without[..., 3] = 0
    expected = definition(without, key, value, allow, gain=gain)
    with torch.set_grad_enabled(gradients):
        found = sima_attention(query.requires_grad_(gradients), key, value, allow, gain, order, backend)
    assert relative_error(found.detach(), expected) < 1e-12


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_mask_per_head(backend):
    query, key, value = inputs()
    allow = torch.rand(2, 3, 17, 17) > 0.4
    heads = [oracle(*(t[:, h : h + 1] for t in (query, key, value)), allow[:, h], allow[:, h]) for h in range(3)]
    assert relative_error(sima_attention(query, key, value, allow, backend=backend), torch.cat(heads, 1)) < 1e-12


@in_every_way
def test_blocks_that_see_themselves_are_sima_inside_each_block(backend, order, gain):
    query, key, value = inputs(queries=15)
    allow = torch.block_diag(*[torch.ones(5, 5)] * 3).bool()[None, None]
    blocks = [[t[:, :, i : i + 5] for t in (query, key, value)] for i in (0, 5, 10)]
    expected = torch.cat([formula(*block, gain) for block in blocks], dim=2)
    assert relative_error(sima_attention(query, key, value, allow, gain, order, backend), expected) < 1e-12


@pytest.mark.parametrize("low", [-100.0, -1e4, float("-inf"), torch.finfo(torch.float32).min], ids=str)
@pytest.mark.parametrize("shape", [(2, 17), (2, 1, 17, 17), (1, 3, 17, 17)], ids=str)
def test_float_masks_mean_the_same(low, shape):
    query, key, value = inputs()
    mask = torch.rand(shape) > 0.4
    as_float = torch.zeros(shape).masked_fill(~mask, low)
    assert torch.equal(sima_attention(query, key, value, as_float), sima_attention(query, key, value, mask))


@in_every_way
@pytest.mark.parametrize("mask_kind", ["none", "padding", "full"])
def test_grouped_heads_are_repeated(mask_kind, backend, order, gain):
    query, key, value = inputs(heads=6, key_heads=2, value_channels=5)
    mask = {"none": None, "padding": padding(2, 17), "full": torch.rand(2, 6, 17, 17) > 0.4}[mask_kind]
    pairs = {
        "none": lambda: everyone(2, 17, 17)[:, None].expand(2, 6, 17, 17),
        "padding": lambda: (mask[:, None, :, None] & mask[:, None, None, :]).expand(2, 6, 17, 17),
        "full": lambda: mask,
    }[mask_kind]()
    heads = [
        oracle(query[:, [h]], key[:, [h // 3]], value[:, [h // 3]], pairs[:, h], pairs[:, h], gain) for h in range(6)
    ]
    found = sima_attention(query, key, value, mask, gain, order, backend)
    assert relative_error(found, torch.cat(heads, 1)) < 1e-12


def float16_steps(found, expected):
    """How many float16 numbers lie between the two, at most."""
    bits = [tensor.half().contiguous().view(torch.int16).int() for tensor in (found, expected)]
    found, expected = (torch.where(b < 0, -(b & 0x7FFF), b) for b in bits)
    return (found - expected).abs().max().item()


# The reference works in the dtype of its inputs, so only in the wide ones does it owe these tolerances.
# In float64 `auto` is eager.
SERVED = [("auto", dtype) for dtype in DTYPES if dtype != torch.float64] + [("eager", dtype) for dtype in DTYPES]
SERVED += [("reference", torch.float64), ("reference", torch.float32)]
SERVED_IDS = [f"{backend}-{str(dtype).removeprefix('torch.')}" for backend, dtype in SERVED]


# Sizes where blocks of kernels begin and end: tokens and channels that are one, odd, just below and above powers of two.
SIZES = [(1, 1), (1, 64), (2, 3), (2, 256), (49, 16), (49, 80), (63, 3), (63, 64), (197, 1), (197, 64), (197, 256)]


@pytest.mark.parametrize(("backend", "dtype"), SERVED, ids=SERVED_IDS)
@pytest.mark.parametrize(("order", "gain"), [("linear", "tokens"), ("quadratic", "none")])
def test_every_dtype_within_its_tolerance(gain, order, backend, dtype):
    for tokens, channels in SIZES:
        query, key, value = inputs(1, 2, tokens, channels=channels, dtype=dtype)
        expected = formula(query, key, value, gain)
        found = sima_attention(query, key, value, None, gain, order, backend)
        assert found.dtype == dtype
        assert found.shape == query.shape
        assert relative_error(found, expected) <= DTYPES[dtype], (tokens, channels)


@pytest.mark.parametrize(("backend", "dtype"), SERVED, ids=SERVED_IDS)
@pytest.mark.parametrize(("order", "gain"), [("linear", "tokens"), ("quadratic", "none")])
@pytest.mark.parametrize("mask_kind", ["padding", "cross-padding", "full", "causal"])
def test_masks_in_every_dtype_within_its_tolerance(mask_kind, gain, order, backend, dtype):
    queries, keys = (13, 23) if mask_kind == "cross-padding" else (23, 23)
    query, key, value = inputs(2, 2, queries, keys, channels=16, value_channels=7, dtype=dtype)
    if mask_kind in ("full", "causal"):
        mask = torch.rand(2, 1, 23, 23) > 0.3 if mask_kind == "full" else everyone(1, 23, 23).tril()[None]
        see_query = see_key = mask.expand(2, 1, 23, 23)[:, 0]
    else:
        mask = padding(2, keys)
        see_key = mask[:, None].expand(2, queries, keys)
        see_query = everyone(2, queries, queries)
        if mask_kind == "padding":
            see_query = see_key = see_key & mask[:, :, None]
    expected = oracle(query, key, value, see_query, see_key, gain)
    found = sima_attention(query, key, value, mask, gain, order, backend)
    assert found.dtype == dtype
    assert relative_error(found, expected) <= DTYPES[dtype]


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("gain", GAINS)
@pytest.mark.parametrize(("tokens", "channels"), [(577, 32), (4096, 1), (16384, 32), (65536, 32)])
def test_many_tokens(tokens, channels, gain, dtype):
    query, key, value = inputs(1, 2, tokens, channels=channels, dtype=dtype)
    expected = formula(query, key, value, gain)
    found = sima_attention(query, key, value, gain=gain)
    assert found.isfinite().all()
    if dtype == torch.float16 and gain == "none" and tokens >= 4096:
        # The result sinks towards float16's smallest numbers, so the nearest one is all there can be. One step is allowed
        # where rounding from float32 tips the balance between two neighbors.
        assert float16_steps(found, expected) <= 1
        assert (found == expected.half()).double().mean() > 0.99
    else:
        assert relative_error(found, expected) <= DTYPES[dtype]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_large_numbers_do_not_overflow_in_half_precision(dtype):
    query, key, value = (100 * tensor.abs() for tensor in inputs(1, 2, 5000, channels=16, dtype=torch.float64))
    narrow = [tensor.to(dtype) for tensor in (query, key, value)]
    assert relative_error(sima_attention(*narrow, gain="tokens"), formula(*narrow, "tokens")) <= DTYPES[dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=DTYPE_IDS)
@pytest.mark.parametrize("mask_kind", ["none", "padding", "full"])
def test_autocast_changes_nothing(mask_kind, dtype):
    query, key, value = inputs(queries=65, dtype=dtype)
    mask = {"none": None, "padding": padding(2, 65), "full": torch.rand(1, 1, 65, 65) > 0.3}[mask_kind]
    expected = sima_attention(query, key, value, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = sima_attention(query, key, value, mask)
    assert found.dtype == dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_autocast_leaves_the_reference_alone(dtype):
    """The result has the dtype of the query, as promised, whoever computes it."""
    tensors = inputs(dtype=dtype)
    with torch.autocast("cpu", torch.bfloat16):
        found = sima_attention(*tensors, backend="reference")
    assert found.dtype == dtype
    assert torch.equal(found, sima_attention(*tensors, backend="reference"))


@pytest.mark.parametrize("backend", [*BOTH, *BACKENDS])
@pytest.mark.parametrize("keys", [17, 19], ids=["self", "cross"])
def test_what_padded_tokens_hold_does_not_matter(keys, backend):
    query, key, value = inputs(keys=keys, channels=16, dtype=torch.float32)
    keep = padding(2, keys)
    expected = sima_attention(query, key, value, keep, backend=backend)
    for poison in (1e30, float("inf"), float("nan")):
        for tensor in (query, key, value) if keys == 17 else (key, value):
            tensor.transpose(1, 2)[~keep] = poison
        assert torch.equal(sima_attention(query, key, value, keep, backend=backend), expected)


@pytest.mark.parametrize(("backend", "dtype"), SERVED, ids=SERVED_IDS)
@pytest.mark.parametrize(("order", "gain"), [("linear", "tokens"), ("quadratic", "none")])
def test_tiny_inputs_are_floored_as_the_paper_does(gain, order, backend, dtype):
    """In float16 numbers as small as this are zero already, and so is the result."""
    query, key, value = inputs()
    for query_scale, key_scale in ((1e-20, 1e-20), (1e-15, 1e-14), (1e-20, 1), (1, 1e-20)):
        tensors = [tensor.to(dtype) for tensor in (query * query_scale, key * key_scale, value)]
        expected = formula(*tensors, gain)
        assert relative_error(sima_attention(*tensors, None, gain, order, backend), expected) <= DTYPES[dtype]


@pytest.mark.parametrize("mask_kind", ["none", "padding", "full"])
@pytest.mark.parametrize("key_heads", [3, 1])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("gain", GAINS)
def test_inference_gives_the_numbers_of_training(gain, order, key_heads, mask_kind):
    """Without gradients the eager backend takes short cuts, some of them in place."""
    tensors = inputs(key_heads=key_heads)
    tensors[0][:, 0, :, 2] = tensors[1][:, 0, :, 4] = 0
    mask = {"none": None, "padding": padding(2, 17), "full": torch.rand(2, 1, 17, 17) > 0.3}[mask_kind]
    copies = [tensor.clone().requires_grad_() for tensor in tensors]
    expected = sima_attention(*copies, mask, gain, order).detach()
    for inference in (torch.no_grad, torch.inference_mode):
        with inference():
            assert relative_error(sima_attention(*tensors, mask, gain, order), expected) < 1e-14
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))


@in_every_way
def test_inputs_are_left_as_they_were(backend, order, gain):
    tensors = [*inputs(), padding(2, 17)]
    copies = [tensor.clone() for tensor in tensors]
    sima_attention(*tensors, gain, order, backend)
    assert all(torch.equal(tensor, copy) for tensor, copy in zip(tensors, copies, strict=True))


@pytest.mark.parametrize("layout", ["transformers", "contiguous"])
def test_an_empty_batch_gives_an_empty_result(layout):
    tensors = inputs(0)
    if layout == "contiguous":
        tensors = [torch.empty(tensor.shape) for tensor in tensors]
    assert sima_attention(*tensors).shape == (0, 3, 17, 8)


LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "transformers": lambda x: x.transpose(1, 2).contiguous().transpose(1, 2),
    "channels-first": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "batch-inside": lambda x: x.transpose(0, 2).contiguous().transpose(0, 2),
    "every-other-channel": lambda x: x.repeat_interleave(2, -1)[..., ::2],
    "slice-of-fused": lambda x: torch.cat([x, x, x], -1)[..., x.shape[-1] : 2 * x.shape[-1]],
    "without-class-token": lambda x: (
        torch.cat([x[:, :, :1], x], 2).transpose(1, 2).contiguous().transpose(1, 2)[:, :, 1:]
    ),
    "every-other-token": lambda x: x.repeat_interleave(2, 2)[:, :, ::2],
}


@pytest.mark.parametrize("backend", [*BOTH, "eager"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout, backend):
    for *shape, order in ((1, 3, 17, "linear"), (5, 3, 17, "quadratic"), (2, 3, 3, "linear"), (2, 1, 520, "linear")):
        tensors = inputs(*shape, dtype=torch.float32)
        arranged = [LAYOUTS[layout](tensor) for tensor in tensors]
        assert all(torch.equal(a, b) for a, b in zip(arranged, tensors, strict=True))
        found = sima_attention(*arranged, order=order, backend=backend)
        assert relative_error(found, formula(*tensors)) < 1e-6, (shape, order)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("gradients", [False, True], ids=["inference", "training"])
@pytest.mark.parametrize(
    "sizes", [(4, -1, -1, -1), (-1, 4, -1, -1), (-1, -1, 9, -1)], ids=["batch", "heads", "tokens"]
)
def test_expanded_inputs(sizes, gradients, order):
    """Memory that several numbers share is read as often as needed, and never written."""
    small = inputs(*(1 if size > 0 else default for size, default in zip(sizes[:3], (2, 3, 17), strict=True)))
    expanded = [tensor.expand(sizes) for tensor in small]
    with torch.set_grad_enabled(gradients):
        found = sima_attention(*expanded, order=order)
    assert relative_error(found, formula(*expanded)) < 1e-12


def test_sums_in_pieces_agree(monkeypatch):
    """On CPU the norms of large inputs are summed in pieces, over images and over tokens."""
    from sima_hf.ops import eager

    query, key, value = inputs(5, 3, 50)
    expected = sima_attention(query, key, value)
    for scratch in (1, 100, 1000, 3 * 50 * 8, 4000):
        monkeypatch.setattr(eager, "SCRATCH", scratch)
        assert relative_error(sima_attention(query, key, value), expected) < 1e-12


def test_convolved_and_multiplied_agree(monkeypatch):
    """In inference on CPU, long float32 sequences take another way through `q M`."""
    from sima_hf.ops import eager

    query = strided(3, 4, 60, 16, torch.float32)
    context = torch.randn(3, 4, 16, 10)
    expected = query.double() @ context.double()
    monkeypatch.setattr(eager, "LONG", 1)
    convolved = eager.apply_context(query, context)
    assert convolved.transpose(1, 2).is_contiguous()
    assert relative_error(convolved, expected) < 1e-6
    assert relative_error(eager.apply_context(query.requires_grad_(), context), expected) < 1e-6

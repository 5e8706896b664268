"""Tokens split over processes: the numbers of one process, forward and backward, by one collective each."""

import pytest
import torch
from torch import distributed

from sima_hf import sima_attention
from tests.helpers.joined_processes import run_joined
from tests.helpers.tensors import DTYPES, definition, formula, inputs, relative_error


# Tokens of each process, by the number of processes: queries, and keys where they are other tokens.
SHARES = {2: ((11, 6), (0, 19)), 3: ((9, 0, 8), (4, 15, 0))}
SHARED = 2
CASES = {
    "plain": {},
    "gain": {"gain": "tokens"},
    "cross": {"keys": 19, "gain": "tokens", "value_channels": 5},
    "grouped": {"heads": 6, "key_heads": 2, "value_channels": 5},
    "padding": {"mask": True, "mask_queries": True, "gain": "tokens"},
    "padded keys": {"keys": 19, "mask": True, "mask_queries": False, "gain": "tokens"},
    "shared": {"shared_tokens": SHARED, "gain": "tokens"},
    "shared and padding": {"shared_tokens": SHARED, "gain": "tokens", "mask": True, "mask_queries": True},
}


def whole(case):
    """query, key, value, mask, the cotangent of the output, and the options of `sima_attention`."""
    torch.manual_seed(len(case))
    options = dict(CASES[case])
    sizes = {name: options.pop(name) for name in ("heads", "keys", "key_heads", "value_channels") if name in options}
    query, key, value = inputs(**sizes)
    query[0, 0, :, 3] = 0  # a channel that is zero everywhere
    mask = None
    if options.pop("mask", False):
        mask = torch.rand(2, key.shape[2]) > 0.3
        mask[1] = False  # an image of padding alone
    return query, key, value, mask, torch.randn(*query.shape[:3], value.shape[3]).double(), options


def share_of(x, rank, sizes, shared, dim=2):
    """The shared tokens and this process's own; `sizes` count the shared ones to the first process."""
    own = x.split(sizes, dim=dim)[rank]
    return torch.cat((x.narrow(dim, 0, shared), own), dim=dim) if shared and rank > 0 else own


def _attend(processes):
    distributed.init_process_group("gloo")
    rank, group, sent = distributed.get_rank(), distributed.group.WORLD, []
    reduce = distributed.all_reduce
    distributed.all_reduce = lambda x, group=None: (sent.append(x.numel()), reduce(x, group=group))
    found = {}
    for case in CASES:
        query, key, value, mask, grad, options = whole(case)
        shared = options.get("shared_tokens", 0)
        queries, keys = SHARES[processes][0], SHARES[processes]["keys" in CASES[case]]
        parts = [share_of(query, rank, queries, shared), *(share_of(x, rank, keys, shared) for x in (key, value))]
        parts = [part.clone().requires_grad_() for part in parts]
        mask = None if mask is None else share_of(mask, rank, keys, shared, dim=1)
        grad = share_of(grad, rank, queries, shared).clone()
        grad[:, :, :shared] /= processes  # each process's loss is of the whole, and the gradient that of their sum
        out = sima_attention(*parts, mask, group=group, **options)
        out.backward(grad)
        found[case] = (out.detach(), [part.grad for part in parts], list(sent))
        sent.clear()
    for dtype in DTYPES:
        torch.manual_seed(0)
        parts = [x.chunk(processes, dim=2)[rank].clone().requires_grad_() for x in inputs(queries=1031, dtype=dtype)]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = sima_attention(*parts, gain="tokens", group=group)
        out.sum().backward()
        found[dtype] = (out.detach(), [part.grad for part in parts])
    return found


@pytest.fixture(scope="module", params=SHARES)
def joined(request, tmp_path_factory):
    codes, found = run_joined(_attend, request.param, processes=request.param, folder=tmp_path_factory.mktemp("told"))
    assert codes == [0] * request.param, found
    return found


def joined_up(parts, shared):
    return torch.cat([part if rank == 0 else part[:, :, shared:] for rank, part in enumerate(parts)], dim=2)


@pytest.mark.parametrize("case", CASES)
def test_numbers_are_those_of_one_process(case, joined):
    query, key, value, mask, grad, options = whole(case)
    shared = options.get("shared_tokens", 0)
    tensors = [x.clone().requires_grad_() for x in (query, key, value)]
    expected = definition(*tensors, mask, gain=options.get("gain", "none"))
    expected.backward(grad)
    tensors[0].grad[0, 0, :, 3] = (
        0  # the gradient of a channel that is zero everywhere is none, not one over the floor
    )
    outputs, gradients, _ = zip(*(found[case] for found in joined), strict=True)
    for out in outputs:
        assert relative_error(out[:, :, :shared], expected[:, :, :shared].detach()) < 1e-12
    assert relative_error(joined_up(outputs, shared), expected.detach()) < 1e-12
    for of_each, tensor in zip(zip(*gradients, strict=True), tensors, strict=True):
        found = joined_up(of_each, shared)
        found[:, :, :shared] = sum(part[:, :, :shared] for part in of_each)
        assert relative_error(found, tensor.grad) < 1e-12


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_under_autocast_too(dtype, joined):
    torch.manual_seed(0)
    tensors = [x.double().requires_grad_() for x in inputs(queries=1031, dtype=dtype)]
    expected = formula(*tensors, gain="tokens")
    expected.sum().backward()
    outputs, gradients = zip(*(found[dtype] for found in joined), strict=True)
    assert outputs[0].dtype == dtype
    assert relative_error(torch.cat(outputs, dim=2), expected.detach()) < DTYPES[dtype]
    for of_each, tensor in zip(zip(*gradients, strict=True), tensors, strict=True):
        assert relative_error(torch.cat(of_each, dim=2), tensor.grad) < DTYPES[dtype]


@pytest.mark.parametrize(("case", "count"), [("plain", 0), ("gain", 2), ("grouped", 0), ("cross", 2)])
def test_one_collective_each_way_whatever_the_tokens(case, count, joined):
    query, key, value, *_ = whole(case)
    batch, heads, _, channels = query.shape
    numbers = batch * (heads * channels + key.shape[1] * channels * (1 + value.shape[3])) + count
    assert [found[case][2] for found in joined] == [[numbers, numbers]] * len(joined)


@pytest.fixture
def alone():
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield distributed.group.WORLD
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"order": "quadratic"}, ValueError, "order='quadratic' needs every pair of tokens"),
        ({"mask": torch.ones(1, 1, 17, 17, dtype=torch.bool)}, ValueError, "a full mask needs every pair of tokens"),
        ({"bias": torch.zeros(1, 1, 17, 17)}, ValueError, "`bias` needs every pair of tokens"),
        ({"backend": "cpu"}, ValueError, "The backend 'cpu' cannot serve here: tokens that are split"),
        ({"backend": "cuda"}, ValueError, "choose 'eager'"),
        ({"mask": torch.ones(2, 17, dtype=torch.bool)}, ValueError, "`mask_queries` must be True or False"),
        ({"shared_tokens": 18}, ValueError, "`shared_tokens` must be from 0 to 17, .* got 18"),
        ({"group": "WORLD"}, TypeError, "must be a torch.distributed.ProcessGroup, got str"),
        ({"group": distributed.GroupMember.NON_GROUP_MEMBER}, ValueError, "a process group that this process is in"),
        ({"group": None, "shared_tokens": 1}, ValueError, "`shared_tokens` must be 0 without a `group`, got 1"),
    ],
)
def test_what_has_no_such_form_is_refused(options, error, words, alone):
    with pytest.raises(error, match=words):
        sima_attention(*inputs(), **{"group": alone, **options})


def test_processes_that_are_not_joined_are_refused():
    with pytest.raises(ValueError, match=r"call torch\.distributed\.init_process_group first"):
        sima_attention(*inputs(), group="WORLD")


def test_a_file_holds_one_process(alone):
    class Attention(torch.nn.Module):
        def forward(self, query, key, value):
            return sima_attention(query, key, value, group=alone)

    with pytest.raises(Exception, match="`group` must be None while a graph is exported or traced"):
        torch.export.export(Attention(), inputs())
    with pytest.raises(ValueError, match="`group` must be None while a graph is exported or traced"):
        torch.jit.trace(Attention(), inputs())


def test_gradients_of_gradients(alone):
    tensors = [x.requires_grad_() for x in inputs(batch=1, heads=1, queries=5, channels=2)]
    assert torch.autograd.gradgradcheck(lambda *given: sima_attention(*given, group=alone), tensors)

"""torch.func.vmap over some of the inputs and not over others, as an ensemble over one set of keys does."""

import itertools

import pytest
import torch

from sima_hf import sima_attention
from tests.helpers.backends import BOTH
from tests.helpers.tensors import relative_error


SUBSETS = [dims for dims in itertools.product((0, None), repeat=3) if 0 in dims]
BACKENDS = [*BOTH, "eager", "reference"]


def stacked(dim, *shape):
    return torch.randn(*([3] if dim == 0 else []), *shape)


def check(dims, given, **options):
    """Against the paper's formula in float64, one of the stack at a time; with and without gradients."""
    for gradients in (False, True):
        with torch.set_grad_enabled(gradients):
            found = torch.vmap(lambda *given: sima_attention(*given, **options), dims)(*given)
        for index in range(3):
            one = [x if dim is None else x[index] for x, dim in zip(given, dims, strict=True)]
            doubles = [x.double() for x in one[:3]]
            right = sima_attention(*doubles, *one[3:], **{**options, "backend": "reference"})
            assert relative_error(found[index], right) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("dims", SUBSETS, ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_over_each_subset_of_query_key_and_value(backend, dims):
    # 520 tokens are more than a piece of either kernel; Triton's interpreter takes a second for each head of so many
    for order, heads, tokens in (("linear", 4, 7), ("quadratic", 4, 7), ("linear", 1, 520)):
        given = [stacked(dim, 2, heads, tokens, 16) for dim in dims]
        check(dims, given, order=order, backend=backend)


@pytest.mark.parametrize(
    ("dims", "mask_dim"),
    [((0, 0, 0), 0), ((0, 0, 0), None), ((0, None, None), 0), ((0, None, None), None), ((None, None, None), 0)],
    ids=str,
)
@pytest.mark.parametrize("backend", BACKENDS)
def test_with_masks_stacked_or_shared(backend, dims, mask_dim):
    for kind in ("padding", "float padding", "full", "float full"):
        given = [stacked(dim, 2, 2, 7, 16) for dim in dims]
        mask = stacked(mask_dim, *((2, 7) if "padding" in kind else (2, 1, 7, 7))) > -0.5
        if "float" in kind:
            mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, -1e4)
        check((*dims, mask_dim), [*given, mask], backend=backend)


def test_a_stacked_float_mask_that_is_a_bias_is_refused():
    given = [stacked(0, 2, 4, 7, 16) for _ in range(3)]
    with pytest.raises(ValueError, match="position bias"):
        torch.vmap(sima_attention)(*given, stacked(0, 2, 7))

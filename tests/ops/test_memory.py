"""Memory: linear in the tokens, forward and backward, and inputs are read where they lie."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from sima_hf import sima_attention
from tests.helpers.tensors import inputs


pytestmark = pytest.mark.slow


class Recorder(TorchDispatchMode):
    """Names and sizes of every new tensor that an operation writes."""

    def __init__(self):
        super().__init__()
        self.made = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            results = result if isinstance(result, (tuple, list)) else (result,)
            self.made += [(str(func), r.numel()) for r in results if isinstance(r, torch.Tensor)]
        return result


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize("mask", [False, True], ids=["no-mask", "padding"])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("tokens", [700, 2800])
def test_no_tensor_larger_than_the_inputs(tokens, batch, mask, backend):
    tensors = [tensor.requires_grad_() for tensor in inputs(batch, 2, tokens, channels=16, dtype=torch.float32)]
    keep = torch.rand(batch, tokens) > 0.2 if mask else None
    with Recorder() as recorder:
        sima_attention(*tensors, keep, order="linear", backend=backend).sum().backward()
    largest = max(size for _, size in recorder.made)
    assert largest == tensors[0].numel(), [made for made in recorder.made if made[1] == largest]


@pytest.mark.parametrize("backend", ["auto", "eager"])
def test_total_grows_linearly(backend):
    totals = []
    for tokens in (1000, 2000, 4000):
        tensors = [tensor.requires_grad_() for tensor in inputs(1, 2, tokens, channels=16, dtype=torch.float32)]
        with Recorder() as recorder:
            sima_attention(*tensors, backend=backend).sum().backward()
        totals.append(sum(size for _, size in recorder.made))
    assert totals[2] - totals[1] == pytest.approx(2 * (totals[1] - totals[0]), rel=0.01)


@pytest.mark.parametrize("backend", ["auto", "eager"])
@pytest.mark.parametrize(("batch", "tokens"), [(1, 197), (4, 197), (9, 49), (2, 800)], ids=str)
def test_strided_inputs_are_not_copied(batch, tokens, backend):
    """The one pass that writes as much as an input is |x|; stacking or joining results is no copy of an input."""
    tensors = inputs(batch, 4, tokens, channels=16, dtype=torch.float32)
    assert not tensors[0].is_contiguous()
    with torch.no_grad(), Recorder() as recorder:
        sima_attention(*tensors, order="linear", backend=backend)
    copies = ("aten.clone", "aten._to_copy", "aten.copy_", "aten.contiguous")
    assert not [made for made in recorder.made if made[0].startswith(copies) and made[1] >= tensors[0].numel()]

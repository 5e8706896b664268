"""torch's default dtype and device, which scripts set for a whole process, and which are nobody's business here."""

import pytest
import torch

from sima_hf.ops import backend_report
from tests.helpers.backends import NO_CPU, NO_TRITON
from tests.helpers.fresh_process import fresh


RUN = """
import sys
import torch
torch.manual_seed(0)
torch.set_num_threads(1)
from tests.helpers.tensors import DTYPES, formula, relative_error
from sima_hf import sima_attention

def check(backend, tokens, rounds):
    for given in (torch.float32, torch.bfloat16) if backend == "cpu" else (torch.float32,):
        shape = {"size": (2, 3, tokens, 64), "dtype": torch.float64, "device": "cpu"}
        leaves = [torch.randn(**shape).to(given).requires_grad_() for _ in range(3)]
        doubles = [leaf.detach().double().requires_grad_() for leaf in leaves]
        expected = formula(*doubles, "tokens")
        expected = (expected, *torch.autograd.grad(expected.square().sum(), doubles))
        for _ in range(rounds if backend == "cpu" else 1):
            out = sima_attention(*leaves, gain="tokens", backend=backend)
            found = (out, *torch.autograd.grad(out.square().sum(), leaves))
            for one, two in zip(found, expected, strict=True):
                assert one.dtype == given, (backend, one.dtype)
                assert relative_error(one, two) < DTYPES[given], (backend, tokens, given)

for dtype, device in (("bfloat16", "cpu"), ("float16", "meta"), ("float64", "meta")):
    torch.set_default_dtype(getattr(torch, dtype))
    torch.set_default_device(device)
    for backend in sys.argv[1:]:
        for tokens, rounds in ((17, 20), (577, 20), (1300, 2)):
            if backend != "triton" or tokens == 17:  # interpreted on a CPU, block by block
                check(backend, tokens, rounds)
"""


@pytest.mark.slow
def test_set_default_dtype_and_set_default_device():
    """In a process of its own: memory written beyond its end kills one, sooner or later."""
    backends = [name for name, problem in (("cpu", NO_CPU), ("triton", NO_TRITON), ("eager", None)) if problem is None]
    done = fresh(RUN, *backends)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"


@pytest.mark.skipif(NO_CPU is not None, reason=str(NO_CPU))
def test_the_report_of_backends_does_not_depend_on_the_default_dtype():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert backend_report()["cpu"] == "fused kernels for CPU"
    finally:
        torch.set_default_dtype(before)

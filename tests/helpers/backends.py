"""The fused kernels that run here, as parameters of a test; in Triton's interpreter where there is no GPU."""

import importlib.util

import pytest
import torch

from sima_hf.ops import cpu


NO_CPU = cpu.why_not(torch.empty(1, 1, 1, 1))
NO_TRITON = None if importlib.util.find_spec("triton") else "pip install triton"
BOTH = [
    pytest.param("cpu", marks=pytest.mark.skipif(NO_CPU is not None, reason=str(NO_CPU))),
    pytest.param("triton", marks=pytest.mark.skipif(NO_TRITON is not None, reason=str(NO_TRITON))),
]

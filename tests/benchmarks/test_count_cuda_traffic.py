"""Counted bytes are those that the kernels load and store in Triton's interpreter."""

import pytest
import torch

from benchmarks import count_cuda_traffic


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are not interpreted where there is a GPU")
@pytest.mark.parametrize("tokens", [100, 2500], ids=["one program a head", "tokens split"])
@pytest.mark.parametrize("mode", ["forward", "backward"])
def test_counted_traffic_is_what_the_kernels_load_and_store(mode, tokens, monkeypatch):
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    moved = {"load": 0, "store": 0}

    def count(name):
        original = getattr(interpreter.InterpreterBuilder, f"create_masked_{name}")

        def counting(self, pointers, *args):
            mask = args[0] if name == "load" else args[1]
            moved[name] += int(mask.data.sum()) * (pointers.get_element_ty().primitive_bitwidth // 8)
            return original(self, pointers, *args)

        monkeypatch.setattr(interpreter.InterpreterBuilder, f"create_masked_{name}", counting)

    monkeypatch.setattr(count_cuda_traffic, "MULTIPROCESSORS", 4)  # what the launch assumes without a GPU
    monkeypatch.setattr(count_cuda_traffic, "HEADS", 2)
    tensors = [torch.randn(1, tokens, 2, 64, dtype=torch.bfloat16).transpose(1, 2) for _ in range(3)]
    forward, backward = (getattr(torch.ops.sima, f"triton_attention{part}") for part in ("", "_backward"))
    out, *saved = forward(*tensors, None, False, False, True)
    count("load")
    count("store")
    if mode == "forward":
        forward(*tensors, None, False, False, False)
    else:
        backward(out, *tensors, None, False, *saved)
    expected = count_cuda_traffic.traffic(mode, 1, tokens)
    assert (moved["load"], moved["store"]) == (expected.loaded_bytes, expected.stored_bytes)
    assert (expected.pieces > 1) is (tokens > 256)

"""What an attention costs at least on a machine: its bytes and multiply-adds, over rates that are measured there."""

import os
import time
from collections.abc import Callable

import torch
from torch.nn import functional as F


def attention_work(query: torch.Tensor, mode: str) -> tuple[int, int]:
    """Bytes that SimA has to read or write at least, and multiply-adds, for query, key and value like `query` `(B,H,N,D)`.

    Forward: q, k, v and the output once, `4 N D` numbers and `2 N D^2` multiply-adds a head (`k^T v` and `q M`). Backward: q, k, v
    and the output's gradient in, three gradients out, `7 N D` and `4 N D^2` more. The D x D matrices are left out.
    """
    batch, heads, tokens, channels = query.shape
    numbers, products = (4, 2) if mode == "forward" else (11, 6)
    each = batch * heads * tokens * channels
    return numbers * each * query.element_size(), products * each * channels


def multiply_add_ceiling(dtype: torch.dtype, device: str, seconds: float = 0.5) -> float:
    """Floating-point operations in a second of the quickest large product that torch offers here, two for a multiply-add.

    The better of a matrix product and a 1x1 convolution, which on CPU run through different libraries.
    """
    size = 1536 if device == "cpu" else 8192
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    image, kernel = right.view(1, size, 1, size), left.view(size, size, 1, 1)
    candidates = [lambda: left @ right]
    if device == "cpu":
        candidates.append(lambda: F.conv2d(image, kernel))
    with torch.no_grad():
        return 2 * size**3 / min(_best_time(call, device, seconds) for call in candidates)


def _best_time(call: Callable, device: str, seconds: float) -> float:
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    best, start, turns = float("inf"), time.perf_counter(), 0
    while turns < 5 or time.perf_counter() - start < seconds:
        begin = time.perf_counter()
        call()
        wait()
        best, turns = min(best, time.perf_counter() - begin), turns + 1
    return best


def peak_allocated(call: Callable[[], object], device: str) -> int:
    """Bytes that torch's allocator holds at most at one time during a call, beyond what it held before."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # or it announces its start and its end on the terminal
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    changes = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(changes, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak

"""The fused kernels for CPU: one pass over the tokens for the sums, one for the output, built on first use (cpu_library.py).

Against the plain operations this saves the calls, the temporaries and torch's matrix product, which on some processors does not
use the widest vectors; forward and backward take the linear order at every size.
"""

import ctypes

import torch

from .cpu_library import library
from .fused import WIDEST, empty_bnhd, empty_saved, fused_attention


# As in the enum `Type` of cpu_tiles.h.
TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}


def why_not(query: torch.Tensor) -> str | None:
    """The reason why the kernels cannot serve `query`, `(B,H,N,D)`, or None. The first call that they could serve builds them."""
    if query.device.type != "cpu":
        return f"it computes on the CPU, and the tensors are on {query.device.type}"
    if query.dtype not in TYPES:
        return f"it computes in float32, got {str(query.dtype).removeprefix('torch.')}"
    if query.shape[-1] > WIDEST:
        return f"its heads are at most {WIDEST} channels wide, got {query.shape[-1]}"
    return _why_not_built(query.dtype == torch.float16) or None


@torch.compiler.assume_constant_result
def _why_not_built(half: bool) -> str:
    """Constant for torch.compile; otherwise Dynamo would trace the build."""
    built = library()
    if isinstance(built, str):
        return built
    return "its compiler does not know float16" if half and not built.sima_float16() else ""


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    """With contiguous channels, as the kernels read them."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def _pointer_and_strides(x: torch.Tensor) -> tuple[int, ...]:
    """A `Tensor` of the kernels."""
    return x.data_ptr(), *x.stride()[:3]


def _call(name: str, dtype: torch.dtype, shape: list[int], tensors: tuple, saved: tuple) -> None:
    """Lay the integers out as `Forward` and `Backward` have them, and run."""
    built = library()
    numbers = (ctypes.c_int64 * len(shape))(*shape)
    floats = getattr(built, f"sima_{name}_workspace")(numbers)
    workspace = torch.empty(floats, dtype=torch.float32, device="cpu")  # whatever torch's defaults are
    integers = [*shape]
    for x in tensors:
        integers += _pointer_and_strides(x)
    integers += [x.data_ptr() if x.numel() else 0 for x in (*saved, workspace)]
    getattr(built, f"sima_{name}")(TYPES[dtype], (ctypes.c_int64 * len(integers))(*integers))


def _shape(query, key, value, keep, mask_queries: bool, tokens_gain: bool) -> list[int]:
    batch, heads, queries, width = query.shape
    keys, value_width = key.shape[2], value.shape[3]
    mask = 0 if keep is None else keep.data_ptr()
    threads = torch.get_num_threads()
    return [batch, heads, queries, keys, width, value_width, threads, tokens_gain, mask_queries, mask]


def _forward(query, key, value, keep, mask_queries, tokens_gain, save):
    query, key, value = _channels_last(query), _channels_last(key), _channels_last(value)
    keep = None if keep is None else keep.contiguous()
    out, saved = empty_bnhd(query, value.shape[-1]), empty_saved(query, value, save)
    shape = _shape(query, key, value, keep, mask_queries, tokens_gain)
    _call("forward", query.dtype, shape, (query, key, value, out), saved)
    return out, *saved


def _backward(grad, query, key, value, keep, mask_queries, a, b, context, gain):
    grad, query, key, value = _channels_last(grad), _channels_last(query), _channels_last(key), _channels_last(value)
    keep = None if keep is None else keep.contiguous()
    saved = a.contiguous(), b.contiguous(), context.contiguous(), gain.contiguous()
    found = empty_bnhd(query, query.shape[-1]), empty_bnhd(key, key.shape[-1]), empty_bnhd(value, value.shape[-1])
    shape = _shape(query, key, value, keep, mask_queries, False)
    _call("backward", query.dtype, shape, (grad, query, key, value, *found), saved)
    return found


cpu_attention = fused_attention("cpu_attention", _forward, _backward)

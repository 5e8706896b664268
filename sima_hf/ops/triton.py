"""The fused kernels for CUDA, in Triton: which blocks to launch, on how many pieces of the tokens.

Forward reads q, k and v once (q again from cache) and writes the output once, where one program holds a head; where heads are few
and tokens many, the tokens are split over programs, and torch adds up what they found between two launches. Without a GPU the
kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), for tests.
"""

import contextlib
import functools
import importlib.util
import math
import os
from typing import NamedTuple

import torch

from .fused import WIDEST, empty_bnhd, empty_saved, fused_attention


# Tokens of one program where sums over them are split, and programs wanted for each multiprocessor; the passes that write tokens
# leave no sums behind and so may be split further.
PIECE, FILL, FILL_TOKENS = 256, 2, 8


NO_CUDA = "it needs a CUDA device"
# Compute capability from which on Triton supports a GPU. All such have 99 KiB of shared memory for a program; the kernels take less.
OLDEST = (8, 0)


def why_not(query: torch.Tensor) -> str | None:
    """The reason why the kernels cannot serve `query`, `(B,H,N,D)`, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if query.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"{NO_CUDA}, and the tensors are on {query.device.type}"
    if query.device.type == "cuda":
        if torch.version.hip:
            return "it needs a GPU of NVIDIA"
        capability = torch.cuda.get_device_capability(query.device)
        if capability < OLDEST:
            return f"it needs compute capability 8.0 or more, got {'.'.join(map(str, capability))}"
    if query.dtype == torch.float64:
        return "it computes in float32, got float64"
    if query.shape[-1] > WIDEST:
        return f"its heads are at most {WIDEST} channels wide, got {query.shape[-1]}"
    return None


class Blocks(NamedTuple):
    """Tokens and columns that a program holds at a time, and its warps."""

    tokens: int
    tile: int
    warps: int


# By the wider of D and Dv, rounded up. Found by compiling: shared memory is 64 KiB at most, and no register is spilled where channels
# lie side by side. tests/ops/test_compiled_kernels.py holds both.
HALF = {
    16: Blocks(64, 16, 4),
    32: Blocks(64, 32, 4),
    64: Blocks(64, 64, 4),
    128: Blocks(32, 64, 4),
    256: Blocks(32, 32, 4),
}
SINGLE = {
    16: Blocks(64, 16, 4),
    32: Blocks(32, 32, 4),
    64: Blocks(16, 64, 4),
    128: Blocks(16, 32, 4),
    256: Blocks(16, 16, 4),
}


def blocks_for(width: int, value_width: int, dtype: torch.dtype) -> Blocks:
    """The blocks for heads of these widths."""
    return (SINGLE if dtype == torch.float32 else HALF)[max(_rounded(width), _rounded(value_width))]


def launch(heads: int, tokens: int, block: int, multiprocessors: int) -> tuple[int, int]:
    """Into how many pieces the tokens are split, so that all multiprocessors have work: for sums, for writing."""
    pieces, spread = (math.ceil(fill * multiprocessors / heads) for fill in (FILL, FILL_TOKENS))
    return max(1, min(pieces, math.ceil(tokens / PIECE))), max(1, min(spread, math.ceil(tokens / block)))


@functools.cache
def _multiprocessors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4


def _rounded(width: int) -> int:
    return max(16, 1 << (width - 1).bit_length())


def _compiled_for(query: torch.Tensor, value: torch.Tensor, strides: list[int]) -> dict[str, int]:
    """Widths, blocks, and what divides all strides but those of the channels."""
    width, value_width = query.shape[-1], value.shape[-1]
    tokens, tile, warps = blocks_for(width, value_width, query.dtype)
    align = math.gcd(16, *(stride for place, stride in enumerate(strides) if place % 4 < 3))
    blocks = {"BLOCK_N": tokens, "BLOCK_D": _rounded(width), "TILE": tile, "num_warps": warps}
    return {"D": width, "DV": value_width, "ALIGN": align, **blocks}


def _strides(*tensors: torch.Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()]


def _mask(keep: torch.Tensor | None, like: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """A byte mask and its strides; without one, anything that can be pointed at."""
    return (like, (0, 0)) if keep is None else (keep.view(torch.uint8), keep.stride())


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _over_pieces(x: torch.Tensor) -> torch.Tensor:
    """The sum over axis 1, which costs nothing where there is one piece."""
    return x.squeeze(1) if x.shape[1] == 1 else x.sum(1)


def _forward(query, key, value, keep, mask_queries, tokens_gain, save):
    from .triton_kernels import apply_kernel, forward_kernel

    batch, heads, queries, width = query.shape
    keys, value_width = key.shape[2], value.shape[3]
    out = empty_bnhd(query, value_width)
    strides, out_strides = _strides(query, key, value), out.stride()
    constants = _compiled_for(query, value, [*strides, *out_strides])
    block, tiles = constants["BLOCK_N"], math.ceil(value_width / constants["TILE"])
    pieces, spread = launch(batch * heads, max(queries, keys), block, _multiprocessors(query.device))
    sums = save or pieces > 1  # what the first launch leaves in memory; without, anything that can be pointed at
    shapes = (width,), (width,), (width, value_width), ()
    small = {"dtype": torch.float32, "device": query.device}
    found = [torch.empty(batch * heads, pieces, *shape, **small) if sums else out for shape in shapes]
    mask, mask_strides = _mask(keep, query)
    with _on(query.device):
        forward_kernel[(batch * heads, pieces, tiles)](
            query, key, value, mask, out, *found, heads, queries, keys, _multiple(max(queries, keys), pieces, block),
            *strides, *mask_strides, *out_strides,
            GAIN=tokens_gain, HAS_KEEP=keep is not None, KEEP_QUERIES=mask_queries, WHOLE=pieces == 1, SUMS=sums, **constants,
        )  # fmt: skip
        if sums:
            found = [_over_pieces(x) for x in found]
        if pieces > 1:
            apply_kernel[(batch * heads, spread, tiles)](
                query, mask, out, *found, heads, queries, _multiple(queries, spread, block),
                *query.stride(), *mask_strides, *out_strides, KEEP_QUERIES=mask_queries, **constants,
            )  # fmt: skip
    if not save:
        return out, *empty_saved(query, value, save)
    return out, *(x.view(batch, heads, *shape) for x, shape in zip(found, shapes, strict=True))


def _multiple(tokens: int, pieces: int, block: int) -> int:
    """Tokens of a piece, whole blocks."""
    return math.ceil(math.ceil(tokens / pieces) / block) * block


def _backward(grad, query, key, value, keep, mask_queries, a, b, context, gain):
    from .triton_kernels import backward_kernel, gather_kernel

    batch, heads, queries, width = query.shape
    keys, value_width = key.shape[2], value.shape[3]
    dquery, dkey, dvalue = empty_bnhd(query, width), empty_bnhd(key, width), empty_bnhd(value, value_width)
    strides, written = _strides(query, key, value, grad), _strides(dquery, dkey, dvalue)
    constants = _compiled_for(query, value, strides + written)
    block, tile = constants["BLOCK_N"], constants["TILE"]
    pieces, spread = launch(batch * heads, max(queries, keys), block, _multiprocessors(query.device))
    a, b, context, gain = (x.contiguous() for x in (a, b, context, gain))
    mask, mask_strides = _mask(keep, query)
    partial = torch.empty(batch * heads, pieces, width, value_width, dtype=torch.float32, device=query.device)
    with _on(query.device):
        gather_kernel[(batch * heads, pieces, math.ceil(value_width / tile))](
            query, grad, mask, partial, heads, queries, _multiple(queries, pieces, block),
            *_strides(query, grad), *mask_strides, KEEP_QUERIES=mask_queries, **constants,
        )  # fmt: skip
        dmatrix = _over_pieces(partial)
        dgain = (dmatrix * context.view_as(dmatrix)).sum(-1)
        backward_kernel[(batch * heads, spread, math.ceil(max(width, value_width) / tile))](
            query, key, value, grad, mask, a, b, gain, dgain, context, dmatrix, dquery, dkey, dvalue,
            heads, queries, keys, _multiple(max(queries, keys), spread, block), *strides, *mask_strides, *written,
            HAS_KEEP=keep is not None, KEEP_QUERIES=mask_queries, BLOCK_DV=_rounded(value_width), **constants,
        )  # fmt: skip
    return dquery, dkey, dvalue


triton_attention = fused_attention("triton_attention", _forward, _backward)

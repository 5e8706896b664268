"""The fused kernels for CUDA, in Triton: which blocks to launch, on how many pieces of the tokens.

Forward reads q, k and v once (q again from cache) and writes the output once, where one program holds a head; where heads are few
and tokens many, the tokens are split over programs and three launches do it. Without a GPU the kernels run in Triton's
interpreter (`TRITON_INTERPRET=1`), for tests.
"""

import contextlib
import importlib.util
import math
import os

import torch

from .fused import WIDEST, empty_bnhd, empty_saved, fused_attention


# Tokens of one program where sums over them are split, and programs wanted for each multiprocessor; the passes that write tokens
# leave no sums behind and so may be split further.
PIECE, FILL, FILL_TOKENS = 256, 2, 8


NO_CUDA = "it needs a CUDA device"


def why_not(query: torch.Tensor) -> str | None:
    """The reason why the kernels cannot serve `query`, `(B,H,N,D)`, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if query.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"{NO_CUDA}, and the tensors are on {query.device.type}"
    if query.dtype == torch.float64:
        return "it computes in float32, got float64"
    if query.shape[-1] > WIDEST:
        return f"its heads are at most {WIDEST} channels wide, got {query.shape[-1]}"
    return None


def launch(heads: int, tokens: int, width: int, value_width: int, multiprocessors: int) -> tuple[int, int, int]:
    """Into how many pieces the tokens are split, so that all multiprocessors have work: for sums, for writing; tokens of a block.

    Wide heads take shorter blocks, to stay in registers.
    """
    widest = max(width, value_width)
    block = 64 if widest <= 64 else 32 if widest <= 128 else 16
    pieces, spread = (math.ceil(fill * multiprocessors / heads) for fill in (FILL, FILL_TOKENS))
    return max(1, min(pieces, math.ceil(tokens / PIECE))), max(1, min(spread, math.ceil(tokens / block))), block


def _launch(query: torch.Tensor, value: torch.Tensor, tokens: int) -> tuple[int, int, dict[str, int]]:
    """Pieces for sums and for writing, and the block sizes as the kernels take them."""
    device = query.device
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    width, value_width = query.shape[-1], value.shape[-1]
    pieces, spread, block = launch(query.shape[0] * query.shape[1], tokens, width, value_width, processors)
    powers = [max(16, 1 << (x - 1).bit_length()) for x in (width, value_width)]
    return pieces, spread, {"BLOCK_N": block, "BLOCK_D": powers[0], "BLOCK_DV": powers[1]}


def _strides(*tensors: torch.Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()]


def _mask(keep: torch.Tensor | None, like: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """A byte mask and its strides; without one, anything that can be pointed at."""
    if keep is None:
        return like, (0, 0)
    mask = keep.to(torch.uint8)  # which lays out anew what was cut from something larger
    return mask, mask.stride()


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()


def _forward(query, key, value, keep, mask_queries, tokens_gain, save):
    from .triton_kernels import apply_kernel, forward_kernel

    batch, heads, queries, width = query.shape
    keys, value_width = key.shape[2], value.shape[3]
    pieces, spread, blocks = _launch(query, value, max(queries, keys))
    out = empty_bnhd(query, value_width)
    sums = save or pieces > 1  # what the first launch leaves in memory
    small = {"dtype": torch.float32, "device": query.device}
    a, b = torch.empty(2, batch * heads, pieces, width if sums else 0, **small)
    context = torch.empty(batch * heads, pieces, width if sums else 0, value_width, **small)
    seen = torch.empty(batch * heads, pieces, **small)
    mask, mask_strides = _mask(keep, query)
    flags = {"HAS_KEEP": keep is not None, "KEEP_QUERIES": mask_queries}
    with _on(query.device):
        forward_kernel[(batch * heads, pieces)](
            query, key, value, mask, out, a, b, context, seen, heads, queries, keys, width, value_width,
            _multiple(queries, pieces, blocks["BLOCK_N"]), _multiple(keys, pieces, blocks["BLOCK_N"]),
            *_strides(query, key, value), *mask_strides, *out.stride(),
            GAIN=tokens_gain, WHOLE=pieces == 1, SUMS=sums, **flags, **blocks,
        )  # fmt: skip
        if not sums:
            return out, *empty_saved(query, value, save)
        a, b, context, seen = a.sum(1), b.sum(1), context.sum(1), seen.sum(1)
        gain = seen if tokens_gain else torch.ones_like(seen)
        if pieces > 1:
            matrix = (context * _scale_of(a, b, gain).unsqueeze(-1)).contiguous()
            apply_kernel[(batch * heads, spread)](
                query, mask, matrix, out, heads, queries, width, value_width, _multiple(queries, spread, blocks["BLOCK_N"]),
                *query.stride(), *mask_strides, *out.stride(), KEEP_QUERIES=mask_queries, **blocks,
            )  # fmt: skip
    if not save:
        return out, *empty_saved(query, value, save)
    shape = (batch, heads)
    shaped = a.view(*shape, width), b.view(*shape, width), context.view(*shape, width, value_width), gain.view(shape)
    return out, *shaped


def _multiple(tokens: int, pieces: int, block: int) -> int:
    """Tokens of a piece, whole blocks."""
    return math.ceil(math.ceil(tokens / pieces) / block) * block


def _scale_of(a: torch.Tensor, b: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """`gain / (a b)` one after the other as the kernel divides, from a, b `(...,D)` and gain `(...)`."""
    scale = gain.unsqueeze(-1) / a.clamp_min(1e-12) / b.clamp_min(1e-12)
    return scale.masked_fill((a == 0) | (b == 0), 0)


def _backward(grad, query, key, value, keep, mask_queries, a, b, context, gain):
    from .triton_kernels import backward_kernel, gather_kernel

    batch, heads, queries, width = query.shape
    keys, value_width = key.shape[2], value.shape[3]
    pieces, spread, blocks = _launch(query, value, max(queries, keys))
    mask, mask_strides = _mask(keep, query)
    partial = torch.empty(batch * heads, pieces, width, value_width, dtype=torch.float32, device=query.device)
    dquery, dkey, dvalue = empty_bnhd(query, width), empty_bnhd(key, width), empty_bnhd(value, value_width)
    with _on(query.device):
        gather_kernel[(batch * heads, pieces)](
            query, grad, mask, partial, heads, queries, width, value_width,
            _multiple(queries, pieces, blocks["BLOCK_N"]), *_strides(query, grad), *mask_strides,
            KEEP_QUERIES=mask_queries, **blocks,
        )  # fmt: skip
        scale = _scale_of(a, b, gain)
        dmatrix = partial.sum(1).view_as(context)
        dscale = (dmatrix * context).sum(-1) * scale
        # Where the floor is active the norm is a constant, and has no gradient.
        correction_q = (dscale / a.clamp_min(1e-12)).masked_fill(a <= 1e-12, 0).contiguous()
        correction_k = (dscale / b.clamp_min(1e-12)).masked_fill(b <= 1e-12, 0).contiguous()
        matrix = (context * scale.unsqueeze(-1)).contiguous()
        dcontext = (dmatrix * scale.unsqueeze(-1)).contiguous()
        backward_kernel[(batch * heads, spread)](
            query, key, value, grad, mask, matrix, dcontext, correction_q, correction_k, dquery, dkey, dvalue,
            heads, queries, keys, width, value_width, _multiple(max(queries, keys), spread, blocks["BLOCK_N"]),
            *_strides(query, key, value, grad), *mask_strides,
            *_strides(dquery, dkey, dvalue), HAS_KEEP=keep is not None, KEEP_QUERIES=mask_queries, **blocks,
        )  # fmt: skip
    return dquery, dkey, dvalue


triton_attention = fused_attention("triton_attention", _forward, _backward)

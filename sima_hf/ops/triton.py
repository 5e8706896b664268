"""The fused backend: Triton kernels behind two operators that torch's compiler, exporter and autograd know.

Forward reads q, k and v once (q again from cache) and writes the output once, where one program holds a head; where heads are few
and tokens many, the tokens are split over programs and three launches do it. Backward saves q, k, v, the two sums, and one D x D
matrix; nothing of size N x N exists. Without a GPU the kernels run in Triton's interpreter (`TRITON_INTERPRET=1`), for tests.
"""

import importlib.util
import math
import os

import torch


# Tokens of one program where they are split, and programs wanted for each multiprocessor.
PIECE, FILL = 1024, 2
WIDEST = 256


def why_not(query: torch.Tensor) -> str | None:
    """The reason why the kernels cannot serve `query`, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed: pip install triton"
    if query.device.type != "cuda" and os.environ.get("TRITON_INTERPRET") != "1":
        return f"it needs a CUDA device, and the tensors are on {query.device.type}"
    if query.dtype == torch.float64:
        return "it computes in float32, and float64 came"
    if query.shape[-1] > WIDEST:
        return f"its heads are at most {WIDEST} channels wide, and {query.shape[-1]} came"
    return None


def triton_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    keep: torch.Tensor | None,
    allow: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    gain: str,
    order: str,
) -> torch.Tensor:
    """`(B,H,Nq,Dv)` from query `(B,H,Nq,D)`, key `(B,Hk,Nk,D)`, value `(B,Hk,Nk,Dv)`, on checked inputs.

    Full masks, position biases, values wider than the kernels go, empty inputs, and exported graphs are the eager backend's.
    `order` changes nothing here: N x N numbers are never written.
    """
    from .eager import eager_attention

    if (
        torch.compiler.is_exporting()
        or allow is not None
        or bias is not None
        or value.shape[-1] > WIDEST
        or 0 in (*query.shape, *value.shape)
    ):
        return eager_attention(query, key, value, keep=keep, allow=allow, bias=bias, gain=gain, order=order)
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return Fused.apply(query, key, value, keep, gain == "tokens")[0]


def _blocks(query: torch.Tensor, value: torch.Tensor) -> dict[str, int]:
    """Block sizes by head width: wide heads take shorter blocks, to stay in registers."""
    width, value_width = (max(16, 1 << (x.shape[-1] - 1).bit_length()) for x in (query, value))
    rows = 64 if max(width, value_width) <= 64 else 32 if max(width, value_width) <= 128 else 16
    return {"BLOCK_N": rows, "BLOCK_D": width, "BLOCK_DV": value_width}


def _pieces(heads: int, tokens: int, device: torch.device) -> int:
    """Into how many pieces to split the tokens, so that the device has work for all its multiprocessors."""
    processors = torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else 4
    wanted = math.ceil(FILL * processors / heads)
    return max(1, min(wanted, math.ceil(tokens / PIECE)))


def _strides(*tensors: torch.Tensor) -> list[int]:
    return [stride for tensor in tensors for stride in tensor.stride()]


def _mask(keep: torch.Tensor | None, like: torch.Tensor) -> tuple[torch.Tensor, tuple[int, int]]:
    """A byte mask and its strides; without one, anything that can be pointed at."""
    return (like, (0, 0)) if keep is None else (keep.to(torch.uint8), keep.stride())


def _on(device: torch.device):
    return torch.cuda.device(device) if device.type == "cuda" else torch.no_grad()


def _rows_first(query: torch.Tensor, width: int) -> torch.Tensor:
    """An output `(B,H,N,width)` whose storage is `(B,N,H,width)`, so that merging the heads copies nothing."""
    batch, heads, tokens, _ = query.shape
    return query.new_empty(batch, tokens, heads, width).transpose(1, 2)


def _operator(name: str):
    """Make a function an operator that compiler and transforms see whole. Gradients are `Fused`'s alone."""

    def define(function):
        torch.library.define(name, torch.library.infer_schema(function, mutates_args=()))
        torch.library.impl(name, ("cpu", "cuda"))(function)
        return function

    return define


@_operator("sima::attention")
def _attention(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, keep: torch.Tensor | None, tokens_gain: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Output, then what backward needs: a, b `(B,H,D)`, `k^T v` `(B,H,D,Dv)`, the gain `(B,H)`, all float32."""
    from .triton_kernels import apply_kernel, forward_kernel

    batch, heads, queries, width = query.shape
    keys, value_width = key.shape[2], value.shape[3]
    blocks, pieces = _blocks(query, value), _pieces(batch * heads, max(queries, keys), query.device)
    out = _rows_first(query, value_width)
    small = {"dtype": torch.float32, "device": query.device}
    a, b = torch.empty(2, batch * heads, pieces, width, **small)
    context = torch.empty(batch * heads, pieces, width, value_width, **small)
    seen = torch.empty(batch * heads, pieces, **small)
    mask, mask_strides = _mask(keep, query)
    keep_queries = keep is not None and queries == keys
    flags = {"HAS_KEEP": keep is not None, "KEEP_QUERIES": keep_queries}
    with _on(query.device):
        forward_kernel[(batch * heads, pieces)](
            query, key, value, mask, out, a, b, context, seen, heads, queries, keys, width, value_width,
            _multiple(queries, pieces, blocks["BLOCK_N"]), _multiple(keys, pieces, blocks["BLOCK_N"]),
            *_strides(query, key, value), *mask_strides, *out.stride(),
            GAIN=tokens_gain, WHOLE=pieces == 1, **flags, **blocks,
        )  # fmt: skip
        a, b, context, seen = a.sum(1), b.sum(1), context.sum(1), seen.sum(1)
        if pieces > 1:
            gain = seen if tokens_gain else torch.ones_like(seen)
            matrix = (context * _scale_of(a, b, gain).unsqueeze(-1)).contiguous()
            apply_kernel[(batch * heads, math.ceil(queries / blocks["BLOCK_N"]))](
                query, mask, matrix, out, heads, queries, width, value_width,
                *query.stride(), *mask_strides, *out.stride(), KEEP_QUERIES=keep_queries, **blocks,
            )  # fmt: skip
    shape = (batch, heads)
    return (
        out,
        a.view(*shape, width),
        b.view(*shape, width),
        context.view(*shape, width, value_width),
        seen.view(shape),
    )


def _multiple(tokens: int, pieces: int, block: int) -> int:
    """Tokens of a piece, whole blocks."""
    return math.ceil(math.ceil(tokens / pieces) / block) * block


def _scale_of(a: torch.Tensor, b: torch.Tensor, gain: torch.Tensor) -> torch.Tensor:
    """`gain / (a b)` as the kernel has it, from a, b `(...,D)` and gain `(...)`."""
    scale = gain.unsqueeze(-1) / (a.clamp_min(1e-12) * b.clamp_min(1e-12))
    return scale.masked_fill((a == 0) | (b == 0), 0)


@torch.library.register_fake("sima::attention")
def _(query, key, value, keep, tokens_gain):
    batch, heads, _, width = query.shape
    small = {"dtype": torch.float32}
    sums = query.new_empty(batch, heads, width, **small)
    context = query.new_empty(batch, heads, width, value.shape[-1], **small)
    return _rows_first(query, value.shape[-1]), sums, torch.empty_like(sums), context, sums.new_empty(batch, heads)


@_operator("sima::attention_backward")
def _attention_backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keep: torch.Tensor | None,
    a: torch.Tensor,
    b: torch.Tensor,
    context: torch.Tensor,
    gain: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of query, key and value; formulas in triton_kernels.py."""
    from .triton_kernels import backward_kernel, gather_kernel

    batch, heads, queries, width = query.shape
    keys, value_width = key.shape[2], value.shape[3]
    blocks, pieces = _blocks(query, value), _pieces(batch * heads, queries, query.device)
    mask, mask_strides = _mask(keep, query)
    keep_queries = keep is not None and queries == keys
    partial = torch.empty(batch * heads, pieces, width, value_width, dtype=torch.float32, device=query.device)
    dquery, dkey, dvalue = _rows_first(query, width), _rows_first(key, width), _rows_first(value, value_width)
    with _on(query.device):
        gather_kernel[(batch * heads, pieces)](
            query, grad, mask, partial, heads, queries, width, value_width,
            _multiple(queries, pieces, blocks["BLOCK_N"]), *_strides(query, grad), *mask_strides,
            KEEP_QUERIES=keep_queries, **blocks,
        )  # fmt: skip
        scale = _scale_of(a, b, gain)
        dmatrix = partial.sum(1).view_as(context)
        dscale = (dmatrix * context).sum(-1) * scale
        # Where the floor is active the norm is a constant, and has no gradient.
        correction_q = (dscale / a.clamp_min(1e-12)).masked_fill(a <= 1e-12, 0).contiguous()
        correction_k = (dscale / b.clamp_min(1e-12)).masked_fill(b <= 1e-12, 0).contiguous()
        matrix = (context * scale.unsqueeze(-1)).contiguous()
        dcontext = (dmatrix * scale.unsqueeze(-1)).contiguous()
        backward_kernel[(batch * heads, math.ceil(max(queries, keys) / blocks["BLOCK_N"]))](
            query, key, value, grad, mask, matrix, dcontext, correction_q, correction_k, dquery, dkey, dvalue,
            heads, queries, keys, width, value_width, *_strides(query, key, value, grad), *mask_strides,
            *_strides(dquery, dkey, dvalue), HAS_KEEP=keep is not None, KEEP_QUERIES=keep_queries, **blocks,
        )  # fmt: skip
    return dquery, dkey, dvalue


@torch.library.register_fake("sima::attention_backward")
def _(grad, query, key, value, keep, a, b, context, gain):
    return tuple(_rows_first(x, x.shape[-1]) for x in (query, key, value))


class Fused(torch.autograd.Function):
    """The two operators as one differentiable function; in this form `torch.func` transforms it as well."""

    generate_vmap_rule = True

    @staticmethod
    def forward(query, key, value, keep, tokens_gain):
        """As `_attention`."""
        return torch.ops.sima.attention(query, key, value, keep, tokens_gain)

    @staticmethod
    def setup_context(ctx, inputs, output):
        """Keep what backward needs: nothing of size N x N."""
        query, key, value, keep, tokens_gain = inputs
        _, a, b, context, seen = output
        ctx.mark_non_differentiable(a, b, context, seen)
        ctx.save_for_backward(query, key, value, keep, a, b, context, seen if tokens_gain else torch.ones_like(seen))

    @staticmethod
    def backward(ctx, grad, *_):
        """Gradients of query, key and value."""
        query, key, value, keep, a, b, context, gain = ctx.saved_tensors
        gradients = torch.ops.sima.attention_backward(grad, query, key, value, keep, a, b, context, gain)
        return (*gradients, None, None)


def _joined(info, x: torch.Tensor | None, dim: int | None) -> torch.Tensor | None:
    """A tensor whose vmapped axis has joined the batch."""
    if x is None:
        return None
    x = x.movedim(dim, 0) if dim is not None else x.unsqueeze(0).expand(info.batch_size, *x.shape)
    return x.flatten(0, 1)


def _parted(info, found: tuple[torch.Tensor, ...]):
    return tuple(x.unflatten(0, (info.batch_size, -1)) for x in found), (0,) * len(found)


@torch.library.register_vmap("sima::attention")
def _over_a_new_axis(info, in_dims, query, key, value, keep, tokens_gain):
    tensors = (_joined(info, x, dim) for x, dim in zip((query, key, value, keep), in_dims[:4], strict=True))
    return _parted(info, torch.ops.sima.attention(*tensors, tokens_gain))


@torch.library.register_vmap("sima::attention_backward")
def _backward_over_a_new_axis(info, in_dims, *tensors):
    tensors = (_joined(info, x, dim) for x, dim in zip(tensors, in_dims, strict=True))
    return _parted(info, torch.ops.sima.attention_backward(*tensors))

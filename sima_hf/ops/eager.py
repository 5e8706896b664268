"""The folded form in plain torch: neither a normalized query nor a normalized key is ever written.

`q^ (k^T v) = q M` with `M = diag(1/(a b)) (k^T v)`, where a and b are the length-D token sums of |q| and |k|. So the only
passes over the tokens are the two sums and the two products; everything else happens on D x D numbers, in float32 or wider.
"""

import math

import torch
from torch.nn import functional as F


EPS = 1e-12

# Numbers in the scratch space of one piece of |x| on CPU: 2 MiB in float32. Larger temporaries often come from fresh pages, whose
# faults cost more than the sum: at 16,384 tokens of 6 x 64 channels the whole operation took 1.7 times as long with them.
SCRATCH = 2**19

# Tokens from which `apply_context` convolves.
LONG = 512


def eager_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    *,
    keep: torch.Tensor | None,
    allow: torch.Tensor | None,
    bias: torch.Tensor | None = None,
    gain: str,
    order: str,
    mask_queries: bool,
) -> torch.Tensor:
    """`(B,H,Nq,Dv)` from query `(B,H,Nq,D)`, key `(B,Hk,Nk,D)`, value `(B,Hk,Nk,Dv)`, on checked inputs.

    Memory beyond the inputs grows with N in the linear order, forward and backward; half-precision inputs cost one
    float32 copy each.
    """
    dtype = query.dtype
    if dtype in (torch.float16, torch.bfloat16):
        query, key, value = query.float(), key.float(), value.float()
    if bias is not None:
        bias = bias.to(query.dtype)
    if allow is not None:
        return _attend_rowwise(query, key, value, allow, bias, gain, order).to(dtype)
    tokens = key.shape[-2]
    if keep is not None:
        hidden = ~keep[:, None, :, None]
        tokens = keep.sum(dim=-1)[:, None, None]
        if mask_queries:
            query = query.masked_fill(hidden, 0)
            bias = None if bias is None else torch.where(hidden, 0, bias)
        key, value = key.masked_fill(hidden, 0), value.masked_fill(hidden, 0)
    query_norm, key_norm = _token_norm(query), _token_norm(key, transposed=True)  # (B,H,D), (B,Hk,D)
    groups = query.shape[1] // key.shape[1]
    # Divided one after the other: a product of the norms may overflow, and where one is infinite its gradient would be NaN.
    scale = (tokens if gain == "tokens" else 1.0) / query_norm / repeat_heads(key_norm, groups)  # (B,H,D)
    if order == "quadratic":
        weights = matmul(query * scale.unsqueeze(-2), repeat_heads(key, groups).transpose(-2, -1))
        output = matmul(weights, repeat_heads(value, groups))
    else:
        context = repeat_heads(matmul(key.transpose(-2, -1), value), groups)
        output = apply_context(query, context * scale.unsqueeze(-1))
    if bias is not None:
        output = add_bias(
            output, bias, repeat_heads(value, groups), gain, tokens if keep is None else tokens.unsqueeze(-1)
        )
    return output.to(dtype)


def add_bias(output: torch.Tensor, bias: torch.Tensor, value: torch.Tensor, gain: str, tokens=None) -> torch.Tensor:
    """`output + gain bias v`, `(B,H,Nq,Dv)`, in the dtype of `output`, summed in float32 or wider.

    A bias that all images share is not copied for each of them. `tokens` is the gain where it is not the number of keys.
    """
    dtype = torch.promote_types(value.dtype, torch.float32)
    bias, value = bias.to(dtype), value.to(dtype)
    if bias.shape[0] == 1:
        added = torch.einsum("hij,bhjd->bhid", bias[0].expand(value.shape[1], -1, -1), value)
    else:
        added = bias @ value
    if gain == "tokens":
        added = added * (value.shape[2] if tokens is None else tokens)
    return (output + added).to(output.dtype)


def _attend_rowwise(query, key, value, allow, bias, gain, order):
    """A full mask `allow[i, j]`: the norms of row i run over the tokens that row i may see."""
    groups = query.shape[1] // key.shape[1]
    key, value, seen = repeat_heads(key, groups), repeat_heads(value, groups), allow.to(query.dtype)
    query_norm, key_norm = floor_norm(seen @ query.abs()), floor_norm(seen @ key.abs())
    row = query / query_norm / key_norm
    if bias is not None or order == "quadratic":
        weights = row @ key.transpose(-2, -1)
        weights = weights if bias is None else weights + bias
        output = weights.masked_fill(~allow, 0) @ value
    else:
        # One D x Dv matrix a row: N D Dv numbers. Here for completeness, never picked by "auto".
        outer = (key.unsqueeze(-1) * value.unsqueeze(-2)).flatten(-2)
        contexts = (seen @ outer).unflatten(-1, (key.shape[-1], value.shape[-1]))
        output = (row.unsqueeze(-2) @ contexts).squeeze(-2)
    return output * seen.sum(dim=-1, keepdim=True) if gain == "tokens" else output


def _token_norm(x: torch.Tensor, transposed: bool = False) -> torch.Tensor:
    """`(B,H,D)`, the floored L1 norm over the tokens of `(B,H,N,D)`, which goes into a product as it is or transposed.

    Summed in the order of Transformers' memory, `(B,N,H,D)`: up to 6 times as fast on CPU as a sum over axis -2, and 3 to 40
    times as fast as torch's vector norm. An exported graph sums in the order of the products, in which a runtime has `x` anyway:
    ONNX Runtime takes several times as long over Transformers' order where tokens are many.
    """
    if torch.compiler.is_exporting():
        return floor_norm(x.transpose(-2, -1).abs().sum(dim=-1) if transposed else x.abs().sum(dim=-2))
    return floor_norm(absolute_sum(x.transpose(1, 2)))


def absolute_sum(x: torch.Tensor) -> torch.Tensor:
    """`(B,H,D)` from `(B,N,H,D)`. On CPU piece by piece, so that |x| stays in cache and costs no fresh pages of memory."""
    if _recorded() or x.device.type != "cpu" or x.numel() <= SCRATCH:
        return x.abs().sum(dim=1)
    batch, _, heads, channels = x.shape
    if batch > 1:
        images = max(1, SCRATCH * batch // x.numel())
        return torch.cat([absolute_sum(piece) for piece in x.split(images)])
    pieces = x.split(max(1, SCRATCH // (heads * channels)), dim=1)
    return torch.stack([piece.abs().sum(dim=1) for piece in pieces]).sum(dim=0)


def floor_norm(norm: torch.Tensor, eps: float = EPS) -> torch.Tensor:
    """max(norm, eps), and infinity where the norm is zero: the channel gives 0 and receives no gradient."""
    return norm.clamp_min(eps).masked_fill(norm == 0, math.inf)


def repeat_heads(x: torch.Tensor, groups: int) -> torch.Tensor:
    """`(B,H,...)` from `(B,Hk,...)`, each head `groups` times."""
    return x if groups == 1 else x.repeat_interleave(groups, dim=1)


def matmul(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """`x @ y` for `(B,H,.,.)` operands, without the copy that matmul makes of operands it cannot fold into 3-D.

    Heads and batch of Transformers' layout, `(B,N,H,D)` seen as `(B,H,N,D)`, cannot be merged into one dimension unless
    one of them is 1. One product for each index of the shorter of the two reads the operands where they lie.
    """
    if _recorded() or (_folds(x) and _folds(y)):
        return x @ y
    dim = 0 if x.shape[0] < x.shape[1] else 1
    products = [a @ b for a, b in zip(x.unbind(dim), y.unbind(dim), strict=True)]
    # Stacked along axis 2 where that is free: for (B,N,H,D) storage, merging the heads afterwards copies nothing.
    return torch.stack(products, dim=0) if dim == 0 else torch.stack(products, dim=2).transpose(1, 2)


def apply_context(query: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
    """`q M`, `(B,H,N,Dv)`.

    A linear map per head is a 1x1 convolution in groups over the tokens. On CPU torch's convolutions run through oneDNN,
    which on long sequences took half the time of its matrix product (MKL, AMD processor) and writes the layout that merging
    the heads wants. Its gradient is slower, so this serves inference only.
    """
    batch, heads, tokens, channels = query.shape
    rows = query.transpose(1, 2)
    convolve = (
        not _recorded()
        and query.dtype == torch.float32
        and query.device.type == "cpu"
        and tokens >= LONG
        and not (torch.is_grad_enabled() and (query.requires_grad or context.requires_grad))
        and rows.is_contiguous()
        and torch.backends.mkldnn.is_available()
    )
    if not convolve:
        return matmul(query, context)
    images = rows.view(batch, 1, tokens, heads * channels).permute(0, 3, 1, 2)
    kernels = context.transpose(-2, -1).reshape(batch, -1, channels, 1, 1)
    outputs = [F.conv2d(image, kernel, groups=heads) for image, kernel in zip(images.split(1), kernels, strict=True)]
    output = outputs[0] if batch == 1 else torch.cat(outputs)
    return output.squeeze(2).unflatten(1, (heads, -1)).transpose(-2, -1)


def _recorded() -> bool:
    """Whether a graph is recorded that is to serve other sizes too: a loop over images would hold as many as there are now."""
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _folds(x: torch.Tensor) -> bool:
    return x.shape[0] <= 1 or x.shape[1] <= 1 or x.stride(0) == x.shape[1] * x.stride(1)

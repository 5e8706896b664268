"""Inputs and an oracle for the tests of the operation; the oracle shares no code with the package."""

import torch


DTYPES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}
DTYPE_IDS = [str(dtype).removeprefix("torch.") for dtype in DTYPES]


def strided(batch, heads, tokens, channels, dtype=torch.float64):
    """`(B,H,N,D)` in Transformers' layout: a view of contiguous `(B,N,H,D)`."""
    return torch.randn(batch, tokens, heads, channels, dtype=torch.float64).to(dtype).transpose(1, 2)


def inputs(
    batch=2, heads=3, queries=17, keys=None, channels=8, value_channels=None, key_heads=None, dtype=torch.float64
):
    keys, key_heads = keys or queries, key_heads or heads
    return (
        strided(batch, heads, queries, channels, dtype),
        strided(batch, key_heads, keys, channels, dtype),
        strided(batch, key_heads, keys, value_channels or channels, dtype),
    )


def relative_error(found, expected):
    """Norm of the difference over norm, in float64."""
    found, expected = found.double(), expected.double()
    return ((found - expected).norm() / expected.norm().clamp_min(1e-300)).item()


def oracle(query, key, value, see_query, see_key, gain="none", eps=1e-12):
    """The general definition, row by row, in float64.

    `see_query[b, i, j]` says over which queries j the first norm of row i runs, `see_key[b, i, j]` over which keys the second
    norm and the sum run. DESIGN, section 1: A, B, and out[i].
    """
    query, key, value = query.double(), key.double(), value.double()
    groups = query.shape[1] // key.shape[1]
    out = query.new_zeros(*query.shape[:3], value.shape[-1])
    for b in range(query.shape[0]):
        for h in range(query.shape[1]):
            q, k, v = query[b, h], key[b, h // groups], value[b, h // groups]
            for i in range(q.shape[0]):
                seen = see_key[b, i]
                a = q[see_query[b, i]].abs().sum(0).clamp_min(eps)
                c = k[seen].abs().sum(0).clamp_min(eps)
                weights = (q[i] / a * k[seen] / c).sum(-1)
                out[b, h, i] = weights @ v[seen] * (seen.sum() if gain == "tokens" else 1)
    return out


def formula(query, key, value, gain="none", eps=1e-12):
    """The same without a mask, for any number of tokens: in float64, and linear in them."""
    query, key, value = query.double(), key.double(), value.double()
    query = query / query.abs().sum(2, keepdim=True).clamp_min(eps)
    key = key / key.abs().sum(2, keepdim=True).clamp_min(eps)
    context = torch.einsum("bhnc,bhnd->bhcd", key, value) * (key.shape[2] if gain == "tokens" else 1)
    return torch.einsum("bhnc,bhcd->bhnd", query, context)


def everyone(batch, rows, columns):
    return torch.ones(batch, rows, columns, dtype=torch.bool)


def definition(query, key, value, mask=None, bias=None, gain="none", eps=1e-12):
    """The general definition with a position bias, all rows at once, in float64; shares no code with the package.

    `mask` is what `sima_attention` takes: `(B,Nk)`, or `(B or 1, H or 1, N, N)`, boolean or float.
    """
    query, key, value = query.double(), key.double(), value.double()
    groups, same = query.shape[1] // key.shape[1], query.shape[2] == key.shape[2]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    see_key = torch.ones(*query.shape[:3], key.shape[2], dtype=torch.bool)
    if mask is not None:
        shown = mask if mask.dtype == torch.bool else mask == 0
        see_key = see_key & (shown if mask.dim() == 4 else shown[:, None, None])
        if mask.dim() == 2 and same:
            see_key = see_key & shown[:, None, :, None]  # a padded token asks for nothing
    see_query = (
        see_key if mask is not None and same else torch.ones(*query.shape[:3], query.shape[2], dtype=torch.bool)
    )
    a = (see_query[..., None] * query.abs()[:, :, None]).sum(-2).clamp_min(eps)
    b = (see_key[..., None] * key.abs()[:, :, None]).sum(-2).clamp_min(eps)
    weights = ((query / a / b)[..., :, None, :] * key[:, :, None]).sum(-1)
    if bias is not None:
        weights = weights + bias.double()
    weights = weights.where(see_key, torch.zeros(()).double())
    return (weights @ value) * (see_key.sum(-1, keepdim=True) if gain == "tokens" else 1)

"""SimA as the paper writes it: the oracle that every other backend is held against.

Normalize query and key, then multiply. In the dtype of the inputs, so run it in float64 for an answer to trust. Every mask
goes through the one general definition, in which row i has norms of its own, taken over the tokens it may see.
"""

import math

import torch


EPS = 1e-12


def reference_attention(
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
    """`(B,H,Nq,Dv)` from query `(B,H,Nq,D)`, key `(B,Hk,Nk,D)`, value `(B,Hk,Nk,Dv)`; arXiv 2206.08898, equations 2-4."""
    groups = query.shape[1] // key.shape[1]
    key = key.repeat_interleave(groups, dim=1)
    value = value.repeat_interleave(groups, dim=1)
    tokens = key.shape[-2]
    if keep is not None:
        hidden = ~keep[:, None, :, None]
        key, value = key.masked_fill(hidden, 0), value.masked_fill(hidden, 0)  # what they hold may not be a number
        tokens = keep.sum(dim=-1)[:, None, None, None]
        if mask_queries:
            query = query.masked_fill(hidden, 0)
            allow = keep[:, None, :, None] & keep[:, None, None]
            return _attend_rowwise(query, key, value, allow, bias, gain, "quadratic")
    if allow is not None:
        return _attend_rowwise(query, key, value, allow, bias, gain, order)
    normed_query = query / _floor(query.abs().sum(dim=-2, keepdim=True))
    normed_key = key / _floor(key.abs().sum(dim=-2, keepdim=True))
    if bias is not None:
        out = (normed_query @ normed_key.transpose(-2, -1) + bias.to(query.dtype)) @ value
    elif order == "quadratic":
        out = (normed_query @ normed_key.transpose(-2, -1)) @ value
    else:
        out = normed_query @ (normed_key.transpose(-2, -1) @ value)
    return out * tokens if gain == "tokens" else out


def _attend_rowwise(query, key, value, allow, bias, gain, order):
    """The definition for a mask `allow[i, j]`: A[i, c] = sum_j allow |q[j, c]|, B likewise, out[i] over the allowed j."""
    allow = allow.to(query.dtype)
    query_norm = _floor(torch.einsum("...ij,...jc->...ic", allow, query.abs()))
    key_norm = _floor(torch.einsum("...ij,...jc->...ic", allow, key.abs()))
    row = query / query_norm / key_norm
    if bias is not None or order == "quadratic":
        weights = torch.einsum("...ic,...jc->...ij", row, key)
        if bias is not None:
            weights = weights + bias.to(query.dtype)
        out = (weights * allow) @ value
    else:
        contexts = torch.einsum("...ij,...jc,...jd->...icd", allow.expand(*key.shape[:2], -1, -1), key, value)
        out = torch.einsum("...ic,...icd->...id", row, contexts)
    return out * allow.sum(dim=-1, keepdim=True) if gain == "tokens" else out


def _floor(norm: torch.Tensor) -> torch.Tensor:
    """max(norm, eps), and infinity where the norm is zero: 0 / 0 counts as 0, and so does its gradient."""
    return norm.clamp_min(EPS).masked_fill(norm == 0, math.inf)

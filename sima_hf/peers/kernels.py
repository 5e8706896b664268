"""Attention with a feature map in the place of exp: what elu+1 and the ReLU kernel share."""

from collections.abc import Callable

import torch

from ..ops.eager import apply_context, matmul
from .inputs import Inputs


EPS = 1e-6  # added to the sum of a row, as the published code of arXiv 2006.16236 does


def kernel_attention(given: Inputs, features: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """`f(q) (f(k)^T v) / (f(q) sum f(k) + eps)`, `(B,H,Nq,Dv)`, for a feature map that is nowhere negative."""
    query, key = features(given.query), features(given.key)
    if given.order == "quadratic":
        weights = given.hide(matmul(query, key.transpose(-2, -1)))
        return given.sum_up(weights) / (weights.sum(dim=-1, keepdim=True) + EPS)
    if given.keep is not None:
        key = key.masked_fill(~given.keep, 0)
    total = matmul(query, key.sum(dim=-2).unsqueeze(-1))  # (B,H,Nq,1)
    return apply_context(query, given.context(key)) / (total + EPS)


def kernel_reference(query, key, value, visible, features) -> torch.Tensor:
    """The formula row by row, on inputs of as many heads each; `visible` boolean `(B,H,Nq,Nk)` or None."""
    query, key = features(query), features(key)
    rows = []
    for i in range(query.shape[2]):
        weights = (query[:, :, i, None] * key).sum(-1)
        if visible is not None:
            weights = weights * visible[:, :, i]
        rows.append((weights[..., None] * value).sum(2) / (weights.sum(-1, keepdim=True) + EPS))
    return torch.stack(rows, dim=2)

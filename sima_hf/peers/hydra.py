"""Hydra attention: as many heads as channels, so that all that is left is a sum over the tokens.

Bolya et al., "Hydra Attention: Efficient Attention with Many Heads", 2022, arXiv 2209.07484.
"""

import torch

from .inputs import Inputs, checked_attention


LEAST = 1e-24  # square of a length


def hydra_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attn_mask: torch.Tensor | None = None,
    *,
    bias: torch.Tensor | None = None,
    scale: float | None = None,
    order: str = "auto",
) -> torch.Tensor:
    """`out = q' * sum_N(k' * v)`, channel by channel, `q'` and `k'` of length 1 over the channels of all heads, arXiv 2209.07484.

    No softmax, no exp. `N D`. The channels of the value must be as many as those of the query.

    Args:
        query, key, value: `(B,H,Nq,D)`, `(B,Hk,Nk,D)`, `(B,Hk,Nk,Dv)` of one floating dtype; grouped heads are repeated.
        attn_mask: key padding `(B,Nk)`, True for what may be seen, or a float mask of 0 and -inf; full masks are refused.
        bias: refused; there are no logits that it could be added to.
        scale: ignored; the formula has none.
        order: "auto" or "linear".

    Returns:
        `(B,H,Nq,Dv)` in the dtype of `query`; half precision is computed in float32.

    Raises:
        TypeError, ValueError: see `checked_attention` in `inputs.py`.
    """
    if value.shape[-1] != query.shape[-1]:
        raise ValueError(
            f"hydra_attention multiplies values by keys channel by channel, so `value` must have {query.shape[-1]} channels as "
            f"the query has, got {value.shape[-1]}."
        )
    return checked_attention(
        "hydra_attention",
        _hydra,
        query,
        key,
        value,
        attn_mask,
        bias=bias,
        scale=scale,
        order=order,
        orders=("linear",),
        full_mask=False,
    )


def _hydra(given: Inputs) -> torch.Tensor:
    query, key = (
        x / x.square().sum(dim=(1, 3), keepdim=True).clamp_min(LEAST).sqrt() for x in (given.query, given.key)
    )
    return query * (key * given.value).sum(dim=-2, keepdim=True)


def hydra_reference(query, key, value, keep=None) -> torch.Tensor:
    """The formula on merged heads, token by token, on inputs of as many heads each; `keep` boolean `(B,Nk)`."""
    heads = query.shape[1]
    query, key, value = (x.transpose(1, 2).flatten(2) for x in (query, key, value))  # (B,N,H*D)
    summed = torch.zeros_like(query[:, 0])
    for j in range(key.shape[1]):
        pair = key[:, j] / (key[:, j] ** 2).sum(-1, keepdim=True).clamp_min(LEAST).sqrt() * value[:, j]
        summed = summed + (pair if keep is None else pair * keep[:, j, None])
    out = query / (query**2).sum(-1, keepdim=True).clamp_min(LEAST).sqrt() * summed[:, None]
    return out.unflatten(2, (heads, -1)).transpose(1, 2)

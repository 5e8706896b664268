"""What all mechanisms of this room share: checked inputs, masks and grouped heads in one form, logits where there are some.

Shapes as in `sima_attention`: query `(B,H,Nq,D)`, key `(B,Hk,Nk,D)`, value `(B,Hk,Nk,Dv)`. Everything is computed in float32 or
wider, outside of autocast, and no Python branch looks at a number in a tensor.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..ops.autocast import without_autocast
from ..ops.checks import check_bias, check_mask, check_tensors, one_of
from ..ops.eager import matmul
from ..ops.order import ORDERS, cheaper_order


@dataclass
class Inputs:
    """Checked and widened inputs, with as many heads in key and value as in query.

    Attributes:
        query, key, value: `(B,H,Nq,D)`, `(B,H,Nk,D)`, `(B,H,Nk,Dv)`; keys and values that padding hides are zero.
        keep: boolean `(B,1,Nk,1)` for key padding, or None.
        visible: boolean, broadcastable to `(B,H,Nq,Nk)`, for either kind of mask, or None.
        count: how many keys a query may see, at least 1: a number, or a tensor broadcastable to `(B,H,Nq,1)`.
        bias: `(B or 1,H or 1,Nq,Nk)`, or None.
        scale: of the logits.
        order: "linear" or "quadratic".
    """

    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    keep: torch.Tensor | None
    visible: torch.Tensor | None
    count: int | torch.Tensor
    bias: torch.Tensor | None
    scale: float
    order: str

    def logits(self) -> torch.Tensor:
        """`(B,H,Nq,Nk)`: scaled products of queries and keys, with the position bias; hidden ones included."""
        logits = matmul(self.query * self.scale, self.key.transpose(-2, -1))
        return logits if self.bias is None else logits + self.bias

    def hide(self, weights: torch.Tensor) -> torch.Tensor:
        """`(B,H,Nq,Nk)` with zeros where a key is hidden."""
        return weights if self.visible is None else weights.masked_fill(~self.visible, 0)

    def sum_up(self, weights: torch.Tensor) -> torch.Tensor:
        """`(B,H,Nq,Dv)`: the values, weighted by `(B,H,Nq,Nk)`, without what is hidden."""
        return matmul(self.hide(weights), self.value)

    def context(self, key: torch.Tensor) -> torch.Tensor:
        """`(B,H,D,Dv)`: keys `(B,H,Nk,D)`, or what was made of them, times values."""
        return matmul(key.transpose(-2, -1), self.value)


def checked_attention(
    name: str,
    compute: Callable[[Inputs], torch.Tensor],
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    *,
    bias: torch.Tensor | None,
    scale: float | None,
    order: str,
    orders: tuple[str, ...] = ORDERS[1:],
    has_logits: bool = False,
    full_mask: bool = True,
) -> torch.Tensor:
    """`compute` on checked inputs, in the dtype of `query`.

    Args:
        name: of the function, for its errors.
        compute: from `Inputs` to `(B,H,Nq,Dv)`.
        query, key, value, mask, bias, scale, order: what the function was given.
        orders: the orders that the function has.
        has_logits: whether a position bias can be added to something.
        full_mask: whether a full mask can be honored.

    Raises:
        TypeError: an argument is no tensor, or of no dtype that is served.
        ValueError: shapes, dtypes or devices do not fit together, or the mechanism cannot honor the mask, the bias or the order.
    """
    check_tensors(query, key, value, name)
    one_of("order", order, ORDERS)
    if order not in ("auto", *orders):
        raise ValueError(
            f"`order` must be 'auto' or {orders[-1]!r} for {name}, which has that one alone, got {order!r}."
        )
    keep, allow = check_mask(mask, query, key, same_tokens=False)
    if allow is not None and not full_mask:
        raise ValueError(
            f"{name} takes no full mask, because it goes over the keys once for all queries; give key "
            f"padding of shape (batch, keys) = ({key.shape[0]}, {key.shape[2]}), or another mechanism."
        )
    check_bias(bias, query, key)
    if bias is not None and not has_logits:
        raise ValueError(
            f"{name} takes no position bias, because it has no logits to add it to; leave `bias` away, or take a mechanism "
            "with logits: relu_over_tokens, power_softmax, sigmoid or rela."
        )
    if order == "auto" and len(orders) == 1:
        order = orders[0]
    elif order == "auto":
        order = cheaper_order(query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1], allow is not None)
    if allow is not None and order == "linear":
        raise ValueError(f"`order` must be 'auto' or 'quadratic' with a full mask, got 'linear' for {name}.")
    with without_autocast(query.device.type):
        inputs = _inputs(query, key, value, keep, allow, bias, scale, order)
        return compute(inputs).to(query.dtype)


def _inputs(query, key, value, keep, allow, bias, scale, order) -> Inputs:
    dtype = torch.promote_types(query.dtype, torch.float32)
    groups = query.shape[1] // key.shape[1]
    query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    visible, count = allow, key.shape[-2]
    if keep is not None:
        visible, keep = keep[:, None, None], keep[:, None, :, None]
        key, value = key.masked_fill(~keep, 0), value.masked_fill(~keep, 0)  # what they hold may not be a number
    if visible is not None:
        count = visible.sum(dim=-1, keepdim=True).clamp_min(1).to(dtype)
    return Inputs(
        query=query,
        key=key,
        value=value,
        keep=keep,
        visible=visible,
        count=count,
        bias=None if bias is None else bias.to(dtype),
        scale=query.shape[-1] ** -0.5 if scale is None else scale,
        order=order,
    )

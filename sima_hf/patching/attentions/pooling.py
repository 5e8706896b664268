"""torch's multi-head attention, and the heads that pool tokens by attention: one query, all tokens as keys."""

import math

import torch
from torch.nn import functional as F

from ...attention import one_dtype, without_autocast
from .attend import attend, heads_apart


def pool(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keep: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """SimA where one query asks: `out = scale (q (k / |k|_1)^T) v`; the norm over the tokens is the keys' alone.

    One query divided by its norm over one token would be its sign, which neither it nor its projection learns through. With one
    of the two norms the weights are of order 1/N, as softmax's are, so no gain is needed at any number of tokens. The host's
    scale keeps them there whatever the width of a head: the output is as large as softmax's within a factor of two.

    Args:
        query, key, value: `(B,H,1,D)`, `(B,H,N,D)`, `(B,H,N,Dv)`.
        keep: boolean `(B,N)`; tokens marked False are out of the norm and of the sum.
        scale: 1/sqrt(D) where the host has none of its own.

    Returns:
        `(B,1,H*Dv)`, the heads side by side, in the dtype of the inputs; half precision is summed in float32.
    """
    query, key, value = one_dtype(query, key, value)
    dtype, wide = query.dtype, torch.promote_types(query.dtype, torch.float32)
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    with without_autocast(query.device.type):
        query, key, value = query.to(wide), key.to(wide), value.to(wide)
        if keep is not None:
            key, value = (x.masked_fill(~keep[:, None, :, None], 0) for x in (key, value))
        # Infinite where a channel is zero at every token: it adds nothing and gets no gradient.
        norm = key.abs().sum(dim=2, keepdim=True)
        norm = norm.clamp_min(1e-12).masked_fill(norm == 0, math.inf)
        context = (query * scale / norm) @ key.transpose(-2, -1) @ value
    return context.to(dtype).transpose(1, 2).flatten(-2)


class MultiHead:
    """`torch.nn.MultiheadAttention`: pooling heads as SigLIP's, where one query asks, and BridgeTower's blocks, which are SimA."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As torch's, on batches `(B,N,C)` or `(N,B,C)`.

        Weights are never built: no host reads them, and they would cost `N x N`. True in a boolean mask means hidden.

        Raises:
            ValueError: `attn_mask` hides anything but the same keys from every query of an image.
        """
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        weights, biases = self.in_proj_weight.chunk(3), (None,) * 3
        if self.in_proj_bias is not None:
            biases = self.in_proj_bias.chunk(3)
        projected = [
            heads_apart(F.linear(x, weight, bias), self.head_dim)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        keep = None if key_padding_mask is None else ~key_padding_mask.bool()
        if attn_mask is not None:
            keep = self._keys_kept(attn_mask, key.shape[0], query.shape[1])
        context = pool(*projected, keep) if query.shape[1] == 1 else attend(self, *projected, keep)[0]
        output = F.linear(context, self.out_proj.weight, self.out_proj.bias)
        return (output if self.batch_first else output.transpose(0, 1)), None

    def _keys_kept(self, mask: torch.Tensor, batch: int, queries: int) -> torch.Tensor:
        """`(B,Nk)` from `(B*H,Nq,Nk)`, where one query asks."""
        if mask.dim() != 3 or queries != 1:
            raise ValueError(
                f"SimA in a pooling head honours masks of keys for one query, `(batch * heads, 1, keys)`, got a mask of "
                f"shape {tuple(mask.shape)} for {queries} queries."
            )
        kept = mask.view(batch, self.num_heads, -1)[:, 0]
        return ~kept if kept.dtype == torch.bool else kept == 0


class Aimv2Pooling:
    """AIMv2's pooling head: a learned class token asks, without a projection."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B,N,C)` to `(B,C)`."""
        channels = self.hidden_size // self.num_heads
        query = heads_apart(self.cls_token.expand(hidden_states.shape[0], -1, -1), channels)
        key, value = (heads_apart(project(hidden_states), channels) for project in (self.k_proj, self.v_proj))
        return self.output_proj(pool(query, key, value).mean(dim=1))


class VJepa2Pooling:
    """The cross-attention of V-JEPA 2's pooler: a learned query asks."""

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attention_mask: None = None
    ) -> tuple[torch.Tensor, None]:
        """`(B,1,C)`, `(B,N,C)`, `(B,N,C)` to `(B,1,C)`; the host gives no mask and reads no map."""
        query, key, value = (
            heads_apart(project(x), self.head_dim)
            for project, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        return pool(query, key, value, scale=self.scale), None


class VideoPrismPooling:
    """VideoPrism's pooling head: a learned query asks, each of its channels with a scale."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: None = None, **kwargs) -> tuple[torch.Tensor, None]:
        """`(B,N,C)` to `(B,1,C)`; the host gives no mask and reads no map."""
        query = self.q_proj(self.pooling_attention_query.expand(hidden_states.shape[0], -1, -1))
        query = heads_apart(query, self.head_dim) * F.softplus(self.per_dim_scale)
        key, value = (heads_apart(project(hidden_states), self.head_dim) for project in (self.k_proj, self.v_proj))
        return self.o_proj(pool(query, key, value, scale=self.scaling)), None

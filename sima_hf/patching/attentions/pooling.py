"""Heads that pool tokens by attention: one query, all tokens as keys."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from ...attention import one_dtype
from ...ops.autocast import without_autocast
from .common import attend, project_heads, split_heads
from .mechanisms import SIMA


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


def ask(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    keep: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """What one query gets in a pooling head: by `pool` where the config of `module` names SimA, else by the peer that it names.

    Args:
        module: a swapped module with a `sima_config`.
        query, key, value, keep, scale: as for `pool`.

    Returns:
        `(B,1,H*Dv)`.
    """
    if module.sima_config.attention_mechanism == SIMA:
        return pool(query, key, value, keep, scale)
    return attend(module, query, key, value, keep, mask_queries=False, scale=scale)[0]


class Aimv2Pooling:
    """AIMv2's pooling head: a learned class token asks, without a projection."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B,N,C)` to `(B,C)`."""
        channels = self.hidden_size // self.num_heads
        query = split_heads(self.cls_token.expand(hidden_states.shape[0], -1, -1), channels)
        key, value = project_heads(hidden_states, channels, self.k_proj, self.v_proj)
        return self.output_proj(ask(self, query, key, value).mean(dim=1))


class VJepa2Pooling:
    """The cross-attention of V-JEPA 2's pooler: a learned query asks."""

    def forward(
        self, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, attention_mask: None = None
    ) -> tuple[torch.Tensor, None]:
        """`(B,1,C)`, `(B,N,C)`, `(B,N,C)` to `(B,1,C)`; the host gives no mask and reads no map."""
        query, key, value = (
            split_heads(project(x), self.head_dim)
            for project, x in ((self.q_proj, queries), (self.k_proj, keys), (self.v_proj, values))
        )
        return ask(self, query, key, value, scale=self.scale), None


class VideoPrismPooling:
    """VideoPrism's pooling head: a learned query asks, each of its channels with a scale."""

    def forward(self, hidden_states: torch.Tensor, attention_mask: None = None, **kwargs) -> tuple[torch.Tensor, None]:
        """`(B,N,C)` to `(B,1,C)`; the host gives no mask and reads no map."""
        query = self.q_proj(self.pooling_attention_query.expand(hidden_states.shape[0], -1, -1))
        query = split_heads(query, self.head_dim) * F.softplus(self.per_dim_scale)
        key, value = project_heads(hidden_states, self.head_dim, self.k_proj, self.v_proj)
        return self.o_proj(ask(self, query, key, value, scale=self.scaling)), None

"""Hiera: attention within mask units, queries pooled between stages."""

import torch

from ...attention import apply_maps
from .common import attend


class MaskUnitAttention:
    """Hiera's mask units: the windows join the batch; queries are max-pooled where a stage begins."""

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False):
        """`(B,N,C)` to `(B,N/stride,C')` and the maps `(B,H,windows,Nq,Nk)` or None."""
        batch, tokens, _ = hidden_states.shape
        unit = self.query_stride * self.window_size if self.use_mask_unit_attn else tokens
        windows = tokens // unit
        # Tokens of a window are `windows` apart, so the token axis is (unit, windows); windows go beside the batch.
        qkv = self.qkv(hidden_states).reshape(batch, unit, windows, 3, self.num_heads, self.head_dim)
        query, key, value = (x.flatten(0, 1) for x in qkv.permute(3, 0, 2, 4, 1, 5))
        if self.query_stride > 1:
            query = query.unflatten(2, (self.query_stride, -1)).amax(dim=2)
        context, maps = attend(self, query, key, value, maps=output_attentions)
        context = context.unflatten(0, (batch, windows)).transpose(1, 2)
        if maps is not None:
            maps = maps.unflatten(0, (batch, windows)).transpose(1, 2)
        if maps is not None and torch.is_grad_enabled():
            value = value.unflatten(0, (batch, windows)).transpose(1, 2)
            context = apply_maps(maps, value).transpose(1, 2).flatten(-2)
        return self.proj(context.flatten(1, 2)), maps

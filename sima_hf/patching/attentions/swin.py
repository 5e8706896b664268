"""Windowed attention of Swin and its relatives, with a table of relative positions as bias."""

import math

import torch

from ...attention import apply_maps
from .common import attend, outputs, project_heads


def window_mask(mask: torch.Tensor | None, batch: int) -> torch.Tensor | None:
    """Boolean `(B,1,N,N)` from the host's own mask for each window, `(windows,N,N)`, which is 0 where a token is seen, else -100.

    Images come one after the other, their windows side by side. Asking for those two values here spares `check_mask` to look
    whether there are others, for which a GPU would have to be waited for.
    """
    return None if mask is None else (mask == 0).unsqueeze(1).repeat(batch // mask.shape[0], 1, 1, 1)


class SwinWindowAttention:
    """Swin's windows, whose bias and shift mask the host would hand on as one sum."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions=False,
        **kwargs,
    ):
        """`(B*windows,N,C)` to the same and the maps or None."""
        query, key, value = project_heads(hidden_states, self.head_dim, self.q_proj, self.k_proj, self.v_proj)
        mask = window_mask(attention_mask, hidden_states.shape[0])
        context, maps = attend(
            self, query, key, value, mask, bias=self.relative_position_bias(), maps=output_attentions
        )
        return self.o_proj(context), maps


class WindowAttention:
    """Windows with a table of relative positions: Donut's and MaskFormer's Swin."""

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, output_attentions: bool = False):
        """`(B*windows,N,C)` to a tuple of the same and, if asked for, the maps."""
        batch, tokens, _ = hidden_states.shape
        query, key, value = project_heads(hidden_states, self.attention_head_size, self.query, self.key, self.value)
        table = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = table.view(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)
        context, maps = attend(
            self, query, key, value, window_mask(attention_mask, batch), bias=bias, maps=output_attentions
        )
        return outputs(context, maps, output_attentions)


class CosineWindowAttention:
    """Swin v2's windows: SimA's norms take the place of the L2 ones of its cosine; scale and bias of each head stay.

    `out = scale (q^ k^T) v + bias v`, computed as `scale (q^ k^T + bias / scale) v`.
    """

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, output_attentions: bool = False):
        """`(B*windows,N,C)` to a tuple of the same and, if asked for, the maps."""
        batch, tokens, _ = hidden_states.shape
        query, key, value = project_heads(hidden_states, self.attention_head_size, self.query, self.key, self.value)
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()  # (H,1,1)
        table = self.continuous_position_bias_mlp(self.relative_coords_table).view(-1, self.num_attention_heads)
        bias = table[self.relative_position_index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1)
        bias = (16 * torch.sigmoid(bias) / scale).unsqueeze(0)
        mask = window_mask(attention_mask, batch)
        context, maps = attend(self, query, key, value, mask, bias=bias, maps=output_attentions)
        if maps is not None:
            maps = maps * scale
        if maps is not None and torch.is_grad_enabled():
            context = apply_maps(maps, value).flatten(-2)
        else:
            context = (context.unflatten(-1, (self.num_attention_heads, -1)) * scale.view(-1, 1)).flatten(-2)
        return outputs(context, maps, output_attentions)

"""Spatial reduction, keys and values from a smaller map than queries: PVT, PVT v2, GLPN."""

import torch

from .common import attend, outputs, split_heads


class SpatialReductionAttention:
    """Keys and values from a smaller map than queries (spatial reduction); `reduce` is the host's way to it."""

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, output_attentions: bool = False):
        """`(B,H*W,C)` to a tuple of `(B,H*W,C)` and, if asked for, the maps."""
        query = split_heads(self.query(hidden_states), self.attention_head_size)
        reduced = self.reduce(hidden_states, height, width)
        key = split_heads(self.key(reduced), self.attention_head_size)
        value = split_heads(self.value(reduced), self.attention_head_size)
        context, maps = attend(self, query, key, value, maps=output_attentions)
        context = self.finish(context)
        return outputs(context, maps, output_attentions)

    def finish(self, context: torch.Tensor) -> torch.Tensor:
        """What follows the attention `(B,H*W,C)` within the module; nothing here."""
        return context


def _on_map(hidden_states: torch.Tensor, height: int, width: int, *layers) -> torch.Tensor:
    """Layers on `(B,C,H,W)` applied to `(B,H*W,C)`, and back."""
    image = hidden_states.transpose(1, 2).unflatten(-1, (height, width))
    for layer in layers:
        image = layer(image)
    return image.flatten(2).transpose(1, 2)


class PvtReductionAttention(SpatialReductionAttention):
    """PVT's strided convolution."""

    def reduce(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`(B,H*W,C)` to `(B,Nk,C)`."""
        if self.sequences_reduction_ratio <= 1:
            return hidden_states
        return self.layer_norm(_on_map(hidden_states, height, width, self.sequence_reduction))


class GlpnReductionAttention(SpatialReductionAttention):
    """GLPN's strided convolution, under SegFormer's names."""

    def reduce(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`(B,H*W,C)` to `(B,Nk,C)`."""
        if self.sr_ratio <= 1:
            return hidden_states
        return self.layer_norm(_on_map(hidden_states, height, width, self.sr))


class PvtV2ReductionAttention(SpatialReductionAttention):
    """PVT v2's strided convolution, or a pool of 7 x 7 in its `linear_attention` variant; the output projection is inside."""

    def reduce(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`(B,H*W,C)` to `(B,Nk,C)`."""
        if self.linear_attention:
            pooled = _on_map(hidden_states, height, width, self.pool, self.spatial_reduction)
            return self.act(self.layer_norm(pooled))
        if self.spatial_reduction_ratio <= 1:
            return hidden_states
        return self.layer_norm(_on_map(hidden_states, height, width, self.spatial_reduction))

    def finish(self, context: torch.Tensor) -> torch.Tensor:
        """The output projection of `(B,H*W,C)`."""
        return self.proj_drop(self.proj(context))

"""One `qkv` projection: TimeSformer, BLIP, MGP-STR."""

import torch

from .common import attend, outputs, split_qkv


class FusedQKVAttention:
    """One `qkv` projection, the output projection elsewhere: TimeSformer, whose axes of time and space take turns."""

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False):
        """`(B,N,C)` to a tuple of `(B,N,C)` and, if asked for, the maps."""
        context, maps = attend(self, *split_qkv(self.qkv(hidden_states), self.num_heads), maps=output_attentions)
        return outputs(context, maps, output_attentions)


class BlipFusedAttention:
    """BLIP: one `qkv` projection and `projection` after it."""

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False, **kwargs):
        """`(B,N,C)` to `(B,N,C)` and the maps or None."""
        context, maps = attend(self, *split_qkv(self.qkv(hidden_states), self.num_heads), maps=output_attentions)
        return self.projection(context), maps


class MgpstrFusedAttention:
    """MGP-STR: one `qkv` projection, `proj` after it. Its encoder says whether maps are wanted, its blocks do not pass it on."""

    maps_wanted = False

    def forward(self, hidden_states: torch.Tensor):
        """`(B,N,C)` to `(B,N,C)` and the maps or None."""
        query, key, value = split_qkv(self.qkv(hidden_states), self.num_heads)
        context, maps = attend(self, query, key, value, maps=self.maps_wanted)
        return self.proj_drop(self.proj(context)), maps


class MgpstrMapsWanted:
    """Tells its attentions whether maps are wanted: the softmax ones have them at hand anyway, SimA would have to build them."""

    attends = False

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False, **kwargs):
        """As MgpstrEncoder's, on `(B,N,C)`."""
        for block in self.blocks:
            block.attn.maps_wanted = bool(output_attentions)
        return super().forward(hidden_states, output_attentions=output_attentions, **kwargs)

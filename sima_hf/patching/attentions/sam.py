"""Positions decomposed by axis, which depend on the query: SAM, SAM-HQ, GOT-OCR 2, SegGPT, ViTDet."""

import torch

from ...attention import apply_maps
from .common import attend, outputs, split_qkv


class DecomposedRelPosAttention:
    """Positions decomposed by axis, which depend on the query: SAM, SAM-HQ, GOT-OCR 2, SegGPT, ViTDet.

    Subclasses say where the host has its bias.
    """

    maps_in_batch = True  # SAM, SAM-HQ and GOT-OCR 2 have the heads beside the batch in their maps

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool | None = False):
        """`(B,H,W,C)` to the same and the maps, `(B*heads,N,N)` or as a subclass has them, or None."""
        height, width = hidden_states.shape[1:3]
        query, key, value = split_qkv(self.qkv(hidden_states.flatten(1, 2)), self.head_count())
        bias = self.bias(query, (height, width)) if self.has_bias() else None
        context, maps = attend(self, query, key, value, bias=bias, maps=bool(output_attentions))
        if maps is not None and self.maps_in_batch:
            maps = maps.flatten(0, 1)
            if torch.is_grad_enabled():
                context = apply_maps(maps.unflatten(0, (-1, self.head_count())), value).flatten(-2)
        return self.proj(context.unflatten(1, (height, width))), maps

    def head_count(self) -> int:
        """Number of heads."""
        return self.num_attention_heads

    def has_bias(self) -> bool:
        """Whether the model has relative positions."""
        return self.use_rel_pos

    def bias(self, query: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """`(B,H,N,N)` from the query `(B,H,N,D)` as the host has it."""
        bias = self.get_decomposed_rel_pos(query.flatten(0, 1), self.rel_pos_h, self.rel_pos_w, size, size)
        return bias.reshape(*query.shape[:2], query.shape[2], query.shape[2])


def _bias_alone(add, query, *arguments):
    """The bias alone from a host's function that adds it to a map."""
    flat = query.flatten(0, 1)
    nothing = flat.new_zeros(flat.shape[0], flat.shape[1], flat.shape[1])
    return add(nothing, flat, *arguments).view(*query.shape[:3], query.shape[2])


class SegGptRelPosAttention(DecomposedRelPosAttention):
    """The same in SegGPT."""

    maps_in_batch = False

    def has_bias(self) -> bool:
        """Whether the model has relative positions."""
        return self.use_relative_position_embeddings

    def bias(self, query: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """`(B,H,N,N)`."""
        return _bias_alone(self.add_decomposed_rel_pos, query, self.rel_pos_h, self.rel_pos_w, size, size)


class VitDetRelPosAttention(SegGptRelPosAttention):
    """The same in ViTDet, which gives the maps only when asked."""

    def forward(self, hidden_state: torch.Tensor, output_attentions: bool = False):
        """`(B,H,W,C)` to a tuple of the same and, if asked for, the maps."""
        context, maps = super().forward(hidden_state, output_attentions)
        return outputs(context, maps, output_attentions)

    def head_count(self) -> int:
        """Number of heads."""
        return self.num_heads

    def bias(self, query: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """`(B,H,N,N)`."""
        from transformers.models.vitdet.modeling_vitdet import add_decomposed_relative_positions

        return _bias_alone(add_decomposed_relative_positions, query, self.rel_pos_h, self.rel_pos_w, size, size)

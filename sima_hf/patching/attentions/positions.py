"""Attention with a position bias, which is added to the product of the normalised query and key, trainable as before."""

import math

import torch

from ...attention import PositionBias, apply_maps
from .attend import attend, heads_apart
from .projections import split_fused


class KeptApart:
    """A host's position bias module whose result stays apart from masks added to it: BEiT."""

    attends = False

    def forward(self, *args, **kwargs) -> PositionBias:
        """The host's bias, `(1,H,N,N)`, wrapped."""
        return PositionBias(super().forward(*args, **kwargs))


def _of_windows(mask: torch.Tensor | None, batch: int) -> torch.Tensor | None:
    """`(B,1,N,N)` from a mask for each window, `(windows,N,N)`; images come one after the other, their windows side by side."""
    return None if mask is None else mask.unsqueeze(1).repeat(batch // mask.shape[0], 1, 1, 1)


class Swin:
    """Swin's windows, whose bias and shift mask the host would hand on as one sum."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_attentions=False,
        **kwargs,
    ):
        """`(B*windows,N,C)` to the same and the maps or None."""
        query, key, value = (
            heads_apart(project(hidden_states), self.head_dim) for project in (self.q_proj, self.k_proj, self.v_proj)
        )
        mask = _of_windows(attention_mask, hidden_states.shape[0])
        context, maps = attend(
            self, query, key, value, mask, bias=self.relative_position_bias(), maps=output_attentions
        )
        return self.o_proj(context), maps


class Windows:
    """Windows with a table of relative positions: Donut's and MaskFormer's Swin."""

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, output_attentions: bool = False):
        """`(B*windows,N,C)` to a tuple of the same and, if asked for, the maps."""
        batch, tokens, _ = hidden_states.shape
        query, key, value = (
            heads_apart(project(hidden_states), self.attention_head_size)
            for project in (self.query, self.key, self.value)
        )
        table = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = table.view(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)
        context, maps = attend(
            self, query, key, value, _of_windows(attention_mask, batch), bias=bias, maps=output_attentions
        )
        return (context, maps) if output_attentions else (context,)


class CosineWindows:
    """Swin v2's windows: SimA's norms take the place of the L2 ones of its cosine; scale and bias of each head stay.

    `out = scale (q^ k^T) v + bias v`, computed as `scale (q^ k^T + bias / scale) v`.
    """

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, output_attentions: bool = False):
        """`(B*windows,N,C)` to a tuple of the same and, if asked for, the maps."""
        batch, tokens, _ = hidden_states.shape
        query, key, value = (
            heads_apart(project(hidden_states), self.attention_head_size)
            for project in (self.query, self.key, self.value)
        )
        scale = self.logit_scale.clamp(max=math.log(100.0)).exp()  # (H,1,1)
        table = self.continuous_position_bias_mlp(self.relative_coords_table).view(-1, self.num_attention_heads)
        bias = table[self.relative_position_index.view(-1)].view(tokens, tokens, -1).permute(2, 0, 1)
        bias = (16 * torch.sigmoid(bias) / scale).unsqueeze(0)
        mask = _of_windows(attention_mask, batch)
        context, maps = attend(self, query, key, value, mask, bias=bias, maps=output_attentions)
        if maps is not None:
            maps = maps * scale
        if maps is not None and torch.is_grad_enabled():
            context = apply_maps(maps, value).flatten(-2)
        else:
            context = (context.unflatten(-1, (self.num_attention_heads, -1)) * scale.view(-1, 1)).flatten(-2)
        return (context, maps) if output_attentions else (context,)


class Data2Vec:
    """Data2VecVision: a bias of each layer, and one that all layers share."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        output_attentions: bool = False,
        relative_position_bias: torch.Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        resolution: tuple[int, int] | None = None,
    ):
        """`(B,N,C)` to a tuple of the same and, if asked for, the maps."""
        query, key, value = (
            heads_apart(project(hidden_states), self.attention_head_size)
            for project in (self.query, self.key, self.value)
        )
        bias = relative_position_bias
        if self.has_relative_position_bias:
            window = tuple(size // self.config.patch_size for size in resolution)
            own = self.relative_position_bias(window, interpolate_pos_encoding, dim_size=hidden_states.shape[1])
            bias = own if bias is None else own + bias
        context, maps = attend(self, query, key, value, bias=bias, maps=output_attentions)
        return (context, maps) if output_attentions else (context,)


class Decomposed:
    """Positions decomposed by axis, which depend on the query: SAM, SAM-HQ, GOT-OCR 2, SegGPT, ViTDet.

    Subclasses say where the host has its bias.
    """

    maps_in_batch = True  # SAM, SAM-HQ and GOT-OCR 2 have the heads beside the batch in their maps

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool | None = False):
        """`(B,H,W,C)` to the same and the maps, `(B*heads,N,N)` or as a subclass has them, or None."""
        height, width = hidden_states.shape[1:3]
        query, key, value = split_fused(self.qkv(hidden_states.flatten(1, 2)), self.head_count())
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


def _on_nothing(add, query, *arguments):
    """The bias alone from a host's function that adds it to a map."""
    flat = query.flatten(0, 1)
    nothing = flat.new_zeros(flat.shape[0], flat.shape[1], flat.shape[1])
    return add(nothing, flat, *arguments).view(*query.shape[:3], query.shape[2])


class SegGptDecomposed(Decomposed):
    """The same in SegGPT."""

    maps_in_batch = False

    def has_bias(self) -> bool:
        """Whether the model has relative positions."""
        return self.use_relative_position_embeddings

    def bias(self, query: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """`(B,H,N,N)`."""
        return _on_nothing(self.add_decomposed_rel_pos, query, self.rel_pos_h, self.rel_pos_w, size, size)


class VitDetDecomposed(SegGptDecomposed):
    """The same in ViTDet, which gives the maps only when asked."""

    def forward(self, hidden_state: torch.Tensor, output_attentions: bool = False):
        """`(B,H,W,C)` to a tuple of the same and, if asked for, the maps."""
        context, maps = super().forward(hidden_state, output_attentions)
        return (context, maps) if output_attentions else (context,)

    def head_count(self) -> int:
        """Number of heads."""
        return self.num_heads

    def bias(self, query: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """`(B,H,N,N)`."""
        from transformers.models.vitdet.modeling_vitdet import add_decomposed_relative_positions

        return _on_nothing(add_decomposed_relative_positions, query, self.rel_pos_h, self.rel_pos_w, size, size)


def _by_distance(module) -> torch.Tensor:
    """LeViT's bias, `(1,H,Nq,Nk)`; not from the cache that the host keeps in eval mode, which outlives loading and gradients."""
    return module.attention_biases[:, module.attention_bias_idxs].unsqueeze(0)


class Levit:
    """LeViT's attention within a stage: narrow keys, wide values, a bias by distance."""

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """`(B,N,C)` to the same."""
        widths = [self.key_dim, self.key_dim, self.attention_ratio * self.key_dim]
        projected = self.queries_keys_values(hidden_state).unflatten(-1, (self.num_attention_heads, -1))
        query, key, value = (x.transpose(1, 2) for x in projected.split(widths, dim=-1))
        context, _ = attend(self, query, key, value, bias=_by_distance(self))
        return self.projection(self.activation(context))


class LevitSubsample:
    """LeViT's attention between stages: a quarter of the tokens ask."""

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """`(B,N,C)` to `(B,N/4,C')`."""
        widths = [self.key_dim, self.attention_ratio * self.key_dim]
        projected = self.keys_values(hidden_state).unflatten(-1, (self.num_attention_heads, -1))
        key, value = (x.transpose(1, 2) for x in projected.split(widths, dim=-1))
        query = heads_apart(self.queries(self.queries_subsample(hidden_state)), self.key_dim)
        context, _ = attend(self, query, key, value, bias=_by_distance(self))
        return self.projection(self.activation(context))

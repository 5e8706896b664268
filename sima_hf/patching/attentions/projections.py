"""Attention between a query, a key and a value projection, in the ways hosts arrange those; no position bias."""

import torch

from ...attention import apply_maps
from ...ops.checks import HIDDEN
from .attend import attend, heads_apart


class Separate:
    """`query`, `key` and `value` apart, the output projection elsewhere: FLAVA, ViLT."""

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, output_attentions: bool = False):
        """`(B,N,C)` to a tuple of `(B,N,C)` and, if asked for, the maps `(B,H,N,N)`."""
        query, key, value = (
            heads_apart(project(hidden_states), self.attention_head_size)
            for project in (self.query, self.key, self.value)
        )
        context, maps = attend(self, query, key, value, attention_mask, maps=output_attentions)
        return (context, maps) if output_attentions else (context,)


class Bare(Separate):
    """The same with hidden states alone for input and output: MobileViT, whose batch holds the pixels of a patch apart."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B,N,C)` to `(B,N,C)`."""
        return super().forward(hidden_states)[0]


class Reduced:
    """Keys and values from a smaller map than queries (spatial reduction); `reduce` is the host's way to it."""

    def forward(self, hidden_states: torch.Tensor, height: int, width: int, output_attentions: bool = False):
        """`(B,H*W,C)` to a tuple of `(B,H*W,C)` and, if asked for, the maps."""
        query = heads_apart(self.query(hidden_states), self.attention_head_size)
        reduced = self.reduce(hidden_states, height, width)
        key = heads_apart(self.key(reduced), self.attention_head_size)
        value = heads_apart(self.value(reduced), self.attention_head_size)
        context, maps = attend(self, query, key, value, maps=output_attentions)
        context = self.finish(context)
        return (context, maps) if output_attentions else (context,)

    def finish(self, context: torch.Tensor) -> torch.Tensor:
        """What follows the attention `(B,H*W,C)` within the module; nothing here."""
        return context


def _on_map(hidden_states: torch.Tensor, height: int, width: int, *layers) -> torch.Tensor:
    """Layers on `(B,C,H,W)` applied to `(B,H*W,C)`, and back."""
    image = hidden_states.transpose(1, 2).unflatten(-1, (height, width))
    for layer in layers:
        image = layer(image)
    return image.flatten(2).transpose(1, 2)


class PvtReduced(Reduced):
    """PVT's strided convolution."""

    def reduce(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`(B,H*W,C)` to `(B,Nk,C)`."""
        if self.sequences_reduction_ratio <= 1:
            return hidden_states
        return self.layer_norm(_on_map(hidden_states, height, width, self.sequence_reduction))


class GlpnReduced(Reduced):
    """GLPN's strided convolution, under SegFormer's names."""

    def reduce(self, hidden_states: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`(B,H*W,C)` to `(B,Nk,C)`."""
        if self.sr_ratio <= 1:
            return hidden_states
        return self.layer_norm(_on_map(hidden_states, height, width, self.sr))


class PvtV2Reduced(Reduced):
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


def split_fused(qkv: torch.Tensor, heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Three views `(B,H,N,D)` of `(B,N,3*H*D)`, laid out as 3, H, D."""
    return qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)


class Fused:
    """One `qkv` projection, the output projection elsewhere: TimeSformer, whose axes of time and space take turns."""

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False):
        """`(B,N,C)` to a tuple of `(B,N,C)` and, if asked for, the maps."""
        context, maps = attend(self, *split_fused(self.qkv(hidden_states), self.num_heads), maps=output_attentions)
        return (context, maps) if output_attentions else (context,)


class BlipFused:
    """BLIP: one `qkv` projection and `projection` after it."""

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False, **kwargs):
        """`(B,N,C)` to `(B,N,C)` and the maps or None."""
        context, maps = attend(self, *split_fused(self.qkv(hidden_states), self.num_heads), maps=output_attentions)
        return self.projection(context), maps


class MgpstrFused:
    """MGP-STR: one `qkv` projection, `proj` after it. Its encoder says whether maps are wanted, its blocks do not pass it on."""

    maps_wanted = False

    def forward(self, hidden_states: torch.Tensor):
        """`(B,N,C)` to `(B,N,C)` and the maps or None."""
        query, key, value = split_fused(self.qkv(hidden_states), self.num_heads)
        context, maps = attend(self, query, key, value, maps=self.maps_wanted)
        return self.proj_drop(self.proj(context)), maps


class MgpstrEncoder:
    """Tells its attentions whether maps are wanted: the softmax ones have them at hand anyway, SimA would have to build them."""

    attends = False

    def forward(self, hidden_states: torch.Tensor, output_attentions: bool = False, **kwargs):
        """As MgpstrEncoder's, on `(B,N,C)`."""
        for block in self.blocks:
            block.attn.maps_wanted = bool(output_attentions)
        return super().forward(hidden_states, output_attentions=output_attentions, **kwargs)


class OnesAllowed:
    """EoMT's: its predicted masks say 1 for "may be seen" and -1e9 for "hidden". Softmax ignores the 1, a bias would not."""

    attends = False

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        """As the host's, on `(B,N,C)`; of a mask `(B,1 or H,N,N)`, what is above -100 counts as allowed."""
        if attention_mask is not None:
            attention_mask = attention_mask > HIDDEN
        return super().forward(hidden_states, attention_mask, **kwargs)


class GroupVit:
    """GroupViT's attention, from itself or from group tokens to image tokens; the assignment to groups is no attention."""

    def forward(
        self, hidden_states, attention_mask=None, encoder_hidden_states=None, output_attentions=False, **kwargs
    ):
        """`(B,N,C)` to `(B,N,C)` and the maps or None."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = heads_apart(self.q_proj(hidden_states), self.head_dim)
        key, value = (heads_apart(project(source), self.head_dim) for project in (self.k_proj, self.v_proj))
        context, maps = attend(self, query, key, value, attention_mask, maps=output_attentions)
        return self.out_proj(context), maps


class Cvt:
    """CvT's convolutional projections; keys and values come from a smaller map, the class token joins in the last stage."""

    def forward(self, hidden_state: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`(B,[1+]H*W,C)` to the same."""
        class_token = hidden_state[:, :1] if self.with_cls_token else hidden_state[:, :0]
        image = hidden_state[:, class_token.shape[1] :].transpose(1, 2).unflatten(-1, (height, width))
        projected = []
        for name in ("query", "key", "value"):
            tokens = getattr(self, f"convolution_projection_{name}")(image)
            tokens = getattr(self, f"projection_{name}")(torch.cat((class_token, tokens), dim=1))
            projected.append(heads_apart(tokens, self.embed_dim // self.num_heads))
        return attend(self, *projected)[0]


class Hiera:
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

"""Separate query, key and value projections: FLAVA, ViLT, MobileViT, GroupViT, CvT."""

import torch

from .common import attend, outputs, project_heads, split_heads


class SeparateQKVAttention:
    """`query`, `key` and `value` apart, the output projection elsewhere: FLAVA, ViLT."""

    def forward(self, hidden_states: torch.Tensor, attention_mask=None, output_attentions: bool = False):
        """`(B,N,C)` to a tuple of `(B,N,C)` and, if asked for, the maps `(B,H,N,N)`."""
        query, key, value = project_heads(hidden_states, self.attention_head_size, self.query, self.key, self.value)
        context, maps = attend(self, query, key, value, attention_mask, maps=output_attentions)
        return outputs(context, maps, output_attentions)


class MobileViTSeparateAttention(SeparateQKVAttention):
    """The same with hidden states alone for input and output: MobileViT, whose batch holds the pixels of a patch apart."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(B,N,C)` to `(B,N,C)`."""
        return super().forward(hidden_states)[0]


class GroupTokenAttention:
    """GroupViT's attention, from itself or from group tokens to image tokens; the assignment to groups is no attention."""

    def forward(
        self, hidden_states, attention_mask=None, encoder_hidden_states=None, output_attentions=False, **kwargs
    ):
        """`(B,N,C)` to `(B,N,C)` and the maps or None."""
        source = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = split_heads(self.q_proj(hidden_states), self.head_dim)
        key, value = project_heads(source, self.head_dim, self.k_proj, self.v_proj)
        context, maps = attend(self, query, key, value, attention_mask, maps=output_attentions)
        return self.out_proj(context), maps


class ConvProjectionAttention:
    """CvT's convolutional projections; keys and values come from a smaller map, the class token joins in the last stage."""

    def forward(self, hidden_state: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """`(B,[1+]H*W,C)` to the same."""
        class_token = hidden_state[:, :1] if self.with_cls_token else hidden_state[:, :0]
        image = hidden_state[:, class_token.shape[1] :].transpose(1, 2).unflatten(-1, (height, width))
        projected = []
        for name in ("query", "key", "value"):
            tokens = getattr(self, f"convolution_projection_{name}")(image)
            tokens = getattr(self, f"projection_{name}")(torch.cat((class_token, tokens), dim=1))
            projected.append(split_heads(tokens, self.embed_dim // self.num_heads))
        return attend(self, *projected, scale=self.scale)[0]

"""BEiT and Data2Vec: a bias of relative positions, of each layer or shared."""

import torch

from ...attention import PositionBias
from .common import attend, outputs, project_heads


class SeparateBias:
    """A host's position bias module whose result stays apart from masks added to it: BEiT."""

    attends = False

    def forward(self, *args, **kwargs) -> PositionBias:
        """The host's bias, `(1,H,N,N)`, wrapped."""
        return PositionBias(super().forward(*args, **kwargs))


class Data2VecAttention:
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
        query, key, value = project_heads(hidden_states, self.attention_head_size, self.query, self.key, self.value)
        bias = relative_position_bias
        if self.has_relative_position_bias:
            window = tuple(size // self.config.patch_size for size in resolution)
            own = self.relative_position_bias(window, interpolate_pos_encoding, dim_size=hidden_states.shape[1])
            bias = own if bias is None else own + bias
        context, maps = attend(self, query, key, value, bias=bias, maps=output_attentions)
        return outputs(context, maps, output_attentions)

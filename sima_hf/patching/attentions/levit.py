"""LeViT: narrow keys, wide values, a bias by distance."""

import torch

from .common import attend, split_heads


def _distance_bias(module) -> torch.Tensor:
    """LeViT's bias, `(1,H,Nq,Nk)`; not from the cache that the host keeps in eval mode, which outlives loading and gradients."""
    return module.attention_biases[:, module.attention_bias_idxs].unsqueeze(0)


class LevitStageAttention:
    """LeViT's attention within a stage: narrow keys, wide values, a bias by distance."""

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """`(B,N,C)` to the same."""
        widths = [self.key_dim, self.key_dim, self.attention_ratio * self.key_dim]
        projected = self.queries_keys_values(hidden_state).unflatten(-1, (self.num_attention_heads, -1))
        query, key, value = (x.transpose(1, 2) for x in projected.split(widths, dim=-1))
        context, _ = attend(self, query, key, value, bias=_distance_bias(self))
        return self.projection(self.activation(context))


class LevitSubsampleAttention:
    """LeViT's attention between stages: a quarter of the tokens ask."""

    def forward(self, hidden_state: torch.Tensor) -> torch.Tensor:
        """`(B,N,C)` to `(B,N/4,C')`."""
        widths = [self.key_dim, self.attention_ratio * self.key_dim]
        projected = self.keys_values(hidden_state).unflatten(-1, (self.num_attention_heads, -1))
        key, value = (x.transpose(1, 2) for x in projected.split(widths, dim=-1))
        query = split_heads(self.queries(self.queries_subsample(hidden_state)), self.key_dim)
        context, _ = attend(self, query, key, value, bias=_distance_bias(self))
        return self.projection(self.activation(context))

"""The projection head of DINO, through which student and teacher are compared; it is thrown away after the training."""

import torch
from torch import nn
from torch.nn import functional as F


class DINOHead(nn.Module):
    """Three layers with GELU, an L2 norm, and a layer without bias whose rows have length 1 (Caron et al., arXiv 2104.14294).

    The last layer is the original's weight norm with its scale held at 1 (`norm_last_layer`).

    Args:
        in_dim: channels of the encoder's features.
        out_dim: K, dimensions that the loss is a softmax over.
        hidden_dim, bottleneck_dim: channels of the two hidden layers, and in front of the last.
    """

    def __init__(self, in_dim: int, out_dim: int = 65536, hidden_dim: int = 2048, bottleneck_dim: int = 256):
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(in_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, hidden_dim),
            nn.GELU(),
            nn.Linear(hidden_dim, bottleneck_dim),
        )
        self.last_layer = nn.Linear(bottleneck_dim, out_dim, bias=False)
        for module in self.mlp:
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """`(B, out_dim)` of features `(B, in_dim)`: cosines with the rows of the last layer."""
        hidden = F.normalize(self.mlp(features), dim=-1)
        return F.linear(hidden, F.normalize(self.last_layer.weight, dim=-1))

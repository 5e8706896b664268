"""CvT: convolutional projections."""

import torch

from .common import attend, split_heads


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

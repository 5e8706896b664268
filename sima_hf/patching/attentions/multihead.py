"""`torch.nn.MultiheadAttention`: pooling heads as SigLIP's, and BridgeTower's blocks."""

import torch
from torch.nn import functional as F

from .common import attend, split_heads
from .pooling import ask


class MultiHeadForward:
    """`torch.nn.MultiheadAttention`: pooling heads as SigLIP's, where one query asks, and BridgeTower's blocks, which are SimA."""

    def forward(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        key_padding_mask: torch.Tensor | None = None,
        need_weights: bool = True,
        attn_mask: torch.Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """As torch's, on batches `(B,N,C)` or `(N,B,C)`.

        Weights are never built: no host reads them, and they would cost `N x N`. True in a boolean mask means hidden.

        Raises:
            ValueError: `attn_mask` hides anything but the same keys from every query of an image.
        """
        if not self.batch_first:
            query, key, value = (x.transpose(0, 1) for x in (query, key, value))
        weights, biases = self.in_proj_weight.chunk(3), (None,) * 3
        if self.in_proj_bias is not None:
            biases = self.in_proj_bias.chunk(3)
        projected = [
            split_heads(F.linear(x, weight, bias), self.head_dim)
            for x, weight, bias in zip((query, key, value), weights, biases, strict=True)
        ]
        keep = None if key_padding_mask is None else ~key_padding_mask.bool()
        if attn_mask is not None:
            keep = self._keys_kept(attn_mask, key.shape[0], query.shape[1])
        context = ask(self, *projected, keep) if query.shape[1] == 1 else attend(self, *projected, keep)[0]
        output = F.linear(context, self.out_proj.weight, self.out_proj.bias)
        return (output if self.batch_first else output.transpose(0, 1)), None

    def _keys_kept(self, mask: torch.Tensor, batch: int, queries: int) -> torch.Tensor:
        """`(B,Nk)` from `(B*H,Nq,Nk)`, where one query asks."""
        if mask.dim() != 3 or queries != 1:
            raise ValueError(
                f"SimA in a pooling head honors masks of keys for one query, `(batch * heads, 1, keys)`, got a mask of "
                f"shape {tuple(mask.shape)} for {queries} queries."
            )
        kept = mask.view(batch, self.num_heads, -1)[:, 0]
        return ~kept if kept.dtype == torch.bool else kept == 0

"""EoMT: masks that the model predicts, with values other than a mask has."""

import torch

from ...ops.checks import HIDDEN


class BooleanMask:
    """EoMT's: its predicted masks say 1 for "may be seen" and -1e9 for "hidden". Softmax ignores the 1, a bias would not."""

    attends = False

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        """As the host's, on `(B,N,C)`; of a mask `(B,1 or H,N,N)`, what is above -100 counts as allowed."""
        if attention_mask is not None:
            attention_mask = attention_mask > HIDDEN
        return super().forward(hidden_states, attention_mask, **kwargs)

"""The loss of image classification, for labels and for the soft targets that mixup and label smoothing make."""

import torch
from torch.nn.functional import log_softmax


IGNORED = -100


def soft_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Cross entropy `-sum_k t[k] log softmax(logits)[k]`, averaged over the images.

    Computed in float32 whatever the logits are (float64 stays), because in half precision the logarithms of small
    probabilities lose what distinguishes them.

    Args:
        logits: floating, (B, K).
        targets: class indices, int64 (B,), of which -100 is left out of the mean; or distributions, floating (B, K).

    Returns:
        A scalar, float32 (float64 for float64 logits); 0 if every image is left out.

    Raises:
        ValueError: the shapes do not belong together.
    """
    indices = not targets.is_floating_point()
    if logits.ndim != 2 or targets.shape != (logits.shape[:1] if indices else logits.shape):
        raise ValueError(
            f"Logits of shape (B, K) need class indices of shape (B,) or distributions of shape (B, K), got logits "
            f"{tuple(logits.shape)} and {targets.dtype} targets {tuple(targets.shape)}."
        )
    scores = log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    if not indices:
        return -(targets.to(scores.dtype) * scores).sum(dim=-1).sum() / max(len(scores), 1)
    counted = targets != IGNORED
    chosen = scores.gather(1, targets.long().masked_fill(~counted, 0)[:, None])[:, 0]
    return -torch.where(counted, chosen, 0).sum() / counted.sum().clamp(min=1)

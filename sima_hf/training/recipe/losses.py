"""The loss of image classification, for labels and for the soft targets that mixup and label smoothing make."""

import torch
import torch.nn.functional as F

from ...data.images import NO_LABEL


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
    indices, dtype = not targets.is_floating_point(), torch.promote_types(logits.dtype, torch.float32)
    if logits.ndim != 2 or targets.shape != (logits.shape[:1] if indices else logits.shape):
        raise ValueError(
            f"Logits of shape (B, K) need class indices of shape (B,) or distributions of shape (B, K), got logits "
            f"{tuple(logits.shape)} and {targets.dtype} targets {tuple(targets.shape)}."
        )
    if not indices:
        return F.cross_entropy(logits.to(dtype), targets.to(dtype))
    # By hand, because the mean of none would be NaN.
    counted = (targets != NO_LABEL).sum()
    return F.cross_entropy(logits.to(dtype), targets.long(), ignore_index=NO_LABEL, reduction="sum") / counted.clamp(
        min=1
    )

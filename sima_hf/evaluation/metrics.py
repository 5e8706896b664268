"""Top-1 and top-5 accuracy: ranking of logits, counting, and what Transformers' Trainer and `evaluate` need of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging

from ..data.images import NO_LABEL
from ..errors import DataError


if TYPE_CHECKING:
    from transformers import EvalPrediction


logger = logging.get_logger(__name__)

NO_ANSWER = -1  # the class of an image whose logits hold a NaN: equal to no label
TOP = 5


def rank_classes(logits: torch.Tensor, k: int = TOP) -> torch.Tensor:
    """The `k` most likely classes of each image, the likeliest first; of equal logits the lower class comes first.

    Args:
        logits: `(B, K)`, any floating dtype, any device.
        k: how many; with fewer classes, all of them.

    Returns:
        int64 `(B, min(k, K))`. A row with a NaN in it names no class: it is `NO_ANSWER` throughout, which is always wrong.

    Raises:
        DataError: logits of another shape or dtype.
    """
    if logits.ndim != 2 or not logits.is_floating_point():
        raise DataError(
            f"Logits must be floating point numbers (images, classes), got {logits.dtype} {tuple(logits.shape)}."
        )
    # A stable sort, because `topk` and `argmax` may pick any of several equal logits.
    ranked = logits.sort(dim=-1, descending=True, stable=True).indices[:, :k]
    return ranked.masked_fill(logits.isnan().any(dim=-1, keepdim=True), NO_ANSWER)


def correct_at_1_and_5(ranked: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Which images have their class first, and which have it among the first five.

    With fewer than five classes the first five are all of them, so the second is true of every image with an answer.

    Args:
        ranked: int64 `(B, k)` classes by rank, from `rank_classes`.
        labels: int64 `(B,)`.

    Returns:
        Two boolean tensors `(B,)`.
    """
    equal = ranked[:, :TOP] == labels[:, None]
    return equal[:, 0], equal.any(dim=-1)


def top_classes(logits: Any, labels: torch.Tensor | None = None, k: int = TOP) -> torch.Tensor:
    """For `Trainer(preprocess_logits_for_metrics=)`: keeps `k` classes of each image in place of all logits.

    Args:
        logits: `(B, K)`, or the outputs of a model with several heads, whose first are the logits (DeiT with a teacher gives
            the mean of its heads, then each head).
        labels: not used; Trainer hands them over.
        k: how many classes.

    Returns:
        int64 `(B, min(k, K))`, as `rank_classes`.

    Raises:
        DataError: no logits of shape `(B, K)`.
    """
    while isinstance(logits, (tuple, list)):
        if not logits:
            raise DataError("The model gave no output that could be logits (images, classes).")
        logits = logits[0]
    return rank_classes(logits, k)


def compute_metrics(prediction: "EvalPrediction") -> dict[str, float]:
    """For `Trainer(compute_metrics=)`: accuracy of logits `(N, K)` or of classes by rank `(N, k)` from `top_classes`.

    Returns:
        `{"accuracy", "top_5_accuracy"}`, shares of the images whose label is not -100.

    Raises:
        DataError: shapes that do not fit, labels that the logits have no class for, or no labeled image at all.
    """
    predictions = prediction.predictions
    while isinstance(predictions, (tuple, list)):
        predictions = predictions[0]
    ranked, labels = validate_predictions(predictions, prediction.label_ids)
    return {name: value for name, value in accuracies(ranked, labels).items() if name != "num_images"}


def validate_predictions(predictions: Any, references: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes by rank `(B', k)` and labels `(B',)` of the images that count, both int64 on the CPU.

    Args:
        predictions: logits `(B, K)` if they are floating point numbers, else classes by rank `(B, k)`.
        references: labels `(B,)`; images with -100 are left out.

    Raises:
        DataError: shapes or dtypes that do not fit, or labels that the logits have no class for.
    """
    predictions, labels = _tensor(predictions), _tensor(references)
    if predictions.ndim != 2 or predictions.shape[1] == 0 or labels.ndim != 1 or len(predictions) != len(labels):
        raise DataError(
            "Predictions must be logits (images, classes) or classes by rank (images, k), and references one label for each "
            f"image, got {tuple(predictions.shape)} and {tuple(labels.shape)}."
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise DataError(f"References must be class indices, got {labels.dtype}.")
    counted = labels != NO_LABEL
    predictions, labels = predictions[counted], labels[counted].long()
    most = predictions.shape[1] if predictions.is_floating_point() else None
    outside = (labels < 0) | (labels >= most) if most is not None else labels < 0
    if outside.any():
        classes = "not negative" if most is None else f"from 0 to {most - 1}"
        raise DataError(f"Labels must be {classes}, or {NO_LABEL} to be left out, got {labels[outside][0]}.")
    if predictions.is_floating_point():
        return rank_classes(predictions), labels
    return predictions[:, :TOP].long(), labels


def _tensor(values: Any) -> torch.Tensor:
    """A CPU tensor of a tensor, an array, or a list of numbers or of tensors."""
    if isinstance(values, Sequence) and len(values) and isinstance(values[0], torch.Tensor):
        values = torch.stack(list(values))
    tensor = values.detach().cpu() if isinstance(values, torch.Tensor) else torch.as_tensor(np.asarray(values))
    # An empty list has no dtype of its own, and NumPy takes it for floating point.
    return tensor.long() if tensor.numel() == 0 and isinstance(values, list) else tensor


def accuracies(ranked: torch.Tensor, labels: torch.Tensor) -> dict[str, float | int]:
    """`{"accuracy", "top_5_accuracy", "num_images"}` of all images; says how many of them had no answer.

    Args:
        ranked: int64 `(B, k)` classes by rank, from `rank_classes`.
        labels: int64 `(B,)`, without those that count nowhere.

    Raises:
        DataError: there is no image.
    """
    if len(labels) == 0:
        raise DataError(f"There is no image to measure on: none came, or all labels were {NO_LABEL}.")
    first, among_five = correct_at_1_and_5(ranked, labels)
    warn_of_no_answer(int((ranked[:, 0] == NO_ANSWER).sum()), len(labels))
    return {
        "accuracy": int(first.sum()) / len(labels),
        "top_5_accuracy": int(among_five.sum()) / len(labels),
        "num_images": len(labels),
    }


def warn_of_no_answer(count: int, images: int) -> None:
    """Say how many images had a NaN among their logits, if any had."""
    if count:
        logger.warning(f"{count} of {images} images had logits that are not a number; they count as wrong.")

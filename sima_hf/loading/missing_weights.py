"""Whether the weights that a model was loaded with are all its own."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ..errors import CheckpointError, PublishError
from ..folders.weights import check_loading, some
from ..patching.example_inputs import example_inputs


logger = logging.get_logger(__name__)


def check_weights(name: str, model: PreTrainedModel, report: Mapping[str, Any], whole: bool = True) -> None:
    """Refuse a model some of whose weights were not in the checkpoint, and would be saved or measured as random numbers.

    What may be missing, with a warning: the pooler of a model without a head, since checkpoints of classifiers and self-supervised
    ones have none and nothing in the model reads its output; and what a forward does not read at all, such as a branch of DPT's
    first fusion layer, which published checkpoints lack.

    Args:
        name: folder or Hub name, for the text.
        model: as it was loaded, with `ignore_mismatched_sizes`.
        report: what `from_pretrained(..., output_loading_info=True)` reports.
        whole: False: whatever is missing gives no more than a warning.

    Raises:
        CheckpointError: weights are missing, or have other shapes than the config says; it names the first few.
    """
    missing = set(report["missing_keys"])
    if missing and (not whole or _unread(model, missing)):
        logger.warning(
            f"{name} has no weights for {some(missing)} of {type(model).__name__}; these are randomly initialized."
        )
        missing = set()
    try:
        check_loading(Path(name), type(model).__name__, {**report, "missing_keys": missing, "unexpected_keys": ()})
    except PublishError as error:
        raise CheckpointError(str(error)) from error


def without_pooler(model: PreTrainedModel, missing: Iterable[str]) -> set[str]:
    """Missing weights but those of the pooler of a model without a head, which nothing in it reads."""
    return {key for key in missing if model.base_model is not model or "pooler" not in key}


def _unread(model: PreTrainedModel, missing: set[str]) -> bool:
    """Whether a model answers the same whatever its missing weights are: NaN in their place does not reach its output."""
    missing = without_pooler(model, missing)
    if not missing:
        return True
    tensors = {key: tensor for key, tensor in model.state_dict().items() if key in missing}
    if len(tensors) < len(missing) or not all(tensor.is_floating_point() for tensor in tensors.values()):
        return False
    kept = {key: tensor.clone() for key, tensor in tensors.items()}
    try:
        with torch.no_grad():
            for tensor in tensors.values():
                tensor.fill_(torch.nan)
            outputs = model(**example_inputs(model))
            for key, tensor in tensors.items():
                tensor.copy_(kept[key])
    except (ValueError, TypeError, RuntimeError, IndexError):  # it takes no images, or not these; the model is refused
        return False
    found = [value for value in outputs.values() if torch.is_tensor(value)]
    return bool(found) and not any(value.isnan().any() for value in found)

"""Load an image classifier, raw or averaged weights, and match its classes to the labels of data."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence

import torch
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedModel

from ..data.columns import composed, plain_name
from ..errors import CheckpointError, DataError
from ..errors.words import first_few
from ..loading.load_errors import loading_errors
from ..loading.missing_weights import check_weights
from ..loading.weights_place import place_of_weights


BY_INDEX = "If they are in the same order, match them by index (--labels-by-index)."


def load_classifier(
    name: str, weights: str | None = None, dtype: torch.dtype = torch.float32, **hub
) -> tuple[PreTrainedModel, str]:
    """An image classifier in evaluation mode: native SimA, swapped, or with softmax.

    Args:
        name: folder or Hub name. A training checkpoint holds the raw weights itself and, if they were averaged, the average
            in its folder `ema`; the folder that a run leaves in the end holds what it was told to save.
        weights: "ema" for that average; "raw" or None for what is in the folder itself.
        dtype: of the parameters.
        hub: revision, token, trust_remote_code, as `from_pretrained`.

    Returns:
        The model, and the folder or Hub name that its weights came from.

    Raises:
        CheckpointError: no such folder, no averaged weights in it, a checkpoint that was not finished or is damaged, weights
            that do not fit the config, or a model that is no image classifier.
        ValueError: another word for the weights.
    """
    place = place_of_weights(name, weights)
    with loading_errors(place, hub.get("revision")):
        config = AutoConfig.from_pretrained(place, **hub)
        if not _has_classifier(config):
            raise CheckpointError(f"{name} is of type {config.model_type!r}, which has no image classifier.")
        model, info = AutoModelForImageClassification.from_pretrained(
            place, config=config, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **hub
        )
    missing = sorted(info["missing_keys"])
    if missing:
        raise CheckpointError(
            f"{name} does not hold a whole {type(model).__name__}: it has no weights for {first_few(missing, 3)}. Evaluate a model that was "
            "trained for image classification."
        )
    check_weights(place, model, info)  # of other shapes
    return model.eval(), place


def _has_classifier(config) -> bool:
    auto = AutoModelForImageClassification
    return type(config) in auto._model_mapping or auto.__name__ in (getattr(config, "auto_map", None) or {})


def match_labels(
    model_labels: Mapping[int, str] | Sequence[str],
    data_labels: Sequence[str],
    by_index: bool = False,
    remedy: str = BY_INDEX,
) -> list[int]:
    """The model's class of each label of the data.

    They are matched by name, letter case, `_` for a space and how accents are written aside; the data may have some of the model's classes, in any
    order. A model without names of its own (LABEL_0, LABEL_1, ...) is matched by index if it has as many classes.

    Args:
        model_labels: `config.id2label`.
        data_labels: names of the data's classes, in the order of their indices.
        by_index: go by index, whatever the names are.
        remedy: what a message says to do about names that do not agree.

    Returns:
        A list as long as `data_labels`.

    Raises:
        DataError: the classes do not agree; it says how they differ.
    """
    names = [composed(model_labels[index]) for index in range(len(model_labels))]
    labels = [composed(label) for label in data_labels]
    unnamed = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    if labels == names or ((by_index or unnamed) and len(labels) == len(names)):
        return list(range(len(labels)))
    if by_index or unnamed:
        raise DataError(
            f"The model has {len(names)} classes{' without names' if unnamed else ''}, but the data has {len(labels)}, so they "
            "cannot be matched by index."
        )
    return match_names(names, labels, ("model", "data"), remedy)


def match_names(
    known: Sequence[str], wanted: Sequence[str], owners: tuple[str, str] = ("model", "data"), remedy: str = BY_INDEX
) -> list[int]:
    """The index among `known` of each name in `wanted`; letter case, `_` for a space and how accents are written aside.

    Args:
        known: names of classes, of which `wanted` may be a part, in any order.
        wanted: the names to be found.
        owners: what a message calls those who have them.
        remedy: what a message says to do about names that do not agree.

    Raises:
        DataError: a name is not known, or stands for several classes.
    """
    known, wanted = [composed(name) for name in known], [composed(name) for name in wanted]
    exact = {name: index for index, name in enumerate(known)}
    plain = {plain_name(name): index for index, name in enumerate(known)}
    found = [exact.get(name, plain.get(plain_name(name))) for name in wanted]
    unknown = [name for name, index in zip(wanted, found, strict=True) if index is None]
    owner, other = owners
    if len(unknown) == len(wanted):
        raise DataError(
            f"The {owner}'s {len(known)} classes and the {other}'s {len(wanted)} have no name in common: the {owner} has "
            f"{first_few(map(repr, known), 3)}, the {other} {first_few(map(repr, wanted), 3)}. {remedy}"
        )
    if unknown:
        raise DataError(
            f"{len(unknown)} of the {other}'s {len(wanted)} classes are not among the {owner}'s {len(known)}: "
            f"{first_few(map(repr, unknown), 5)}. All of the {other}'s must be classes of the {owner}. {remedy}"
        )
    several = {name for name, count in Counter(known).items() if count > 1}
    several |= {name for name, index in zip(wanted, found, strict=True) if found.count(index) > 1}
    unclear = [name for name in wanted if name in several]
    if unclear:
        raise DataError(
            f"Several classes have the same name, so it is not clear which is meant by {first_few(map(repr, unclear), 3)}. {remedy}"
        )
    return found

"""The model that a run trains: fresh, loaded, or swapped from a softmax model and calibrated."""

import ast
import copy
import functools
import re
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..calibration.calibrate import CalibrationReport, calibrate, check_linear
from ..data.processors import processor_for
from ..errors import DataError
from ..evaluation.classifiers import match_labels
from ..loading.processors import load_processor
from ..models.sima.configuration_sima import SimAConfig
from ..patching import patch_model
from ..patching.attentions.mechanisms import DEFAULT_GAIN, SIMA, check_attention
from .arguments import ModelArguments
from .recipe.resolution import resize


logger = logging.get_logger(__name__)

# What Transformers calls the layers that give logits: classifier, cls_classifier, head, dist_head, timm's fc, Perceiver's final_layer.
_HEAD = re.compile(r"(^|\.)(\w*classifier\w*|(\w+_)?head|fc|final_layer)(\.|$)")

SOURCES = ("variant", "model_type", "model_name_or_path", "patch")


@dataclass
class LoadedModel:
    """A model to be trained, and where it comes from.

    Attributes:
        model: the image classifier, or the encoder alone, in float32.
        processor: where its image processor comes from: a folder or Hub name, or None for the usual one of SimA.
        image_size: resolution to train at, in pixels.
        original: the softmax model that a swapped one was made from, in evaluation mode; else None.
        base_model: name or folder of the model that it was made from; None for fresh weights.
        calibration: what `calibrate` reported, if it was.
    """

    model: PreTrainedModel
    processor: str | None
    image_size: int
    original: PreTrainedModel | None = None
    base_model: str | None = None
    calibration: CalibrationReport | None = None


def build_model(arguments: ModelArguments, labels: list[str] | None, drop_path: float | None = None) -> LoadedModel:
    """Build what the arguments ask for, with one output for each label.

    Args:
        arguments: `ModelArguments`.
        labels: names of the classes, in order; they go into the config. None: the encoder alone, as `AutoModel` has it.
        drop_path: `config.drop_path_rate`, where given.

    Raises:
        ValueError: not exactly one source, an unknown variant, type or config field, a model that cannot take an option.
        UnsupportedModelError (a ValueError): `patch` names a model that cannot be swapped, or not to this attention.
        CalibrationError: `calibrate` is asked for with an attention that it cannot fit.
        OSError: there is no such folder or Hub model.
    """
    given = [name for name in SOURCES if getattr(arguments, name)]
    if len(given) != 1:
        raise ValueError(
            f"Give exactly one of {', '.join('--' + name for name in SOURCES)}, got "
            f"{' and '.join('--' + name for name in given) or 'none'}."
        )
    if arguments.calibrate and not arguments.patch:
        raise ValueError("--calibrate follows a softmax model that is being swapped: it needs --patch.")
    check_swap(arguments, arguments.attention_gain or DEFAULT_GAIN)
    if arguments.image_size is not None and arguments.image_size < 1:
        raise ValueError(f"--image_size must be 1 or more, got {arguments.image_size}.")
    trained = arguments.patch or arguments.model_name_or_path
    loaded = _trained(arguments, labels, drop_path) if trained else _fresh(arguments, labels, drop_path)
    for name, parameter in loaded.model.named_parameters():
        if name.endswith("mask_token"):  # of the pre-training: no classifier uses it, and DDP waits for all gradients
            parameter.requires_grad_(False)
    return loaded


def check_swap(arguments: Any, gain: str) -> None:
    """What a swap is told, before anything is loaded.

    Args:
        arguments: with `patch`, `attention` and `calibrate`.
        gain: as for `patch_model`.

    Raises:
        ValueError: an attention without `patch`, or one that there is not, or not with this gain.
        CalibrationError: it is to be calibrated and cannot be.
    """
    if arguments.patch:
        check_attention(arguments.attention, gain)
        if arguments.calibrate:
            check_linear([arguments.attention])
    elif arguments.attention != SIMA:
        raise ValueError(
            f"--attention is what softmax is swapped for, got {arguments.attention!r} without --patch. Fresh weights of a swapped type "
            "(--model_type sima_deit) take it by --config_overrides attention_mechanism=NAME."
        )


def _classes(labels: list[str] | None) -> dict:
    if labels is None:
        return {}
    return {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}


def _fresh(arguments: ModelArguments, labels: list[str] | None, drop_path: float | None) -> LoadedModel:
    if arguments.variant:
        make = functools.partial(SimAConfig.from_variant, arguments.variant)
    else:
        make = functools.partial(AutoConfig.for_model, arguments.model_type)
    try:
        config = make()
    except ValueError:
        if arguments.variant:
            raise
        raise ValueError(
            f"There is no model type {arguments.model_type!r}; `sima-hf models` lists those that can be swapped, and each of "
            "them is a type with 'sima_' before its name: sima_deit, sima_cvt."
        ) from None
    changes = parse_overrides(arguments.config_overrides, config)
    if arguments.image_size and hasattr(config, "image_size"):
        changes["image_size"] = arguments.image_size
    if arguments.attention_gain:
        changes["attention_gain"] = _for_sima(config, arguments.attention_gain)
    if drop_path is not None:
        changes["drop_path_rate"] = _drop_path(config, drop_path)
    config = make(**changes, **_classes(labels))
    cls = classifier_class(config) if labels is not None else _class_of(AutoModel, config, "encoder")
    image_size = arguments.image_size or _side(config) or 224
    return LoadedModel(cls._from_config(config, dtype=torch.float32), None, image_size)


def _trained(arguments: ModelArguments, labels: list[str] | None, drop_path: float | None) -> LoadedModel:
    name = arguments.patch or arguments.model_name_or_path
    hub = arguments.hub_options
    config = AutoConfig.from_pretrained(name, **hub)
    before = _side(config)
    names = [config.id2label[index] for index in range(config.num_labels)] if labels is not None else []
    changes = parse_overrides(arguments.config_overrides, config)
    if drop_path is not None:
        changes["drop_path_rate"] = _drop_path(config, drop_path)
    if arguments.attention_gain and not arguments.patch:
        changes["attention_gain"] = _for_sima(config, arguments.attention_gain)
    for field, value in {**changes, **_classes(labels)}.items():
        setattr(config, field, value)
    auto = AutoModelForImageClassification if labels is not None else AutoModel
    model = auto.from_pretrained(
        name, config=config, ignore_mismatched_sizes=arguments.ignore_mismatched_sizes, dtype=torch.float32, **hub
    )
    if labels is not None:
        _take_over_classes(model, names, labels)
    image_size = arguments.image_size or before or 224
    model = resize(model, image_size)
    if not arguments.patch:
        return LoadedModel(model, name, image_size, base_model=name)
    original = copy.deepcopy(model).eval()
    patch_model(model, gain=arguments.attention_gain or DEFAULT_GAIN, attention=arguments.attention)
    return LoadedModel(model, name, image_size, original, base_model=name)


def _take_over_classes(model: PreTrainedModel, names: list[str], labels: list[str]) -> None:
    """Bring the rows of a trained head into the order of the data's classes, which are found as in an evaluation.

    Raises:
        DataError: the order is another one and the model's head is not found.
    """
    if len(names) != len(labels):
        return  # the head starts anew
    try:
        order = match_labels(dict(enumerate(names)), labels)
    except DataError as error:
        logger.warning(
            f"The model's {len(names)} classes are not those of the data, of which there are as many: row i of its head goes on as "
            f"class i, from {names[0]!r} as {labels[0]!r} to {names[-1]!r} as {labels[-1]!r}. {error}"
        )
        return
    if order != list(range(len(labels))):
        _reorder(model, order)


@torch.no_grad()
def _reorder(model: PreTrainedModel, order: list[int]) -> None:
    """Bring the rows of a trained classification head into another order of the same classes."""
    heads = [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and _HEAD.search(name) and module.out_features == len(order)
    ]
    if not heads:
        raise DataError(
            f"The classes of this {type(model).__name__} come in another order in the data, and its head, whose rows would follow, "
            "is not found. Give the classes in the model's order: --labels_file."
        )
    for module in heads:
        for parameter in (module.weight, module.bias):
            if parameter is not None:
                parameter.copy_(parameter[order])


def calibrate_model(loaded: LoadedModel, batches: Iterable[torch.Tensor], progress: bool = True) -> None:
    """Calibrate a swapped model on batches of normalized pixels `(B,3,H,W)`, in place."""
    loaded.calibration = calibrate(loaded.model, loaded.original, list(batches), progress=progress)


def image_processor_of(loaded: LoadedModel, arguments: ModelArguments) -> Any:
    """The image processor of a model, at the resolution and crop of the arguments.

    Raises:
        CheckpointError, DataError: as `load_processor` and `processor_for`.
    """
    source = loaded.processor and load_processor(loaded.processor, **arguments.hub_options)
    return processor_for(source, loaded.image_size, arguments.eval_crop_pct)


def classifier_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The image classifier of a config; where there are several (DeiT with and without teacher head), the plain one.

    Raises:
        ValueError: the model type has none.
    """
    return _class_of(AutoModelForImageClassification, config, "image classifier")


def _class_of(auto: type, config: PreTrainedConfig, what: str) -> type[PreTrainedModel]:
    mapping = auto._model_mapping
    if type(config) not in mapping:
        raise ValueError(f"{config.model_type!r} has no {what} in Transformers; give the type of one, such as deit.")
    classes = mapping[type(config)]
    return classes[0] if isinstance(classes, tuple) else classes


def parse_overrides(text: str | None, config: PreTrainedConfig) -> dict:
    """The fields that `--config_overrides name=value,name=value` sets; values in Python's notation, else text.

    Raises:
        ValueError: no pair, or no field of the config.
    """
    known = (
        {entry.name for entry in fields(config)} if hasattr(config, "__dataclass_fields__") else set(config.to_dict())
    )
    found = {}
    for item in _split(text or ""):
        name, equals, value = (part.strip() for part in item.partition("="))
        if not equals or name not in known:
            raise ValueError(
                f"--config_overrides takes field=value pairs, got {item!r}. The fields are {', '.join(sorted(known))}."
            )
        try:
            found[name] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            found[name] = value
    return found


def _split(text: str) -> list[str]:
    """Split at commas outside brackets."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "[(") - (character in "])")
        if character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part for part in [*parts, text[start:]] if part.strip()]


def _side(config: PreTrainedConfig) -> int | None:
    size = getattr(config, "image_size", None)
    return max(size) if isinstance(size, (list, tuple)) else size


def _for_sima(config: PreTrainedConfig, gain: str) -> str:
    if not hasattr(config, "attention_gain"):
        raise ValueError(f"--attention_gain is a choice of SimA models; {config.model_type!r} has softmax attention.")
    return gain


def _drop_path(config: PreTrainedConfig, rate: float):
    if not hasattr(config, "drop_path_rate"):
        raise ValueError(
            f"--drop_path needs a model that can skip branches; Transformers' {config.model_type!r} has no drop_path_rate. Leave it out."
        )
    own = config.drop_path_rate
    return type(own)([0.0] * (len(own) - 1) + [rate]) if isinstance(own, (list, tuple)) else rate

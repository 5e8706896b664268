"""The model of a dense run (segmentation, detection): fresh from a config, loaded, or swapped from a softmax model and calibrated."""

import copy
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoImageProcessor, PreTrainedConfig, PreTrainedModel
from transformers.backbone_utils import BackboneMixin
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.utils import is_torchvision_available

from ...calibration.calibrate import CalibrationReport, calibrate
from ...errors import DataError
from ...patching import patch_model
from ..models import check_swap


# Types that share the image processor of another, which Transformers' own table leaves out.
_PROCESSED_AS = {"d_fine": "rt_detr", "rt_detr_v2": "rt_detr"}


def _help(text: str) -> dict:
    return {"help": text}


@dataclass
class DenseModelArguments:
    """Which model: exactly one of config_name, model_name_or_path and patch."""

    config_name: str | None = field(
        default=None,
        metadata=_help(
            "Config of a model with fresh weights, such as UperNet on a SimA backbone: a JSON file or name."
        ),
    )
    backbone_name_or_path: str | None = field(
        default=None,
        metadata=_help(
            "With --config_name: a trained model, folder or Hub name, whose weights the backbone begins with."
        ),
    )
    model_name_or_path: str | None = field(default=None, metadata=_help("A trained model to go on with."))
    patch: str | None = field(
        default=None, metadata=_help("A trained softmax model, whose attention is swapped for SimA before training.")
    )
    attention: str = field(
        default="sima",
        metadata=_help("With --patch: what softmax is swapped for; 'sima', or a peer such as 'inline'."),
    )
    calibrate: int = field(
        default=0, metadata=_help("With --patch: training images for a closed-form calibration before training.")
    )
    attention_gain: str = field(
        default="tokens", metadata=_help("With --patch: 'tokens', or 'none' (the paper's formula).")
    )
    image_size: int | None = field(
        default=None,
        metadata=_help("Height and width of the images in pixels; by default what the image processor says."),
    )
    revision: str = field(default="main", metadata=_help("Branch, tag or commit on the Hub."))
    token: str | None = field(default=None, metadata=_help("Access token of the Hub."))
    trust_remote_code: bool = field(default=False, metadata=_help("Run code that comes with a model from the Hub."))

    @property
    def hub_options(self) -> dict:
        """How the Hub is asked for the model, as `from_pretrained` takes it."""
        return {"revision": self.revision, "token": self.token, "trust_remote_code": self.trust_remote_code}


@dataclass
class DenseModel:
    """A model to be trained, and where it comes from.

    Attributes:
        model: with its head, in float32.
        image_processor: of the model.
        original: the softmax model that a swapped one was made from, in evaluation mode; else None.
        calibration: what `calibrate` reported, if it was.
    """

    model: PreTrainedModel
    image_processor: Any
    original: PreTrainedModel | None = None
    calibration: CalibrationReport | None = None


def build_dense_model(
    arguments: DenseModelArguments, auto: type, labels: list[str], **processor_settings: Any
) -> DenseModel:
    """Build what the arguments ask for, with the data's classes.

    Args:
        arguments: `DenseModelArguments`.
        auto: the task's auto class, such as `AutoModelForSemanticSegmentation`.
        labels: names of the classes, in order; they go into the config.
        processor_settings: what the image processor of a fresh model does besides resizing.

    Raises:
        DataError: not exactly one source, an option without the one it belongs to, a config without such a head or image
            processor, or a backbone with other weights.
        ValueError, CalibrationError: as `check_swap`.
        UnsupportedModelError (a ValueError): `patch` names a model that cannot be swapped, or not to this attention.
        OSError: there is no such folder or Hub model.
    """
    given = [name for name in ("config_name", "model_name_or_path", "patch") if getattr(arguments, name)]
    if len(given) != 1:
        raise DataError(
            "Give exactly one of --config_name, --model_name_or_path and --patch, got "
            f"{' and '.join('--' + name for name in given) or 'none'}."
        )
    for option, owner in (("backbone_name_or_path", "config_name"), ("calibrate", "patch")):
        if getattr(arguments, option) and owner not in given:
            raise DataError(f"--{option} needs --{owner}, got --{given[0]}.")
    check_swap(arguments, arguments.attention_gain)
    classes = {"id2label": dict(enumerate(labels)), "label2id": {name: index for index, name in enumerate(labels)}}
    name, hub = getattr(arguments, given[0]), arguments.hub_options
    if arguments.config_name:
        config = AutoConfig.from_pretrained(name, **classes, **hub)
        processor = fresh_image_processor(config, arguments.image_size, **processor_settings)
        model = _fresh(config, auto)
        if arguments.backbone_name_or_path:
            load_backbone_weights(model, arguments.backbone_name_or_path, **hub)
        return DenseModel(model, processor)
    model = auto.from_pretrained(name, ignore_mismatched_sizes=True, dtype=torch.float32, **classes, **hub)
    processor = AutoImageProcessor.from_pretrained(name, **_size(arguments.image_size), **hub)
    if not arguments.patch:
        return DenseModel(model, processor)
    original = copy.deepcopy(model).eval()
    patch_model(model, gain=arguments.attention_gain, attention=arguments.attention)
    return DenseModel(model, processor, original)


def _fresh(config: PreTrainedConfig, auto: type) -> PreTrainedModel:
    if type(config) not in auto._model_mapping:
        raise DataError(f"--config_name names a {config.model_type}, for which there is no {auto.__name__}.")
    return auto.from_config(config, dtype=torch.float32)


def _size(image_size: int | None) -> dict:
    return {"size": {"height": image_size, "width": image_size}} if image_size else {}


def fresh_image_processor(config: PreTrainedConfig, image_size: int | None = None, **settings: Any) -> Any:
    """The image processor that Transformers has for a config's type of model.

    Raises:
        DataError: it has none.
    """
    kind = config.model_type.removeprefix("sima_")
    names = IMAGE_PROCESSOR_MAPPING_NAMES.get(_PROCESSED_AS.get(kind, kind))
    if not names:
        raise DataError(
            f"Transformers has no image processor for a {kind}; begin with a trained model, which brings one."
        )
    cls = getattr(transformers, names["torchvision" if is_torchvision_available() else "pil"])
    return cls(**_size(image_size), **settings)


def load_backbone_weights(model: PreTrainedModel, name: str, **hub: Any) -> None:
    """Begin the backbone of a fresh dense model with a trained model's weights; what only the pyramid has stays fresh.

    Args:
        model: one with a backbone, such as UperNet or DETR.
        name: folder or Hub name of a model of the backbone's type, such as a classifier.
        hub: as `from_pretrained` takes it.

    Raises:
        DataError: the model has no backbone, or the other one is not of its type and shape.
    """
    backbone = next((module for module in model.modules() if isinstance(module, BackboneMixin)), None)
    if backbone is None:
        raise DataError(f"--backbone_name_or_path needs a model with a backbone, got a {type(model).__name__}.")
    config = AutoConfig.from_pretrained(name, **hub)
    if config.model_type != backbone.config.model_type:
        raise DataError(
            f"--backbone_name_or_path must be a {backbone.config.model_type}, as the backbone is, got a {config.model_type}."
        )
    trained, report = type(backbone).from_pretrained(
        name, config=copy.deepcopy(backbone.config), ignore_mismatched_sizes=True, output_loading_info=True, **hub
    )
    missing = [key for key in report["missing_keys"] if "pyramid" not in key and not key.startswith("fpn")]
    if missing or report["mismatched_keys"]:
        raise DataError(
            f"--backbone_name_or_path must have the backbone's shape, got {name}, in which {len(missing)} weights are missing and "
            f"{len(report['mismatched_keys'])} have another size."
        )
    backbone.load_state_dict(trained.state_dict())


def calibrate_dense(dense: DenseModel, batches: Iterable[torch.Tensor], progress: bool = True) -> None:
    """Calibrate a swapped model on batches of normalized pixels `(B,3,H,W)`, in place."""
    dense.calibration = calibrate(dense.model, dense.original, list(batches), progress=progress)

"""Where a model comes from, written beside its weights by whatever made it, so that its card can say so."""

import json
import math
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from ..calibration.calibrate import CalibrationReport
from ..errors import PublishError
from ..version import __version__
from .atomic_files import write_whole
from .file_names import PROVENANCE
from .json_files import read_json
from .local_paths import is_place, without_places


# What of a training run's arguments says how a model was trained; its folders, logging and trackers do not.
TRAINING_SETTINGS = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "world_size",
    "learning_rate",
    "scale_learning_rate",
    "lr_scheduler_type",
    "warmup_epochs",
    "warmup_prefix",
    "cooldown_epochs",
    "warmup_learning_rate",
    "min_learning_rate",
    "weight_decay",
    "max_grad_norm",
    "drop_path",
    "train_view",
    "min_crop_area",
    "horizontal_flip",
    "max_shift",
    "rand_augment",
    "color_jitter",
    "color_jitter_with_rand_augment",
    "random_erasing",
    "mixup",
    "cutmix",
    "mixup_switch_prob",
    "label_smoothing_factor",
    "repeated_augmentation",
    "ema_decay",
    "ema_warmup",
    "eval_weights",
    "save_weights",
    "bf16",
    "fp16",
    "seed",
    # Of DINO alone.
    "local_crops",
    "local_crop_size",
    "crop_split",
    "out_dim",
    "student_temperature",
    "teacher_temperature",
    "ema_decay_end",
    "weight_decay_end",
)
_JSON = {str: "string", dict: "object"}


def write_provenance(
    folder: str | Path,
    *,
    base_model: str | None = None,
    calibration: Mapping[str, Any] | None = None,
    distillation: Mapping[str, Any] | None = None,
    training: Mapping[str, Any] | None = None,
    dataset: str | None = None,
    anew: bool = False,
    **more: Any,
) -> Path:
    """Add to `sima_provenance.json` in a model's folder, whole or not at all; what it says already and is not given now stays.

    Places on this disk are written as their last part.

    Args:
        folder: the model's folder; it must exist.
        base_model: name on the Hub of the model that this one was made from. A folder is not named, for it means nothing
            elsewhere; what its own provenance says is taken over instead.
        calibration: how it was calibrated, see `calibration_facts`.
        distillation: how it was distilled without labels, see `distillation_facts`.
        training: how it was trained, see `training_settings`.
        dataset: what it was trained on, in words or as a name.
        anew: the folder has another model now, so nothing stays of what the file says, but for a base model that is this folder.
        more: other things to keep, of which the card knows `made_by="sima-hf patch"` and `hub_dataset="org/name"`, the name
            of the training data on the Hub, if they are there; None is not written.

    Returns:
        The file. Besides what was given it holds the versions of sima_hf, torch, transformers and Python.

    Raises:
        PublishError: there is no such folder, its provenance is broken, or a value is not one that JSON can hold.
        OSError: the file cannot be written.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise PublishError(
            f"There is no folder {folder} to write {PROVENANCE} into; save the model there first, with save_pretrained."
        )
    content: dict[str, Any] = {}
    if base_model is not None and Path(base_model).is_dir():
        content, base_model = read_provenance(base_model), None
    elif base_model is not None and is_place(base_model):
        base_model = None
    if not anew:
        content |= read_provenance(folder)
    given = {"base_model": base_model, "dataset": dataset, "calibration": calibration, "distillation": distillation}
    given |= {"training": training, **more}
    content |= without_places({name: value for name, value in given.items() if value is not None})
    content["versions"] = {
        "sima_hf": __version__,
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "python": platform.python_version(),
    }
    try:
        text = json.dumps(content, indent=1, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise PublishError(
            f"{PROVENANCE} holds text, finite numbers, lists and dictionaries of these, but something else was given: {error}."
        ) from error
    return write_whole(folder / PROVENANCE, text.encode())


def read_provenance(place: str | Path) -> dict[str, Any]:
    """What `sima_provenance.json` says.

    Args:
        place: a model's folder, or the file itself.

    Returns:
        Its entries, places on somebody's disk as their last part; {} where there is no such file.

    Raises:
        PublishError: the file is not the JSON object that `write_provenance` writes.
    """
    path = Path(place)
    path = path / PROVENANCE if path.is_dir() else path
    if not path.is_file():
        return {}

    content = read_json(path, finite=True)
    kinds = {"base_model": str, "dataset": str, "calibration": dict, "distillation": dict, "training": dict}
    kinds["versions"] = dict
    for name, kind in kinds.items():
        if not isinstance(content.get(name, kind()), kind):
            raise PublishError(f"{name!r} in {path} must be a JSON {_JSON[kind]}, got {content[name]!r}.")
    return without_places(content)


def training_settings(arguments: Any, **more: Any) -> dict[str, Any]:
    """The part of a training script's arguments that belongs into a model's provenance.

    Args:
        arguments: `SimATrainingArguments`, `LoopArguments`, or any object with attributes of these names.
        more: what the arguments do not say, such as `images_per_step=1024`.
    """
    found = {name: getattr(arguments, name, None) for name in TRAINING_SETTINGS} | more
    if (found.get("max_steps") or 0) <= 0:
        found.pop("max_steps", None)
    return {name: _plain(value) for name, value in found.items() if value is not None}


def calibration_facts(report: CalibrationReport, data: str | None = None) -> dict[str, Any]:
    """What a calibration did, for a model's provenance.

    Args:
        report: what `sima_hf.calibrate` returned.
        data: name of the images, without folders that mean nothing elsewhere.

    Returns:
        Number of images and of layers refitted, settings, and the means over the layers of the share that was unexplained
        `before` and `after` the fit, where these are finite.
    """
    facts: dict[str, Any] = {"images": report.images, "layers": len(report.fits), "bases": report.bases}
    if data:
        facts["data"] = data
    for name in ("before", "after"):
        shares = [getattr(fit, name) for fit in report.fits]
        mean = sum(shares) / len(shares) if shares else math.nan
        if math.isfinite(mean):
            facts[f"unexplained_{name}"] = mean
    end = report.end
    held_out = {
        "held_out": report.held_out or None,
        "held_out_cosine": None if end is None else end.cosine,
        "held_out_agreement": None if end is None else end.agreement,
        "warning": report.advice,
    }
    settings = {name: value for name, value in report.settings.items() if name != "memory_budget"} | held_out
    finite = {
        name: value
        for name, value in settings.items()
        if value is not None and not (isinstance(value, float) and not math.isfinite(value))
    }
    return facts | {name: _plain(value) for name, value in finite.items()}


def distillation_facts(report: Any, data: str | None = None) -> dict[str, Any]:
    """What a distillation without labels did, for a model's provenance.

    Args:
        report: what `sima_hf.distill` returned.
        data: name of the images, without folders that mean nothing elsewhere.

    Returns:
        Numbers of images trained on and held out, and the held-out `cosine` and `agreement` before and after, where there are.
    """
    facts: dict[str, Any] = {"images": report.images, "held_out": report.held_out}
    if data:
        facts["data"] = data
    for when in ("before", "after"):
        found = getattr(report, when)
        named = {name: found.get(name, math.nan) for name in ("cosine", "agreement")}
        facts |= {f"{name}_{when}": value for name, value in named.items() if math.isfinite(value)}
    return facts


def _plain(value: Any) -> Any:
    """Text or number, as JSON has them; enumerations by their value."""
    value = getattr(value, "value", value)
    return value if isinstance(value, (str, int, float, bool)) else str(value)

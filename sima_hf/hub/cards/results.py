"""What results files measured: read, checked for numbers that cannot be, and held against the model they claim to be about."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...errors import PublishError
from ...folders.local_paths import data_and_split, shown_place
from ...folders.weights_hash import WEIGHTS_HASH


EVALUATION, TRAINING, QUICKSTART = "evaluation", "training", "quickstart"

# Names of files that are looked for in a model's folder, the most careful measurement first.
RESULT_FILES = ("evaluation.json", "results.json", "all_results.json")

# Entries of a training script's results that are about the run, not about the model.
_OF_THE_RUN = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")


@dataclass(frozen=True)
class Measured:
    """What one results file says.

    Attributes:
        path: the file.
        kind: "evaluation" (evaluate_model.py), "training" (all_results.json) or "quickstart" (its results.json).
        figures: name -> value; accuracies are shares from 0 to 1, losses are means per image.
        data, split: name of the images and of their part, where the file says so.
        images: how many were measured.
        conditions: in words, such as "32 px" and the device.
        training: what it says of the training.
        versions: package -> version, "revision" being sima_hf's commit.
        model_class, parameters: of the model that was measured; None where the file does not say it.
        labels, all_labels: names of its classes, and whether they are all that it has.
        weights_sha256: `weights_hash` of the weights that were measured; None where the file does not say it.
    """

    path: Path
    kind: str
    figures: dict[str, float]
    data: str | None = None
    split: str | None = None
    images: int | None = None
    conditions: tuple[str, ...] = ()
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    model_class: str | None = None
    parameters: int | None = None
    labels: tuple[str, ...] = ()
    all_labels: bool = False
    weights_sha256: str | None = None


def read_measured(path: str | Path) -> Measured:
    """Read a results file.

    Args:
        path: what `examples/evaluate_model.py` writes as evaluation.json, the training scripts as all_results.json, or the
            quickstart as results.json.

    Raises:
        PublishError: it is missing, not JSON, none of the three, or has a number that cannot be.
    """
    path = Path(path)
    content = _json(path)
    kind = kind_of(content)
    if kind is None:
        raise PublishError(
            f"{path} is not a file of results that a card can be written from. Those are evaluation.json of "
            "examples/evaluate_model.py and all_results.json of the training scripts."
        )
    try:
        measured = {EVALUATION: _evaluation, TRAINING: _training, QUICKSTART: _quickstart}[kind](path, content)
    except (AttributeError, KeyError, TypeError) as error:
        raise PublishError(
            f"{path} is not as the script that wrote it leaves it ({type(error).__name__}: {error}). Measure again."
        ) from error
    for name, value in measured.figures.items():
        if "accuracy" in name:
            _number(path, name, value, 0, 1)
        else:  # a cross-entropy is never below 0; what a training script of one's own calls its loss may be
            _number(path, name, value, 0 if name == "loss" and kind == EVALUATION else None)
    for name in ("images", "parameters"):
        if getattr(measured, name) is not None:
            _number(path, f"the number of {name}", getattr(measured, name), 1, whole=True)
    return measured


def kind_of(content: Any) -> str | None:
    """Which of the three files of results this is, by its entries; None for any other JSON."""
    if not isinstance(content, Mapping):
        return None
    if "accuracy" in content and isinstance(content.get("settings"), Mapping):
        return EVALUATION
    if {"accuracy", "data", "test_images", "parameters"} <= set(content):
        return QUICKSTART
    return TRAINING if any(str(name).startswith(("eval_", "train_")) for name in content) else None


def looks_measured(path: Path) -> bool:
    """Whether a file is one of the three; one that is no JSON counts, so that it is not passed over in silence."""
    try:
        return kind_of(_json(path)) is not None
    except PublishError:
        return True


def check_measured(measured: Measured, model: PreTrainedModel, weights_sha256: str | None = None) -> None:
    """Make sure that a file of results is about this model.

    Args:
        measured: what the file says.
        model: the folder's.
        weights_sha256: `weights_hash` of the folder's weights.

    Raises:
        PublishError: the file says that it measured another class, another number of parameters, other labels, or other weights.
    """
    mine, count = type(model).__name__, count_parameters(model)
    names = [str(name) for name in (getattr(model.config, "id2label", None) or {}).values()]
    known, labels = set(names), measured.labels
    foreign = next((label for label in labels if label not in known), None)

    def refuse(theirs: str, ours: str):
        raise PublishError(
            f"{measured.path} was measured on {theirs}, but the folder holds {ours}. Measure this model with "
            "examples/evaluate_model.py, or leave that file out."
        )

    if measured.model_class not in (None, mine):
        refuse(f"a {measured.model_class}", f"a {mine}")
    if measured.parameters not in (None, count):
        refuse(f"a model of {measured.parameters:,} parameters", f"one of {count:,}")
    if len(labels) > len(names) or (measured.all_labels and len(labels) != len(names)):
        refuse(f"a model of {len(labels)} labels", f"one of {len(names)}")
    if foreign is not None:
        refuse(f"a model with the class {foreign!r}", f"one whose config.json has not that one among its {len(names)}")
    if None not in (weights_sha256, measured.weights_sha256) and measured.weights_sha256 != weights_sha256:
        refuse(
            f"other weights, whose hash begins with {str(measured.weights_sha256)[:8]}",
            f"weights with {weights_sha256[:8]}",
        )


def count_parameters(model: PreTrainedModel) -> int:
    """Numbers in all parameters, shared ones once, as evaluate_model.py counts them."""
    return sum(parameter.numel() for parameter in model.parameters())


def _json(path: Path) -> Any:
    """The content of a JSON file without NaN and infinities, which are no JSON."""
    if not path.is_file():
        raise PublishError(f"There is no file of results {path}.")

    def refuse(word: str):
        raise ValueError(f"it holds {word} where a number should be")

    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)
    except (RecursionError, ValueError) as error:  # a number of thousands of digits is no JSONDecodeError
        raise PublishError(f"{path} is not JSON: {error}. It may be half written; measure again.") from error


def is_number(value: Any) -> bool:
    """Whether an entry of a JSON file is a finite number."""
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # a whole number with hundreds of digits
        return False


def _number(
    path: Path, name: str, value: Any, least: float | None = None, most: float | None = None, whole: bool = False
) -> Any:
    """A number that can be: finite, from `least` to `most` where they are given, and on request a whole one."""
    low, high = -math.inf if least is None else least, math.inf if most is None else most
    if is_number(value) and low <= value <= high and (isinstance(value, int) or not whole):
        return value
    span = f" from {least} to {most}" if most is not None else f" of at least {least}" if least is not None else ""
    percent = " It looks like percent." if most == 1 and is_number(value) and 1 < value <= 100 else ""
    kind = "whole" if whole else "finite"
    raise PublishError(f"{path}: {name} must be a {kind} number{span}, got {value!r}.{percent} Measure again.")


def _evaluation(path: Path, content: dict) -> Measured:
    settings = content["settings"]
    data, split = _data_of(settings.get("data"))
    crop = settings.get("eval_crop_pct")
    processes = settings.get("processes", 1)
    conditions = [
        f"{settings['image_size']} px" if settings.get("image_size") else None,
        f"central crop of {_number(path, 'eval_crop_pct', crop, 0):g} of the side" if crop else None,
        f"{settings['weights']} weights" if settings.get("weights") in ("ema", "raw") else None,
        settings.get("dtype"),
        f"batch {settings['batch_size']}" if settings.get("batch_size") else None,
        f"{processes} processes" if processes != 1 else None,
        settings.get("device"),
    ]
    for name, words in (("not_a_number", "got no finite answer and count as wrong"), ("left_out", "were left out")):
        if content.get(name):
            conditions.append(f"{_number(path, name, content[name], 0, whole=True):,} images {words}")
    figures = {name: content[name] for name in ("accuracy", "top_5_accuracy", "loss") if content.get(name) is not None}
    return Measured(
        path,
        EVALUATION,
        figures,
        data,
        split,
        content["num_images"],
        tuple(str(one) for one in conditions if one),
        versions=_versions(content.get("versions")),
        model_class=settings.get("class"),
        parameters=settings.get("parameters"),
        weights_sha256=settings.get(WEIGHTS_HASH),
        labels=tuple(str(row["label"]) for row in content.get("per_class") or ()),
    )


def _training(path: Path, content: dict) -> Measured:
    figures, training = {}, {}
    for name, value in content.items():
        # Where both are evaluated, "eval_raw_" has the weights that are not averaged, and those are not what is saved.
        if name.startswith("eval_") and not name.startswith("eval_raw_") and not name.endswith(_OF_THE_RUN):
            figures[name.removeprefix("eval_")] = value
        elif name in ("epoch", "step", "train_loss", "train_runtime", "train_samples_per_second"):
            _number(path, name, value)
            training[name] = value
    return Measured(path, TRAINING, figures, training=training, weights_sha256=content.get(WEIGHTS_HASH))


def _quickstart(path: Path, content: dict) -> Measured:
    names = ("epochs", "batch_size", "learning_rate", "seed", "train_images", "validation_images", "train_seconds")
    training = {name: content[name] for name in names if name in content}
    for name, value in training.items():
        _number(path, name, value)
    return Measured(
        path,
        QUICKSTART,
        {"accuracy": content["accuracy"]},
        shown_place(content["data"]),
        "held out",
        content["test_images"],
        tuple(f"{content[name]}{unit}" for name, unit in (("image_size", " px"), ("device", "")) if name in content),
        training,
        _versions(content),
        parameters=content["parameters"],
        weights_sha256=content.get(WEIGHTS_HASH),
        labels=tuple(map(str, content.get("labels", ()))),
        all_labels="labels" in content,
    )


def _data_of(text: str | None) -> tuple[str | None, str | None]:
    """Name and split of what evaluate_model.py calls "NAME, validation split"; a folder's as "photos, val"."""
    if not text:
        return None, None
    name, split = data_and_split(text)
    if split is None:
        return data_and_split(shown_place(text))
    return shown_place(name), split


def _versions(content: Mapping | None) -> dict[str, str]:
    names = ("sima_hf", "revision", "torch", "transformers", "python")
    return {name: str(content[name]) for name in names if content and content.get(name)}

"""What a results file measured: read, and held against the model that it claims to be about."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...errors import PublishError
from ...folders.json_files import parse_json
from ...folders.local_paths import data_and_split, shown_place
from ...folders.weights_hash import WEIGHTS_HASH


EVALUATION, TRAINING, QUICKSTART = "evaluation", "training", "quickstart"

# Names of files that are looked for in a model's folder, the most careful measurement first.
RESULT_FILES = ("evaluation.json", "results.json", "all_results.json")

# Entries of a training script's results that are about the run, not about the model.
_OF_THE_RUN = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "epoch")
# Entries of a training script's and of the quickstart's results that are about the training.
_TRAINING_ENTRIES = (
    *("epoch", "step", "train_loss", "train_runtime", "train_samples_per_second"),
    *("epochs", "batch_size", "learning_rate", "seed", "train_images", "validation_images", "train_seconds"),
)
_PACKAGES = ("sima_hf", "revision", "torch", "transformers", "python")


@dataclass(frozen=True)
class Measured:
    """What one results file says.

    Attributes:
        path: the file.
        kind: "evaluation" (`sima-hf evaluate`), "training" (all_results.json) or "quickstart" (its results.json).
        figures: name -> value; accuracies are shares from 0 to 1, losses are means per image.
        data, split: name of the images and of their part, where the file says so.
        images: how many were measured.
        settings: of the measurement, such as "image_size" in pixels and "device".
        training: settings of the training.
        versions: package -> version, "revision" being sima_hf's commit.
        model_class, parameters: of the model that was measured; None where the file does not say it.
        weights_sha256: `weights_hash` of the weights that were measured; None where the file does not say it.
    """

    path: Path
    kind: str
    figures: dict[str, float]
    data: str | None = None
    split: str | None = None
    images: int | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    model_class: str | None = None
    parameters: int | None = None
    weights_sha256: str | None = None


def read_measured(path: str | Path) -> Measured:
    """Read a results file.

    Args:
        path: what `sima-hf evaluate` writes as evaluation.json, a training as all_results.json, or the quickstart as results.json.

    Raises:
        PublishError: it is missing, not JSON, none of the three, or has figures that cannot be.
    """
    path = Path(path)
    content = parse_json(path, finite=True)
    kind = kind_of(content)
    if kind is None:
        raise PublishError(
            f"{path} must be a results file: evaluation.json of `sima-hf evaluate` or all_results.json of a training. Leave it out."
        )
    try:
        measured = {EVALUATION: _evaluation, TRAINING: _training, QUICKSTART: _quickstart}[kind](path, content)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PublishError(
            f"{path} is not as the script that wrote it leaves it ({type(error).__name__}: {error}). Measure again."
        ) from error
    for name, value in measured.figures.items():
        share = "accuracy" in name
        if not is_number(value) or (share and not 0 <= value <= 1):
            wanted = "share from 0 to 1" if share else "finite number"
            raise PublishError(f"{path}: {name} must be a {wanted}, got {value!r}. Measure again.")
    return measured


def kind_of(content: Any) -> str | None:
    """Which of the three results files this is, by its entries; None for any other JSON."""
    if not isinstance(content, Mapping):
        return None
    if "accuracy" in content and isinstance(content.get("settings"), Mapping):
        return EVALUATION
    if {"accuracy", "data", "test_images", "parameters"} <= set(content):
        return QUICKSTART
    return TRAINING if any(str(name).startswith(("eval_", "train_")) for name in content) else None


def check_measured(measured: Measured, model: PreTrainedModel, weights_sha256: str | None = None) -> None:
    """Make sure that a results file is about this model.

    Args:
        measured: what the file says.
        model: the folder's.
        weights_sha256: `weights_hash` of the folder's weights.

    Raises:
        PublishError: the file says that it measured another class, another number of parameters, or other weights.
    """
    for other, theirs, ours in (
        ("another class of model", measured.model_class, type(model).__name__),
        ("a model with another number of parameters", measured.parameters, count_parameters(model)),
        ("other weights, by their hash", measured.weights_sha256, weights_sha256),
    ):
        if None not in (theirs, ours) and theirs != ours:
            raise PublishError(
                f"{measured.path} was measured on {other}: must be {ours}, got {theirs}. Measure this model with `sima-hf evaluate`, "
                "or leave that file out."
            )


def count_parameters(model: PreTrainedModel) -> int:
    """Numbers in all parameters, shared ones once, as an evaluation counts them."""
    return sum(parameter.numel() for parameter in model.parameters())


def is_number(value: Any) -> bool:
    """Whether an entry of a JSON file is a finite number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _evaluation(path: Path, content: dict) -> Measured:
    settings = content["settings"]
    if settings.get("protocol"):
        raise PublishError(
            f"{path} was measured on frozen features, by the protocol {settings['protocol']['name']}, and says nothing of the model's own "
            "classifier. Measure that with `sima-hf evaluate`, or leave the file out."
        )
    data, split = _data_of(settings.get("data"))
    parameters = settings.get("parameters")
    skipped = {name: int(content[name]) for name in ("not_a_number", "left_out") if content.get(name)}
    return Measured(
        path,
        EVALUATION,
        {name: content[name] for name in ("accuracy", "top_5_accuracy", "loss") if content.get(name) is not None},
        data,
        split,
        int(content["num_images"]),
        settings | skipped,
        versions=_versions(content.get("versions")),
        model_class=settings.get("class"),
        parameters=None if parameters is None else int(parameters),
        weights_sha256=settings.get(WEIGHTS_HASH),
    )


def _training(path: Path, content: dict) -> Measured:
    # Where both are evaluated, "eval_raw_" has the weights that are not averaged, and those are not what is saved.
    figures = {
        name.removeprefix("eval_"): value
        for name, value in content.items()
        if name.startswith("eval_") and not name.startswith("eval_raw_") and not name.endswith(_OF_THE_RUN)
    }
    training = {name: content[name] for name in _TRAINING_ENTRIES if name in content}
    return Measured(path, TRAINING, figures, training=training, weights_sha256=content.get(WEIGHTS_HASH))


def _quickstart(path: Path, content: dict) -> Measured:
    return Measured(
        path,
        QUICKSTART,
        {"accuracy": content["accuracy"]},
        shown_place(content["data"]),
        "held out",
        int(content["test_images"]),
        {name: content[name] for name in ("image_size", "device") if name in content},
        {name: content[name] for name in _TRAINING_ENTRIES if name in content},
        _versions(content),
        parameters=int(content["parameters"]),
        weights_sha256=content.get(WEIGHTS_HASH),
    )


def _data_of(text: str | None) -> tuple[str | None, str | None]:
    """Name and split of what an evaluation calls "NAME, validation split"; a folder's as "photos, val"."""
    if not text:
        return None, None
    name, split = data_and_split(text)
    if split is None:
        return data_and_split(shown_place(text))
    return shown_place(name), split


def _versions(content: Mapping | None) -> dict[str, str]:
    return {name: str(content[name]) for name in _PACKAGES if content and content.get(name)}

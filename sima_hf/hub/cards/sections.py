"""The sections of a model card: each a text made from facts, with the file that a figure stands in beside it; "" without facts."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ...errors import PublishError
from ...patching.certificate import Certificate
from ...patching.description import Description
from ..readers_files import image_processor_file
from .attention import native_parts
from .figures import figure_row
from .markdown import cell, link, table, weights_words
from .results import EVALUATION, TRAINING, Measured, count_parameters


SIMA = "[SimA](https://arxiv.org/abs/2206.08898)"

# As in the README.
CITATION = """```bibtex
@inproceedings{koohpayegani2024sima,
  title     = {SimA: Simple Softmax-free Attention for Vision Transformers},
  author    = {Koohpayegani, Soroush Abbasi and Pirsiavash, Hamed},
  booktitle = {IEEE/CVF Winter Conference on Applications of Computer Vision (WACV)},
  year      = {2024}
}
```"""

_TASK_WORDS = {"image-classification": "An image classifier"}
_RESAMPLING = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}


def warning(file: Path, measured: bool) -> str:
    """The first words about weights that were swapped and left so; `measured`: the card has an accuracy, which says how they answer."""
    words = "Softmax was swapped for SimA in these weights, and nothing was calibrated or trained since"
    return f"**{words}{'' if measured else ', so they answer at random'}** ({link(file)})."


def summary(
    model: PreTrainedModel,
    description: Description,
    certificate: Certificate,
    tag: str | None,
    base: str,
    base_file: Path | None,
) -> str:
    """What this is, in two sentences; `base` is the model it was made from, or ""."""
    what = _TASK_WORDS.get(tag or "", "A vision model")
    how = "queries and keys are L1-normalised over the tokens, and three matrices multiplied in the cheaper order"
    source = f" ({link(base_file)})" if base_file else ""
    origin = f" It was made from `{base}`{source}." if base else ""
    name = type(model).__name__
    if native_parts(model) == [""]:
        return f"{what} without softmax: every attention is {SIMA}; {how}. The architecture is SimA's own, `{name}`.{origin}"
    # A host may be swapped in a part alone, and its decoder may be plain modules, which nothing but the count tells of.
    whole = certificate.softmax_free and not description.left and not any(part.within for part in description.swapped)
    subject = f"{what} whose attention is" if whole else f"{what} in part of which attention is"
    return (
        f"{subject} {SIMA} in place of softmax: {how}. It is Transformers' `{model.config.model_type.removeprefix('sima_')}` with the "
        f"same parameters under the same names, as `{name}`.{origin}"
    )


def accuracy_sentence(measured: Iterable[Measured], training_data: str) -> str:
    """The first top-1 accuracy that there is, with its images and its file."""
    one = next((one for one in measured if "accuracy" in one.figures), None)
    if one is None:
        return ""
    what, value, where, file = figure_row(
        "accuracy", one.figures["accuracy"], one.path, **_images_of(one, training_data)
    )
    return f"Its {what} is {value}{f' ({where})' if where else ''}: {file}."


def _images_of(one: Measured, training_data: str) -> dict[str, Any]:
    """What a file measured on, as `figure_row` takes it."""
    held_out = one.kind == TRAINING and one.data is None  # an evaluation without a name of its data may be of any
    where = one.data or (training_data if held_out else None)
    return {"data": where, "split": one.split, "held_out": held_out, "images": one.images}


def model_section(
    folder: Path,
    model: PreTrainedModel,
    weights: tuple[Path, ...],
    license_name: str,
    dataset: tuple[str, Path | None],
) -> str:
    """Size, classes, resolution, preprocessing, licence and data, each with its file."""
    config = model.config
    rows = [("class", f"`{type(model).__name__}`", "config.json")]
    rows.append(("parameters", f"{count_parameters(model):,}", weights_words(weights)))
    if names := class_names(model):
        rows.append(("classes", f"{len(names):,}", "config.json"))
    if size := image_size(config):
        rows.append(("image size", f"{size} px", "config.json"))
    if processor := image_processor_file(folder):
        rows += [(*row, processor.name) for row in _preprocessing(processor)]
    if license_name:
        rows.append(("licence", cell(license_name), ""))
    if dataset[0]:
        rows.append(("trained on", cell(dataset[0]), link(dataset[1]) if dataset[1] else ""))
    return "## The model\n\n" + table(("", "", "from"), rows)


def class_names(model: PreTrainedModel) -> list[str]:
    """Names of the classes that a model sorts images into; [] if it does another thing."""
    kind = type(model).__name__
    names = getattr(model.config, "id2label", None) or {}
    return list(map(str, names.values())) if "Classification" in kind and "ZeroShot" not in kind else []


def image_size(config: Any) -> str:
    """Height and width that a config is for; "" if it does not say."""
    inner = [config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)]
    size = next((value for one in inner if (value := getattr(one, "image_size", None))), None)
    if isinstance(size, (list, tuple)):
        return " x ".join(map(cell, size))
    return f"{cell(size)} x {cell(size)}" if size else ""


def _preprocessing(path: Path) -> list[tuple[str, str]]:
    """How an image becomes the model's input, from the processor's own file."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("image_processor", content)
        steps = []
        if content.get("do_resize", True) and content.get("size"):
            how = _RESAMPLING.get(content.get("resample"), "")
            steps.append(f"resized to {_side(content['size'])}{f', {how}' if how else ''}")
        if content.get("do_center_crop") and content.get("crop_size"):
            steps.append(f"central crop of {_side(content['crop_size'])}")
        rows = [("image", "; ".join(steps))] if steps else []
        if content.get("do_normalize", True) and content.get("image_mean"):
            mean, std = (", ".join(f"{part:g}" for part in content[name]) for name in ("image_mean", "image_std"))
            rows.append(("normalised by", f"mean {mean}; standard deviation {std}"))
        return rows
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PublishError(
            f"{path} is not an image processor's configuration: {error}. Save the processor again."
        ) from error


def _side(size: int | Mapping[str, int]) -> str:
    if isinstance(size, int):
        return f"{size} px"
    if "height" in size:
        return f"{cell(size['height'])} x {cell(size['width'])} px"
    return ", ".join(f"{cell(name.replace('_', ' '))} {cell(value)} px" for name, value in size.items() if value)


def results_section(measured: Iterable[Measured], training_data: str) -> str:
    """The figures, each with the images it was measured on and its file; below them the conditions."""
    rows, conditions = [], []
    for one in measured:
        of = _images_of(one, training_data)
        rows += [figure_row(name, value, one.path, **of) for name, value in one.figures.items()]
        if one.conditions and one.figures:
            who = (
                "The model as saved" if one.kind == EVALUATION and "weights" not in str(one.conditions) else "Measured"
            )
            conditions.append(f"{link(one.path)}: {who.lower()}, {cell(', '.join(one.conditions))}.")
    if not rows:
        return ""
    return "\n\n".join(["## Results", table(("", "value", "measured on", "file"), rows), *conditions])


def speed_section(tables: Iterable[list[str]]) -> str:
    """The tables of `speed.speed_table`, one after the other."""
    parts = ["\n".join(lines) for lines in tables]
    return "\n\n".join(["## Speed", *parts]) if parts else ""


def versions_section(found: Iterable[tuple[str, Mapping[str, str], str]]) -> str:
    """Versions of the software: (occasion, package -> version, file)."""
    rows = [
        (
            occasion,
            ", ".join(
                f"{'commit' if name == 'revision' else cell(name)} {cell(value)}" for name, value in versions.items()
            ),
            file,
        )
        for occasion, versions, file in found
        if versions
    ]
    return "## Versions\n\n" + table(("", "", "file"), rows) if rows else ""

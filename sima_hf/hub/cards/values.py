"""What the template of a card shows: values from the checked folder and from what is known besides."""

import inspect
import json
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import transformers
from transformers import PreTrainedModel

from ...errors import PublishError
from ...models.sima.modeling_sima import SimAPreTrainedModel
from ...patching.certificate import Operation
from ...patching.host_table.row import VIDEO
from ...patching.hosts import HOSTS
from ..folder import is_under
from ..readers_files import image_processor_file
from .known import Known
from .results import TRAINING, Measured, count_parameters
from .settings import UNEXPLAINED, settings_rows, shown_share
from .speed import speed_table


if TYPE_CHECKING:
    from ..folder import CheckedFolder


# Pipelines of images, the ones that say most about a model first; with what each is called with besides the picture.
_PIPELINES = {
    "image-classification": "",
    "zero-shot-image-classification": ', candidate_labels=["a cat", "a dog"]',
    "zero-shot-object-detection": ', candidate_labels=["a cat", "a dog"]',
    "object-detection": "",
    "image-segmentation": "",
    "depth-estimation": "",
    "video-classification": "",
    "mask-generation": "",
    "image-text-to-text": ', text="What is in the picture?"',
    "image-feature-extraction": "",
}
_PROCESSORS = {
    "processor_config.json": "AutoProcessor",
    "preprocessor_config.json": "AutoImageProcessor",
    "video_preprocessor_config.json": "AutoVideoProcessor",
}
_RESAMPLING = {0: "nearest", 1: "Lanczos", 2: "bilinear", 3: "bicubic", 4: "box", 5: "Hamming"}
_FIGURES = {"accuracy": "top-1 accuracy", "top_5_accuracy": "top-5 accuracy"}


def card_values(checked: "CheckedFolder", known: Known, name: str, revision: str | None) -> dict[str, Any]:
    """The values of the template.

    Args:
        checked: what `check_folder` found.
        known: what is known besides.
        name: what the card's code loads: a repository's id, or a folder.
        revision: branch that the model is on; None for the main one.
    """
    model, config = checked.model, checked.config
    tag, facts, provenance = pipeline_tag(model), known.facts, known.provenance
    results = [_row(one, figure, value) for one in known.measured for figure, value in one.figures.items()]
    calibration = provenance.get("calibration")
    return {
        **_attention(checked),
        "only_swapped": known.only_swapped,
        "provenance": facts.provenance,
        "tag": tag,
        "pipeline_arguments": _PIPELINES.get(tag or "", ""),
        "auto_class": auto_class(model),
        "processor": processor_class(checked.path, model),
        "cls": type(model).__name__,
        "module": "transformers" if hasattr(transformers, type(model).__name__) else "sima_hf.patching.classes",
        "host": config.model_type.removeprefix("sima_"),
        "place": quoted(name) + (f", revision={quoted(revision)}" if revision else ""),
        "pinned": quoted(revision or "main"),
        "certify": f"sima-hf certify {shlex.quote(name)}",
        "base_model": known.base_model,
        "base_file": known.file_of("base_model"),
        "license": known.license,
        "dataset": known.dataset,
        "dataset_file": known.file_of("dataset"),
        "weights": [path.name for path in checked.weights],
        "parameters": count_parameters(model),
        "classes": (classes := class_names(model)),
        "named": not all(re.fullmatch(r"LABEL_\d+", one) for one in classes),  # Transformers' own are no names
        "size": _image_size(config),
        "preprocessing": _preprocessing(image_processor_file(checked.path)),
        "results": results,
        "accuracy": next((row for row in results if row["name"] == _FIGURES["accuracy"]), None),
        "conditions": [
            {"file": one.path, "kind": one.kind, "words": ", ".join(one.conditions)}
            for one in known.measured
            if one.conditions and one.figures
        ],
        "speed": [speed_table(path, (name, checked.path.name, str(checked.path))) for path in facts.benchmark],
        "calibration": (settings_rows([(calibration, facts.provenance)]) or {"rows": []}) if calibration else None,
        "unexplained": [shown_share((calibration or {}).get(name)) for name in UNEXPLAINED],
        "training": settings_rows(known.trainings),
        "versions": list(_versions(config, known)),
    }


def pipeline_tag(model: PreTrainedModel) -> str | None:
    """The task of Transformers' `pipeline` that takes this class of model; None where there is none."""
    from transformers.pipelines import SUPPORTED_TASKS

    for task in _PIPELINES:
        if task == "image-feature-extraction" and not _takes_pictures_alone(model):
            continue
        if any(_takes(auto, model) for auto in SUPPORTED_TASKS.get(task, {}).get("pt", ())):
            return task
    return None


def _takes_pictures_alone(model: PreTrainedModel) -> bool:
    """Whether a forward needs one picture and nothing else; the pipeline of features has neither texts nor films."""
    host = HOSTS.get(model.config.model_type.removeprefix("sima_"))
    accepted = inspect.signature(model.forward).parameters
    return "pixel_values" in accepted and "input_ids" not in accepted and (host is None or host.task != VIDEO)


def auto_class(model: PreTrainedModel) -> str | None:
    """Name of the Auto class that loads this class of model, the one for its task before AutoModel; None where none does."""
    tag = pipeline_tag(model)
    if tag is not None:
        from transformers.pipelines import SUPPORTED_TASKS

        return next(auto.__name__ for auto in SUPPORTED_TASKS[tag]["pt"] if _takes(auto, model))
    names = sorted(name for name in dir(transformers) if name.startswith(("AutoModelFor", "AutoBackbone")))
    return next((name for name in (*names, "AutoModel") if _takes(getattr(transformers, name), model)), None)


def _takes(auto: type, model: PreTrainedModel) -> bool:
    mapping = getattr(auto, "_model_mapping", None)
    if mapping is None or type(model.config) not in mapping:
        return False
    classes = mapping[type(model.config)]
    return type(model) in (classes if isinstance(classes, tuple) else (classes,))


def processor_class(folder: Path, model: PreTrainedModel) -> str | None:
    """Name of the Auto class of the processor that is beside a model; None without one."""
    found = [auto for name, auto in _PROCESSORS.items() if (folder / name).is_file()]
    if found and "input_ids" in inspect.signature(model.forward).parameters and any(folder.glob("tokenizer*")):
        return "AutoProcessor"
    return found[0] if found else None


def quoted(value: str) -> str:
    """A text as Python has it between double quotes; no mark of a card can be in it."""
    return json.dumps(value, ensure_ascii=False).replace("<!--", "\\u003c!--")


def native_parts(model: PreTrainedModel) -> list[str]:
    """Paths of the outermost models in it that are SimA's own architecture; [""] for one that is so as a whole."""
    paths = [path for path, part in model.named_modules() if isinstance(part, SimAPreTrainedModel)]
    return [path for path in paths if not any(path != other and is_under(path, other) for other in paths)]


def softmax_in_sima(checked: "CheckedFolder") -> list[Operation]:
    """Operations of softmax attention where SimA should be; in a model that has no SimA, all of them."""
    native = native_parts(checked.model) or ([] if checked.description.swapped else [""])
    return [
        one
        for one in checked.certificate.operations
        if not one.allowed and (one.swapped or any(is_under(one.path, place) for place in native))
    ]


def _attention(checked: "CheckedFolder") -> dict[str, Any]:
    """What is SimA, with which gain and position bias, and which softmax operations were counted where."""
    model, description, operations = checked.model, checked.description, checked.certificate.operations
    native, inside = native_parts(model), softmax_in_sima(checked)
    own = "all, by its own architecture"
    parts = [
        {
            "path": path,
            "attentions": own,
            "gain": model.get_submodule(path).config.attention_gain,
            "position_bias": "none",
        }
        for path in native
    ]
    parts += [
        {
            "path": part.path,
            "attentions": f"{part.attentions} in `{part.host}`{f', in {part.within} alone' if part.within else ''}",
            "gain": part.gain,
            "position_bias": part.position_bias,
        }
        for part in description.swapped
    ]
    left = {path: cls for path, cls in description.left.items() if not any(is_under(path, one) for one in native)}
    # A host may be swapped in a part alone, and its decoder may be plain modules, which nothing but the count tells of.
    within = any(part.within for part in description.swapped)
    return {
        "native": native == [""],
        "swapped": bool(description.swapped),
        "whole": checked.certificate.softmax_free and not description.left and not within,
        "parts": parts,
        "counted": sum(one.count for one in inside),
        "allowed": _grouped(one for one in operations if one.allowed),
        "outside": _grouped(one for one in operations if not one.allowed and one not in inside),
        "left": left,
    }


def _grouped(operations: Iterable[Operation]) -> list[dict[str, Any]]:
    """Operations by kind and class of module, so that a stack of equal layers is one line."""
    groups: dict[tuple, list[Operation]] = {}
    for one in operations:
        groups.setdefault((one.operation, one.module, one.allowed), []).append(one)
    return [
        {
            "operation": operation,
            "module": module,
            "reason": reason,
            "count": sum(one.count for one in group),
            "paths": [one.path for one in group],
        }
        for (operation, module, reason), group in groups.items()
    ]


def class_names(model: PreTrainedModel) -> list[str]:
    """Names of the classes that a model sorts images into; [] if it does another thing."""
    kind = type(model).__name__
    names = getattr(model.config, "id2label", None) or {}
    return list(map(str, names.values())) if "Classification" in kind and "ZeroShot" not in kind else []


def _image_size(config: Any) -> str:
    """Height and width that a config is for; "" if it does not say."""
    inner = [config, getattr(config, "vision_config", None), getattr(config, "backbone_config", None)]
    size = next((value for one in inner if (value := getattr(one, "image_size", None))), None)
    return " x ".join(map(str, size if isinstance(size, (list, tuple)) else [size] * 2)) if size else ""


def _preprocessing(path: Path | None) -> list[dict[str, str]]:
    """How an image becomes the model's input, from the processor's own file."""
    if path is None:
        return []
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("image_processor", content)
        steps, rows = [], {}
        if content.get("do_resize", True) and content.get("size"):
            how = _RESAMPLING.get(content.get("resample"), "")
            steps.append(f"resized to {_side(content['size'])}{f', {how}' if how else ''}")
        if content.get("do_center_crop") and content.get("crop_size"):
            steps.append(f"central crop of {_side(content['crop_size'])}")
        if steps:
            rows["image"] = "; ".join(steps)
        if content.get("do_normalize", True) and content.get("image_mean"):
            mean, std = (", ".join(f"{part:g}" for part in content[name]) for name in ("image_mean", "image_std"))
            rows["normalized by"] = f"mean {mean}; standard deviation {std}"
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PublishError(
            f"{path} is not an image processor's configuration: {error}. Save the processor again."
        ) from error
    return [{"name": name, "value": value, "file": path.name} for name, value in rows.items()]


def _side(size: int | Mapping[str, int]) -> str:
    if isinstance(size, int):
        return f"{size} px"
    if "height" in size:
        return f"{size['height']} x {size['width']} px"
    return ", ".join(f"{name.replace('_', ' ')} {value} px" for name, value in size.items() if value)


def _row(one: Measured, figure: str, value: float) -> dict[str, Any]:
    """A figure with its images and its file."""
    where = [", ".join(filter(None, (one.data, one.split)))] if one.data else []
    where += ["held-out images of the training run"] if one.kind == TRAINING else []
    where += [f"{one.images:,} images"] if one.images else []
    return {
        "name": _FIGURES.get(figure, figure.replace("_", " ")),
        "value": f"{value:.2%}" if "accuracy" in figure else f"{value:.4f}",
        "where": "; ".join(where),
        "file": one.path,
    }


def _versions(config: Any, known: Known) -> Iterable[dict[str, str]]:
    """Versions of the software when the model was saved, made and measured."""
    saved = getattr(config, "transformers_version", None)
    made_by = known.provenance.get("made_by")
    found = [("saved", {"transformers": saved} if saved else {}, "config.json")]
    if known.facts.provenance:
        made = f"made by `{made_by}`" if made_by else "made"
        found.append((made, known.provenance.get("versions", {}), known.facts.provenance.name))
    found += [("measured", one.versions, one.path.name) for one in known.measured]
    for occasion, versions, file in found:
        if versions:
            words = (f"{'commit' if name == 'revision' else name} {value}" for name, value in versions.items())
            yield {"occasion": occasion, "packages": ", ".join(words), "file": file}

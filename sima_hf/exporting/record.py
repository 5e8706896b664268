"""`sima_export.json`: what a program without Transformers has to know of an exported model, and how it came to be."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..folders.file_names import EXPORT
from ..folders.local_paths import without_places
from ..models.sima.configuration_sima import SimAConfig
from ..patching import describe
from ..patching.attentions.mechanisms import SIMA
from ..patching.certificate import weights_mark
from ..version import __version__
from .formats import Format, versions_of
from .graphs import is_graph, read_graph


def write_record(folder: Path, made: Any, found: Format, model: PreTrainedModel, asked: str, processor: Any) -> Path:
    """Write the record into a folder that is complete but for it.

    Args:
        folder: with the graph.
        made: the `Exported`.
        found: its format.
        model: that was exported.
        asked: what was to be dynamic.
        processor: its image processor, or None.
    """
    graph = read_graph(folder / found.file) if is_graph(folder / found.file) else None
    content = {
        "format": made.format,
        "file": made.file,
        "files": sorted(one.name for one in folder.iterdir()),
        "model": made.model,
        "model_type": model.config.model_type,
        "attention": attention_of(model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "dynamic": {"asked": asked, "exported": made.dynamic, "because": made.fixed_because},
        "run_with": found.run_with.get("config", {}),
        "opset": graph and graph.opset,
        "inputs": graph and graph.inputs,
        "outputs": graph and graph.outputs,
        "image_processor": processor and without_places(processor.to_dict()),
        "labels": labels_of(model, graph.outputs if graph else []),
        "certificate": made.certificate.to_dict(),
        "agreement": made.agreement.to_dict(),
        "quantization": made.quantization and made.quantization.to_dict(),
        "versions": {"sima_hf": __version__, **versions_of(found)},
        "weights": weights_mark(model),
    }
    path = folder / EXPORT
    path.write_text(json.dumps(content, indent=2, default=_plain) + "\n", encoding="utf-8")
    return path


def attention_of(model: PreTrainedModel) -> str | None:
    """ "sima", or the name of the peer in its place; None for a softmax model."""
    native = [SIMA] if isinstance(model.config, SimAConfig) else []
    return ", ".join(sorted({*native, *(part.mechanism for part in describe(model).swapped)})) or None


def labels_of(model: PreTrainedModel, outputs: list[dict[str, Any]]) -> list[str] | None:
    """The names of the classes in the order of the logits; None for a model that does not classify."""
    if not is_classifier(model) and "logits" not in {one["name"] for one in outputs}:
        return None
    names = getattr(model.config, "id2label", None) or {}
    return [names[index] for index in sorted(names)]


def is_classifier(model: PreTrainedModel) -> bool:
    """Whether the first output of a model is logits of images, by its class."""
    return type(model).__name__.endswith("ForImageClassification")


def _plain(value: Any) -> Any:
    return str(value).removeprefix("torch.") if isinstance(value, torch.dtype) else str(value)

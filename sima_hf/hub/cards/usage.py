"""How a model is loaded and asked: its pipeline, its Auto class, its processor."""

import inspect
from pathlib import Path

import transformers
from transformers import PreTrainedModel

from ...patching.host_table.row import VIDEO
from ...patching.hosts import HOSTS


# Pipelines of images, the ones that say most about a model first; with what each is called with besides the picture.
PIPELINES = {
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


def pipeline_tag(model: PreTrainedModel) -> str | None:
    """The task of Transformers' `pipeline` that takes this class of model; None where there is none."""
    from transformers.pipelines import SUPPORTED_TASKS

    for task in PIPELINES:
        if task == "image-feature-extraction" and not _takes_pictures_alone(model):
            continue
        if any(_takes(auto, model) for auto in SUPPORTED_TASKS.get(task, {}).get("pt", ())):
            return task
    return None


def auto_class(model: PreTrainedModel) -> str | None:
    """Name of the Auto class that loads this class of model, the one for its task before AutoModel; None where none does."""
    from transformers.pipelines import SUPPORTED_TASKS

    tag = pipeline_tag(model)
    autos = list(SUPPORTED_TASKS[tag]["pt"]) if tag else []
    names = sorted(name for name in dir(transformers) if name.startswith(("AutoModelFor", "AutoBackbone")))
    autos += [getattr(transformers, name) for name in (*names, "AutoModel")]
    return next((auto.__name__ for auto in autos if _takes(auto, model)), None)


def processor_class(folder: Path, model: PreTrainedModel) -> str | None:
    """Name of the Auto class of the processor that is beside a model; None without one."""
    found = [auto for name, auto in _PROCESSORS.items() if (folder / name).is_file()]
    if found and "input_ids" in inspect.signature(model.forward).parameters and any(folder.glob("tokenizer*")):
        return "AutoProcessor"
    return found[0] if found else None


def _takes_pictures_alone(model: PreTrainedModel) -> bool:
    """Whether a forward needs one picture and nothing else; the pipeline of features has neither texts nor films."""
    host = HOSTS.get(model.config.model_type.removeprefix("sima_"))
    accepted = inspect.signature(model.forward).parameters
    return "pixel_values" in accepted and "input_ids" not in accepted and (host is None or host.task != VIDEO)


def _takes(auto: type, model: PreTrainedModel) -> bool:
    mapping = getattr(auto, "_model_mapping", None)
    if mapping is None or type(model.config) not in mapping:
        return False
    classes = mapping[type(model.config)]
    return type(model) in (classes if isinstance(classes, tuple) else (classes,))

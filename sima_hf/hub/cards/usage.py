"""How to load a published model: three ways, each as code that runs as it stands."""

import inspect
from pathlib import Path

import transformers
from transformers import PreTrainedModel

from ...patching.host_table.row import VIDEO
from ...patching.hosts import HOSTS
from .markdown import code, quoted


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
_PROCESSORS = (
    ("processor_config.json", "AutoProcessor"),
    ("preprocessor_config.json", "AutoImageProcessor"),
    ("video_preprocessor_config.json", "AutoVideoProcessor"),
)


def pipeline_tag(model: PreTrainedModel) -> str | None:
    """The task of Transformers' `pipeline` that takes this class of model; None where there is none."""
    from transformers.pipelines import SUPPORTED_TASKS

    for task in _PIPELINES:
        if task == "image-feature-extraction" and not _takes_pictures_alone(model):
            continue
        entry = SUPPORTED_TASKS.get(task, {})
        if any(_takes(auto, model) for auto in entry.get("pt", ())):
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
    """Name of the Auto class of the processor that lies beside a model; None without one."""
    found = {name: auto for name, auto in _PROCESSORS if (folder / name).is_file()}
    if not found:
        return None
    text = "input_ids" in inspect.signature(model.forward).parameters and any(folder.glob("tokenizer*"))
    return "AutoProcessor" if text else next(iter(found.values()))


def loading_text(folder: Path, model: PreTrainedModel, name: str, revision: str | None = None) -> str:
    """The section of a card that says how to load a model: with sima_hf, without it, through `pipeline`.

    Args:
        folder: where the model lies now, to see which processor there is.
        model: the model.
        name: what to call it in the code: a repository's id, or a folder.
        revision: branch that it is on; None for the main one.
    """
    branch = f", revision={quoted(revision)}" if revision else ""
    place, name = f"{quoted(name)}{branch}", quoted(name)
    auto, tag, processor = auto_class(model), pipeline_tag(model), processor_class(folder, model)
    if auto is None:
        return _by_class(model, processor, place)
    imports = ", ".join(sorted(filter(None, (auto, processor))))
    first = ["import sima_hf  # makes the SimA classes known to Transformers; changes nothing else"]
    with_images = tag == "image-classification" and processor
    first += ["from PIL import Image"] if with_images else []
    first += [f"from transformers import {imports}", ""]
    first += [f"processor = {processor}.from_pretrained({place})"] if processor else []
    first += [f"model = {auto}.from_pretrained({place})"]
    if with_images:
        first += [
            "",
            'inputs = processor(Image.open("image.jpg").convert("RGB"), return_tensors="pt")',
            'print(model.config.id2label[int(model(**inputs)["logits"].argmax())])',
        ]
    pinned = quoted(revision or "main")
    second = [
        f"from transformers import {imports}",
        "",
        f'trust = {{"trust_remote_code": True, "code_revision": {pinned}}}',
    ]
    second += [f"processor = {processor}.from_pretrained({place}, **trust)"] if processor else []
    second += [f"model = {auto}.from_pretrained({place}, **trust)"]
    parts = [
        "With sima_hf (`pip install sima-hf`), whose own kernels then serve:",
        _fenced(first),
        "Without it, by the code in this repository, which Transformers runs if told to. Read it first; a commit of this "
        f"repository in place of {code(pinned)} pins the code to what was read:",
        _fenced(second),
    ]
    if tag and not processor:
        parts.append("There is no image processor here, which `pipeline` would need.")
    elif tag:
        example = "video.mp4" if tag == "video-classification" else "image.jpg"
        third = ["import sima_hf", "from transformers import pipeline", ""]
        third += [f'run = pipeline("{tag}", model={name}{branch})', f'print(run("{example}"{_PIPELINES[tag]}))']
        parts += [
            "Through `pipeline`, likewise; without sima_hf, leave the first line out and add `trust_remote_code=True`:",
            _fenced(third),
        ]
    else:
        parts.append(f"There is no `pipeline` for a `{type(model).__name__}`.")
    return "\n\n".join(parts)


def _by_class(model: PreTrainedModel, processor: str | None, place: str) -> str:
    """For a class that no Auto class makes: AutoModel would make another one of the same type; `place`: arguments that load it."""
    cls = type(model).__name__
    where = "transformers" if hasattr(transformers, cls) else "sima_hf.patching.classes"
    lines = ["import sima_hf", f"from {where} import {cls}"]
    lines += [f"from transformers import {processor}"] if processor else []
    lines += ["", f"model = {cls}.from_pretrained({place})"]
    lines += [f"processor = {processor}.from_pretrained({place})"] if processor else []
    return "\n\n".join(
        (
            f"No Auto class and no `pipeline` of Transformers makes a `{cls}`, so it is loaded by its name, with sima_hf "
            "(`pip install sima-hf`):",
            _fenced(lines),
        )
    )


def _fenced(lines: list[str]) -> str:
    return "\n".join(["```python", *lines, "```"])

"""A model by its folder or Hub name, for whoever has to say in a sentence why it cannot be had."""

import contextlib
import inspect
from pathlib import Path

from huggingface_hub import constants
from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file

from .errors import CheckpointError
from .patching import certify, describe
from .patching.certificate import Certificate
from .patching.example_inputs import example_inputs
from .patching.load import load_saved_class
from .training.processors import load_processor


def load_model(name: str) -> PreTrainedModel:
    """A model by folder or Hub name, in eval mode, as the class that its config names.

    Raises:
        CheckpointError: there is no such folder or it holds no model; or no such model on the Hub, or none to be had offline.
        ValueError: Transformers does not know its type.
    """
    folder = Path(name)
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise CheckpointError(f"{name} holds no model: it has no config.json, which `save_pretrained` writes.")
    elif folder.exists():
        raise CheckpointError(f"{name} is a file; give the folder that a model was saved in, or its name on the Hub.")
    elif folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise CheckpointError(f"There is no folder {name} with a model in it.")
    try:
        return load_saved_class(name)
    except OSError as error:
        reason = " ".join(str(error).split())
        if folder.is_dir():
            raise CheckpointError(f"{name} cannot be loaded: {reason}") from error
        if constants.HF_HUB_OFFLINE:
            raise CheckpointError(
                f"There is no folder {name}, and no model of that name in {constants.HF_HUB_CACHE}; the Hub is not asked because "
                "HF_HUB_OFFLINE is set."
            ) from error
        raise CheckpointError(f"There is no folder {name}, and no model of that name on the Hub: {reason}") from error


def is_sima(model: PreTrainedModel) -> bool:
    """Whether a model is SimA, native or with a part that was swapped."""
    return bool(describe(model).swapped) or model.config.model_type == "sima"


def find_processor(name: str, needed: bool):
    """The image processor of a model by name; None where there is none and none is needed.

    Raises:
        CheckpointError: there is none, and it is needed.
    """
    try:
        return load_processor(name)
    except CheckpointError:
        if needed:
            raise
        return None


def save_processors(processor, model: PreTrainedModel, name: str, folder: Path) -> None:
    """The image processor and, for a model that reads text as well, the tokenizer beside it, where there is one."""
    if processor is not None:
        processor.save_pretrained(folder)
    if "input_ids" in inspect.signature(model.forward).parameters:
        with contextlib.suppress(OSError, ValueError, ImportError):
            cached_file(name, "tokenizer_config.json")  # AutoTokenizer would make one up
            AutoTokenizer.from_pretrained(name).save_pretrained(folder)


def certify_made_up(model: PreTrainedModel, size: tuple[int, int] | None = None) -> Certificate:
    """`certify` on a made-up image, of `size` (height, width) in pixels or of the size that the config says.

    Raises:
        ValueError: the model takes no images, or does not run on this one.
    """
    try:
        return certify(model, example_inputs(model, size))
    except (TypeError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{type(model).__name__} did not run on a made-up image ({error}). Certify it in Python with inputs of your own: "
            "sima_hf.certify(model, inputs)."
        ) from error

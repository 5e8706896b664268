"""Load a model by folder or Hub name, with readable errors."""

import contextlib
import inspect
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file

from ..errors import CheckpointError
from ..patching import certify, sima_attentions
from ..patching.certificate import Certificate
from ..patching.example_inputs import example_inputs
from .load_errors import check_name, check_no_adapter, loading_errors
from .missing_weights import check_weights
from .processors import load_processor
from .saved_class import load_with_report


def load_model(name: str, whole: bool = True) -> PreTrainedModel:
    """A model by folder or Hub name, in eval mode, as the class that its config names.

    Args:
        name: folder or Hub name.
        whole: refuse a checkpoint in which weights are missing; False: warn.

    Raises:
        CheckpointError: there is no such folder or it holds no model; no such model on the Hub, or none to be had offline; or
            weights that are missing or do not fit the config.
        ValueError: Transformers does not know its type.
    """
    check_name(name)
    folder = Path(name)
    check_no_adapter(folder)
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise CheckpointError(f"{name} holds no model: it has no config.json, which `save_pretrained` writes.")
    with loading_errors(name):
        model, report = load_with_report(name, ignore_mismatched_sizes=True)  # refused below, in a sentence
    check_weights(name, model, report, whole)
    return model


def is_sima(model: PreTrainedModel) -> bool:
    """Whether a model is SimA, native or with a part that was swapped."""
    return bool(sima_attentions(model)) or model.config.model_type == "sima"


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
    """`certify` on a random image, of `size` (height, width) in pixels or of the size that the config says.

    Raises:
        ValueError: the model takes no images, or does not run on this one.
    """
    try:
        return certify(model, example_inputs(model, size))
    except (TypeError, RuntimeError, IndexError) as error:
        raise ValueError(
            f"{type(model).__name__} did not run on a random image ({error}). Certify it in Python with inputs of your own: "
            "sima_hf.certify(model, inputs)."
        ) from error

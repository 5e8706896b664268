"""What readers need beside the weights, tried before it is published: files of JSON, image processor, tokenizer."""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging

from ..errors import PublishError
from .published_files import SETTINGS, others_in
from .weights_check import matches, parse_json, read_json


IMAGE_PROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
# Of the files of a tokenizer, those that nothing else is called by.
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
# A machine that lacks a package that some of Transformers' classes need cannot tell whether a folder is whole.
_OPTIONAL = ("torchvision", "sentencepiece", "tiktoken", "mistral_common")
_NOT_IMPORTED = "None of these classes could be imported"  # Transformers' words for the same
_LONGEST = 300  # characters of another library's message


def check_readers_files(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse a folder whose files for readers are not whole: nothing is fetched, and no code of anybody's is run.

    Args:
        folder: a model's.
        config: the model's, which says which processor is meant where the processor's own file does not.

    Raises:
        PublishError: one is no JSON, takes its class from code in the folder, or makes no image processor or tokenizer; or is a
            link out of the folder.
    """
    with_code = set()
    for file in others_in(folder):
        if file.name.endswith(".json"):
            content = parse_json(file.source)
            if matches(file.name, SETTINGS) and (places := list(_code_places(content))):
                _check_code(file.source, places)
                with_code.add(file.name)
    processor = image_processor_file(folder)
    if processor and not with_code & {IMAGE_PROCESSOR, PROCESSOR}:
        # To readers without sima_hf a config of its own says nothing of processors.
        known = type(config).__module__.startswith("transformers.")
        _try(AutoImageProcessor, "an image processor", [processor], config if known else PreTrainedConfig())
    tokenizer = [folder / name for name in _TOKENIZER if (folder / name).is_file()]
    if tokenizer and not with_code & set(_TOKENIZER):
        _try(AutoTokenizer, "a tokenizer", tokenizer, config)


def image_processor_file(folder: Path) -> Path | None:
    """The file that Transformers reads a folder's image processor from; None if it has none.

    A processor's, if it holds the image processor's settings, comes before the image processor's own.
    """
    path = folder / PROCESSOR
    if path.is_file() and "image_processor" in read_json(path):
        return path
    path = folder / IMAGE_PROCESSOR
    return path if path.is_file() else None


def _code_places(content: Mapping[str, Any]) -> Iterator[str]:
    """Where settings, and those of the parts in them, say that the code of their classes is."""
    for part in (content, *content.values()):
        if isinstance(part, Mapping) and part.get("auto_map"):
            yield from _texts(part["auto_map"])


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(one)


def _check_code(path: Path, places: list[str]) -> None:
    here = [place for place in places if "--" not in place]
    if here:
        raise PublishError(
            f"{path} takes its class from code beside it, {here[0]}. Of code only that of the model is published, which sima_hf makes, "
            "so nobody could load this. Save one of Transformers' own classes in its place, or name code that is on the Hub: "
            f"organization/name--{here[0]}."
        )


def _try(auto: type, what: str, paths: list[Path], config: PreTrainedConfig) -> None:
    folder, verbosity = paths[0].parent, logging.get_verbosity()
    try:
        logging.set_verbosity_error()  # which of its classes serve on this machine is nothing to a push
        auto.from_pretrained(folder, config=config, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # settings of the wrong kind may raise anything
        if (
            isinstance(error, ImportError)
            or _NOT_IMPORTED in str(error)
            or any(_lacks(one, error) for one in _OPTIONAL)
        ):
            return
        said = " ".join(str(error).split()).rstrip(".")[:_LONGEST] or type(error).__name__
        raise PublishError(
            f"{' and '.join(map(str, paths))} should make {what}, which did not load ({type(error).__name__}: {said}). The folder may "
            f"have been written by half: save {what} into it anew, with `save_pretrained(folder)`, or take its files out."
        ) from error
    finally:
        logging.set_verbosity(verbosity)


def _lacks(package: str, error: Exception) -> bool:
    return package in str(error) and importlib.util.find_spec(package) is None

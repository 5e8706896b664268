"""What readers need beside the weights, tried from the very files that will be published: JSON, image processor, tokenizer."""

import importlib.util
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging

from ..errors import PublishError
from ..folders.weights import matches, parse_json, read_json, some
from .stage import SETTINGS, PlannedFile, others_in, staged


IMAGE_PROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
# Of the files of a tokenizer, those that nothing else is called by.
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
# A machine that lacks a package that some of Transformers' classes need cannot tell whether a folder is whole.
_OPTIONAL = ("torchvision", "sentencepiece", "tiktoken", "mistral_common")
_NOT_IMPORTED = "None of these classes could be imported"  # Transformers' words for the same
_NOT_IT = ("*.safetensors", "*.py", "readme.md", "config.json")  # files that no processor or tokenizer is made from
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
    with_code, files = set(), others_in(folder)
    for file in files:
        if file.name.endswith(".json"):
            content = parse_json(file.source)
            if matches(file.name, SETTINGS) and (places := list(_code_places(content))):
                _check_code(file.source, places)
                with_code.add(file.name)
    if not type(config).__module__.startswith("transformers."):
        config = PreTrainedConfig()  # to readers without sima_hf a config of its own says nothing of either
    with tempfile.TemporaryDirectory() as place:
        config_file = folder / "config.json"  # where some of Transformers' classes look for a model's type
        stage = staged([*files, *([PlannedFile.of(config_file)] if config_file.is_file() else [])], Path(place))
        processor = image_processor_file(folder)
        if processor and not with_code & {IMAGE_PROCESSOR, PROCESSOR}:
            _try(AutoImageProcessor, "an image processor", [processor], config, stage)
        tokenizer = [folder / name for name in _TOKENIZER if (folder / name).is_file()]
        if tokenizer and not with_code & set(_TOKENIZER):
            _try(AutoTokenizer, "a tokenizer", tokenizer, config, stage)


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


def _try(auto: type, what: str, paths: list[Path], config: PreTrainedConfig, stage: Path) -> None:
    """Load from `stage`, which has what will be published and nothing else; `paths` are the user's files that should make it."""
    error = _error(auto, stage, config)
    if error is None:
        return
    said = " ".join(str(error).split()).rstrip(".")[:_LONGEST] or type(error).__name__
    said, named = f"({type(error).__name__}: {said})", " and ".join(map(str, paths))
    folder = paths[0].parent
    if _error(auto, folder, config) is None:
        published = {path.name for path in stage.iterdir()}
        left = [one.name for one in folder.iterdir() if one.name not in published and not matches(one.name, _NOT_IT)]
        raise PublishError(
            f"{named} should make {what}, which loads in this folder but not from the files that are published {said}, so it would "
            f"load for nobody else. Not published are {some(left) or 'entries that name places on this disk'}. Save {what} into the "
            "folder anew, with `save_pretrained(folder)`, which writes it under the names that Transformers looks for."
        ) from error
    raise PublishError(
        f"{named} should make {what}, which did not load {said}. The folder may have been written by half: save {what} into it "
        "anew, with `save_pretrained(folder)`, or take its files out."
    ) from error


def _error(auto: type, folder: Path, config: PreTrainedConfig) -> Exception | None:
    """What loading raises; None where it does not, or where a package that this machine lacks is why."""
    verbosity = logging.get_verbosity()
    try:
        logging.set_verbosity_error()  # which of its classes serve on this machine is nothing to a push
        auto.from_pretrained(folder, config=config, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # settings of the wrong kind may raise anything
        lacking = isinstance(error, ImportError) or any(_lacks(one, error) for one in _OPTIONAL)
        return None if lacking or _NOT_IMPORTED in str(error) else error
    finally:
        logging.set_verbosity(verbosity)
    return None


def _lacks(package: str, error: Exception) -> bool:
    return package in str(error) and importlib.util.find_spec(package) is None

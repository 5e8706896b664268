"""Check processors and tokenizer on the files that will be published: whole JSON, no code of their own, and they load."""

import importlib.util
from pathlib import Path

from transformers import AutoTokenizer, PreTrainedConfig
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.utils import logging

from ..errors import PublishError
from ..folders.file_names import code_places
from ..folders.json_files import parse_json, read_json
from ..folders.weights import some
from .stage import Stage


IMAGE_PROCESSOR, PROCESSOR = "preprocessor_config.json", "processor_config.json"
# Of the files of a tokenizer, those that nothing else is called by.
_TOKENIZER = ("tokenizer_config.json", "tokenizer.json")
# A machine that lacks a package that some of Transformers' classes need cannot tell whether a folder is whole.
_OPTIONAL = ("torchvision", "sentencepiece", "tiktoken", "mistral_common")
_NOT_IMPORTED = "None of these classes could be imported"  # Transformers' words for the same
_LONGEST = 300  # characters of another library's message


def check_processors(stage: Stage, config: PreTrainedConfig) -> None:
    """Refuse files for readers that are not whole. Nothing is fetched, and no code of anybody's is run.

    Args:
        stage: what will be published.
        config: the model's, which says which processor is meant where the processor's own file does not.

    Raises:
        PublishError: one is no JSON, takes its class from code in the folder, or makes no image processor or tokenizer.
    """
    with_code = {name for name in stage.sources if name.endswith(".json") and _names_code(stage, name)}
    if not type(config).__module__.startswith("transformers."):
        config = PreTrainedConfig()  # to readers without sima_hf a config of its own says nothing of either
    processor = image_processor_file(stage.path)
    if processor and not with_code & {IMAGE_PROCESSOR, PROCESSOR}:
        _try(AutoImageProcessor, "an image processor", [processor.name], config, stage)
    tokenizer = [name for name in _TOKENIZER if name in stage.sources]
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


def _names_code(stage: Stage, name: str) -> bool:
    """Whether settings, or those of a part in them, name code on the Hub; code in the folder itself is refused."""
    path = stage.folder / name
    content = parse_json(stage.path / name, copy_of=path)
    if not name.endswith("_config.json"):
        return False
    parts = [content, *content.values()]
    places = [place for one in parts if isinstance(one, dict) for place in code_places(one.get("auto_map"))]
    here = [place for place in places if "--" not in place]
    if here:
        raise PublishError(
            f"{path} takes its class from code beside it, {here[0]}, which is not published: only the model's code is, and sima_hf makes "
            f"that. Save one of Transformers' own classes, or name code that is on the Hub: organization/name--{here[0]}."
        )
    return bool(places)


def _try(auto: type, what: str, names: list[str], config: PreTrainedConfig, stage: Stage) -> None:
    """Load from the staged files; `names` are those that should make it."""
    error = _error(auto, stage.path, config)
    if error is None:
        return
    said = " ".join(str(error).replace(str(stage.path), str(stage.folder)).split()).rstrip(".")[:_LONGEST]
    files = [name for name in stage.left() if not name.endswith("/")]
    left = (
        f" Not published, because no tokenizer's or processor's files are called so: {some(files)}." if files else ""
    )
    raise PublishError(
        f"{' and '.join(str(stage.folder / name) for name in names)} should make {what}, which did not load from the files that are "
        f"published ({type(error).__name__}: {said}).{left} Save it into the folder again, with `save_pretrained(folder)`, or take its "
        "files out."
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

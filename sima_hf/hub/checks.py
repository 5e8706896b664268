"""Check a model folder before anything of it is published: complete, safe to load, and SimA by count, not by name."""

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import PublishError
from ..folders import manifest as checkpoints
from ..folders.atomic_folder import LEFTOVERS
from ..folders.file_names import CONFIG
from ..folders.json_files import read_json
from ..folders.weights import check_adapter, check_finite, check_loading, check_pickles, weights_of
from ..loading.missing_weights import without_pooler
from ..loading.saved_class import check_entries, saved_class
from ..models.sima import modeling_sima
from ..patching import certify, describe
from ..patching.attentions.mechanisms import declared, title_of
from ..patching.certificate import Certificate, Operation, weights_mark
from ..patching.description import Description
from ..patching.example_inputs import example_inputs
from .processors import check_processors
from .stage import Stage


@dataclass(frozen=True)
class CheckedFolder:
    """A folder that may be published, and what was found in it.

    Attributes:
        path: the folder, absolute.
        config: the model's.
        model: loaded as the class that saved it, in eval mode, on the CPU, in the dtype of the files.
        certificate: what one forward ran.
        description: what was swapped; empty for a native SimA model, which is SimA as a whole.
        weights: the safetensors files that the model loads from.
    """

    path: Path
    config: PreTrainedConfig
    model: PreTrainedModel
    certificate: Certificate
    description: Description
    weights: tuple[Path, ...]


def check_folder(folder: str | Path, certificate: Certificate | None = None) -> CheckedFolder:
    """Load a folder and make sure that it can be published as SimA. Nothing is changed, and no network used.

    Args:
        folder: as `save_pretrained` writes it.
        certificate: made in Python with `sima_hf.certify(model, inputs)`, for a model that inputs cannot be made up for.

    Returns:
        The folder with the model in it, loaded.

    Raises:
        PublishError: it cannot, with the reason: no model folder, half-written, pickles, weights that are missing, damaged or
            of another model, a processor or tokenizer that does not load, softmax where SimA should be, or a forward that could not
            be tried.
    """
    with checked_stage(folder, certificate) as (_, checked):
        return checked


@contextlib.contextmanager
def checked_stage(folder: str | Path, certificate: Certificate | None = None) -> Iterator[tuple[Stage, CheckedFolder]]:
    """Stage what will be published of a folder, check that, and add the code that readers need.

    Raises:
        PublishError: as `check_folder`.
    """
    folder = Path(folder).resolve()
    _check_source(folder)
    content = read_json(folder / CONFIG)
    _check_config_entries(folder / CONFIG, content)
    check_pickles(folder)
    weights = weights_of(folder, content.get("transformers_weights"))
    with tempfile.TemporaryDirectory(prefix="sima-hf-") as place:
        stage = Stage(folder, Path(place))
        stage.add_config()
        stage.add_weights(weights)
        stage.add_settings()
        cls, config = _class_and_config(stage, content.get("model_type"))
        check_processors(stage, config)
        model = _load(stage, cls, config)
        check_finite(folder, model)
        description = describe(model)
        _check_any_sima(folder, model, description)
        check_mechanisms(description)
        certificate = _certified(folder, model, description, certificate)
        _check_no_softmax(folder, model, certificate)
        stage.add_config(model.config)
        yield stage, CheckedFolder(folder, model.config, model, certificate, description, weights.files)


def _check_source(folder: Path) -> None:
    """Whether this is a model's folder at all, and one that was written to its end."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise PublishError(f"{folder} {what}. Give the folder that `model.save_pretrained(folder)` wrote.")
    if folder.name.startswith(".") and any(word in folder.name for word in LEFTOVERS):
        raise PublishError(f"{folder} was left by a killed process, perhaps half-written. Give a whole folder.")
    if (folder / checkpoints.MANIFEST).exists() and (trouble := checkpoints.damage(folder)):
        good = checkpoints.last_good(folder.parent)
        hint = f" The last good checkpoint beside it is {good}." if good else ""
        raise PublishError(f"The training checkpoint {folder} {trouble}.{hint}")
    check_adapter(folder)
    if not (folder / CONFIG).is_file():
        raise PublishError(f"{folder} has no {CONFIG}, so it is not a model's folder.")


def _check_config_entries(path: Path, content: dict) -> None:
    """Whether the entries that say what to load are of the right kind, and name weights beside the config."""
    try:
        check_entries(content, str(path))
    except ValueError as error:
        raise PublishError(str(error)) from error
    weights = content.get("transformers_weights")
    if weights is not None and Path(weights).name != weights:
        raise PublishError(
            f"`transformers_weights` in {path} must be the name of a file beside it, got {weights!r}. Load the model and save it again."
        )


def _class_and_config(stage: Stage, model_type: str | None) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """The class that saved a folder, and its config as that class wants it."""
    path = stage.folder / CONFIG
    versions = f"sima_hf nor Transformers {transformers.__version__}"
    if model_type not in CONFIG_MAPPING:
        raise PublishError(f"{path} has the model_type {model_type!r}, which neither {versions} knows.")
    try:
        config = AutoConfig.from_pretrained(stage.path, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # what a config does not like may raise anything
        raise PublishError(f"{path} does not describe a {model_type!r} model: {_line(error)}.") from error
    names = config.architectures or []
    if not names:
        raise PublishError(
            f"{path} names no model class under `architectures`, so it was saved without its weights. Save both together with "
            "`model.save_pretrained(folder)`."
        )
    try:
        cls = saved_class(config, str(path))
    except ValueError as error:
        raise PublishError(str(error)) from error
    if cls is None:
        raise PublishError(f"{path} names the class {names[0]}, which is one of neither {versions}.")
    return cls, config


def _load(stage: Stage, cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a folder, in eval mode; every weight from its files, but a pooler that nothing reads."""
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "local_files_only": True}
    try:
        model, info = cls.from_pretrained(stage.path, config=config, **options)
    except Exception as error:  # impossible sizes, a quantizer that is not installed, ...
        raise PublishError(f"{stage.folder} cannot be loaded as {cls.__name__}: {_line(error)}.") from error
    missing = without_pooler(model, info["missing_keys"])
    check_loading(stage.folder, cls.__name__, {**info, "missing_keys": missing})
    return model.eval()


def _certified(
    folder: Path, model: PreTrainedModel, description: Description, given: Certificate | None
) -> Certificate:
    """The certificate of a model: the one that was given, if it is this model's, or a new one."""
    name, parts = type(model).__name__, tuple(part.path for part in description.swapped)
    if given is not None:
        found, wanted = (given.model, given.swapped, given.weights), (name, parts, weights_mark(model))
        if found != wanted:
            raise PublishError(
                f"`certificate` must be of the {name} in {folder}, in its dtype, got one of a {given.model} with other weights or other "
                "parts swapped. Load the model of this folder and certify that."
            )
        return given
    try:
        return certify(model, example_inputs(model))
    except Exception as error:  # a forward may raise anything for inputs that it does not like
        raise PublishError(
            f"{name} in {folder} did not run on a made-up image ({_line(error)}), so it is not known to be free of softmax. Load it in "
            "Python, certify it with inputs of your own, and pass the certificate: "
            "sima_hf.hub.check_folder(folder, certificate=sima_hf.certify(model, inputs))."
        ) from error


def _native(model: PreTrainedModel) -> list[str]:
    """Paths of SimA's own architecture in a model."""
    return [path for path, part in model.named_modules() if isinstance(part, modeling_sima.SimAPreTrainedModel)]


def _check_any_sima(folder: Path, model: PreTrainedModel, description: Description) -> None:
    if not description.swapped and not _native(model):
        raise PublishError(
            f"{folder} holds a {type(model).__name__} without any SimA attention. Swap it first, with `sima_hf.patch_model(model)` and "
            "`model.save_pretrained(another_folder)` or with `sima-hf patch`, and publish that."
        )


def check_mechanisms(description: Description) -> None:
    """Refuse to publish, under a name that says SimA, an attention that has a softmax by design.

    Raises:
        PublishError: a part of the model has one.
    """
    for part in description.swapped:
        if "softmax" in declared(part.mechanism):
            raise PublishError(
                f"{description.model} computes {title_of(part.mechanism)} in {part.path or 'the whole model'}, which has a softmax by design, "
                "and nothing that runs softmax is published under a name of SimA. Choose another: "
                "sima_hf.patch_model(model, attention=...)."
            )


def _check_no_softmax(folder: Path, model: PreTrainedModel, certificate: Certificate) -> None:
    """Softmax may be in the parts that are not SimA, such as a text side, and there only."""
    native = _native(model)
    within = [
        one for one in certificate.operations if not one.allowed and any(is_under(one.path, path) for path in native)
    ]
    wrong: list[Operation] = [*certificate.in_swapped, *within]
    if wrong:
        places = "; ".join(f"{one.count} x {one.operation} in {one.path or 'the model itself'}" for one in wrong[:3])
        raise PublishError(
            f"One forward of the {type(model).__name__} in {folder} ran softmax in what should be SimA: "
            f"{sum(one.count for one in wrong)} operations ({places}). It is not published; please report the versions that `sima-hf env` "
            "prints."
        )


def _line(error: Exception) -> str:
    """The first line of another library's error; the whole of it is the cause of ours."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".:") if text else type(error).__name__


def is_under(path: str, place: str) -> bool:
    """Whether a module's path is a place in a model, or below it; "" is the model itself."""
    return not place or path == place or path.startswith(f"{place}.")

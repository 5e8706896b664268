"""A model folder, checked before anything of it is published: complete, safe to load, and SimA by count, not by name."""

import glob
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import transformers
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig, PreTrainedModel

from ..errors import PublishError
from ..folders import manifest as checkpoints
from ..folders.weights import check_adapter, check_finite, check_loading, check_pickles, read_json, weights_of
from ..loading.saved_class import check_entries, saved_class
from ..models.sima import modeling_sima
from ..patching import certify, describe
from ..patching.certificate import Certificate, Operation, weights_mark
from ..patching.description import Description
from ..patching.example_inputs import example_inputs
from .processors import check_readers_files
from .stage import others_in, weights_in
from .unchanged import hashes_of


CONFIG = "config.json"
# In the names of hidden folders that are written aside and moved into place when they are whole, or moved away to be removed.
_LEFTOVERS = ("incomplete-", "removed-", "before-")


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
        index: the file that says which of them has which weight; None where the model is read from one file without it.
        hashes: file that was checked -> its SHA-256 from before that; see `sima_hf.hub.unchanged`.
    """

    path: Path
    config: PreTrainedConfig
    model: PreTrainedModel
    certificate: Certificate
    description: Description
    weights: tuple[Path, ...]
    index: Path | None = None
    hashes: Mapping[Path, str] = field(default_factory=dict)


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
    folder = Path(folder).resolve()
    _check_place(folder)
    content = read_json(folder / CONFIG)
    _check_entries(folder / CONFIG, content)
    check_pickles(folder)
    weights = weights_of(folder, content.get("transformers_weights"))
    read = [folder / CONFIG, *(file.source for file in (*weights_in(weights), *others_in(folder)))]
    hashes = hashes_of(read)
    cls, config = _class_and_config(folder, content.get("model_type"))
    check_readers_files(folder, config)
    model = _load(folder, cls, config)
    check_finite(folder, model)
    description = describe(model)
    certificate = _certified(folder, model, description, certificate)
    _check_sima(folder, model, description, certificate)
    return CheckedFolder(folder, model.config, model, certificate, description, weights.files, weights.index, hashes)


def _check_place(folder: Path) -> None:
    """Whether this is a model's folder at all, and one that was written to its end."""
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        if moved := sorted(folder.parent.glob(f"{glob.escape(f'.{folder.name}.before-')}*")):
            what += f", but {moved[-1]} is the model that a killed process had moved away from there; move it back"
        raise PublishError(f"{folder} {what}. Give the folder that `model.save_pretrained(folder)` wrote.")
    if folder.name.startswith(".") and any(word in folder.name for word in _LEFTOVERS):
        raise PublishError(
            f"{folder} is what a killed process left, half written or half removed. {_last_good(folder.parent)}"
        )
    if (folder / checkpoints.MANIFEST).exists() and (trouble := checkpoints.damage(folder)):
        raise PublishError(f"The training checkpoint {folder} {trouble}. {_last_good(folder.parent, folder)}")
    check_adapter(folder)
    if not (folder / CONFIG).is_file():
        inner = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
        hint = f" There is one in {', '.join(inner[:3])} inside it." if inner else ""
        raise PublishError(f"{folder} has no {CONFIG}, so it is not a model's folder.{hint}")


def _check_entries(path: Path, content: dict) -> None:
    """Whether a config's entries that say what to load are of the right kind, and name weights that are beside it."""
    try:
        check_entries(content, str(path))
    except ValueError as error:
        raise PublishError(str(error)) from error
    weights = content.get("transformers_weights")
    if weights is not None and Path(weights).name != weights:
        raise PublishError(
            f"{path} names {weights!r} as its weights, which is no file beside it. Load the model and save it anew with "
            "`model.save_pretrained(another_folder)`."
        )


def _last_good(run_dir: Path, damaged: Path | None = None) -> str:
    """Which folder of a run to publish instead."""
    step = checkpoints.step_of(damaged) if damaged else None
    path = checkpoints.last_good(run_dir, before=step) or checkpoints.last_good(run_dir)
    return f"The last good checkpoint beside it is {path}." if path else "There is no good checkpoint beside it."


def _class_and_config(folder: Path, model_type: str | None) -> tuple[type[PreTrainedModel], PreTrainedConfig]:
    """The class that saved a folder, and its config as that class wants it."""
    if model_type not in CONFIG_MAPPING:
        raise PublishError(
            f"{folder / CONFIG} is of a model_type {model_type!r}, which neither sima_hf nor Transformers "
            f"{transformers.__version__} knows."
        )
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    except Exception as error:  # what a config does not like may raise anything
        raise PublishError(f"{folder / CONFIG} does not describe a {model_type!r} model: {_line(error)}.") from error
    names = config.architectures or []
    if not names:
        raise PublishError(
            f"{folder / CONFIG} names no model class under `architectures`, so it was not written with its weights. Save both "
            "together with `model.save_pretrained(folder)`."
        )
    try:
        cls = saved_class(config, str(folder / CONFIG))
    except ValueError as error:
        raise PublishError(str(error)) from error
    if cls is None:
        raise PublishError(
            f"{folder / CONFIG} says that the model is a {names[0]}, which is a class neither of sima_hf nor of Transformers "
            f"{transformers.__version__}."
        )
    return cls, config


def _load(folder: Path, cls: type[PreTrainedModel], config: PreTrainedConfig) -> PreTrainedModel:
    """The model of a folder, in eval mode; every weight from its files."""
    try:
        model, info = cls.from_pretrained(
            folder, config=config, output_loading_info=True, ignore_mismatched_sizes=True, local_files_only=True
        )
    except Exception as error:  # impossible sizes, a quantizer that is not installed, ...
        raise PublishError(f"{folder} cannot be loaded as {cls.__name__}: {_line(error)}.") from error
    check_loading(folder, cls.__name__, info)
    return model.eval()


def _certified(
    folder: Path, model: PreTrainedModel, description: Description, given: Certificate | None
) -> Certificate:
    """The certificate of a model: the one that was given, if it is this model's, or a new one."""
    _check_vision(folder, model, description)
    if given is not None:
        parts = tuple(part.path for part in description.swapped)
        if given.model != type(model).__name__ or given.swapped != parts:
            raise PublishError(
                f"The certificate is of a {given.model} in which {_listed(given.swapped)} was swapped, but {folder} holds a "
                f"{type(model).__name__} with {_listed(parts)}. Certify the model of this folder."
            )
        if given.weights is None or given.weights != weights_mark(model):
            raise PublishError(
                f"The certificate is of a {given.model} with other weights, or in another dtype, than those in {folder}. Load the model "
                "of this folder, as its files are, and certify that."
            )
        return given
    try:
        return certify(model, example_inputs(model))
    except Exception as error:  # a forward may raise anything for inputs that it does not like
        raise PublishError(
            f"{type(model).__name__} in {folder} did not run on a made-up image ({_line(error).rstrip('.')}), so it is not known to be free of "
            "softmax. Load it in Python, certify it with inputs of your own, and hand the certificate over: "
            "sima_hf.hub.check_folder(folder, certificate=sima_hf.certify(model, inputs))."
        ) from error


def _check_vision(folder: Path, model: PreTrainedModel, description: Description) -> None:
    """Refuse a model that takes no images and has no SimA, before any are made up for it."""
    if not description.swapped and not _native(model) and not takes_images(model):
        raise PublishError(
            f"{folder} holds a {type(model).__name__}, which is not a vision model, and nothing in it is SimA, so there is nothing to "
            "publish here."
        )


def takes_images(model: PreTrainedModel) -> bool:
    """Whether any argument of a model's forward is a picture."""
    return any("pixel_values" in name for name in inspect.signature(model.forward).parameters)


def _native(model: PreTrainedModel) -> list[str]:
    """Paths of SimA's own architecture in a model."""
    return [path for path, part in model.named_modules() if isinstance(part, modeling_sima.SimAPreTrainedModel)]


def _listed(parts: tuple[str, ...]) -> str:
    return ", ".join(part or "the whole model" for part in parts) or "nothing"


def _check_sima(folder: Path, model: PreTrainedModel, description: Description, certificate: Certificate) -> None:
    """Softmax may be in the parts that are not SimA, such as a text side, and there only; and something has to be SimA."""
    native = _native(model)
    if not native and not description.swapped:
        named = ", although its folder's name says SimA" if "sima" in folder.name.lower() else ""
        ran = f" One forward ran {certificate.count} operations of softmax attention." if certificate.count else ""
        raise PublishError(
            f"{folder} holds a {type(model).__name__} without any SimA attention{named}.{ran} Swap it first, with "
            "`sima_hf.patch_model(model)` and `model.save_pretrained(another_folder)` or with `sima-hf patch`, and publish that."
        )
    within = [
        one for one in certificate.operations if not one.allowed and any(is_under(one.path, path) for path in native)
    ]
    wrong: list[Operation] = [*certificate.in_swapped, *within]
    if wrong:
        places = "; ".join(f"{one.count} x {one.operation} in {one.path or 'the model itself'}" for one in wrong[:3])
        raise PublishError(
            f"{folder} says that its {type(model).__name__} is SimA, but one forward ran softmax in what should be SimA: "
            f"{sum(one.count for one in wrong)} operations ({places}). It is not published; please report the versions that "
            "`sima-hf env` prints."
        )


def _line(error: Exception) -> str:
    """The first line of another library's error; the whole of it is the cause of ours."""
    text = str(error).strip().splitlines()
    return text[0].rstrip(".:") if text else type(error).__name__


def is_under(path: str, place: str) -> bool:
    """Whether a module's path is a place in a model, or below it; "" is the model itself."""
    return not place or path == place or path.startswith(f"{place}.")

"""The weights of a model folder, as files: which they are, that they are safetensors, that all of them are there and whole."""

import fnmatch
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PublishError
from ..errors.words import first_few


SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
# What Trainer and Accelerate keep to go on from, pickles as well: no reader of the model needs it, and it is left behind.
TRAINING_STATE = (
    "training_args.bin",
    "optimizer*.pt",
    "optimizer*.bin",
    "scheduler*.pt",
    "scheduler*.bin",
    "scaler*.pt",
    "sampler*.bin",
    "dl_state_dict*.bin",
    "rng_state*.pth",
    "random_states_*.pkl",
    "custom_checkpoint_*.pkl",
    "ema_state.pt",
)
_LFS_POINTER = b"version https://git-lfs"
_SHOWN = 3


@dataclass(frozen=True)
class WeightFiles:
    """The files that a model's weights are read from.

    Attributes:
        files: safetensors.
        index: what says which of them has which weight; None for a single file that is read without one.
    """

    files: tuple[Path, ...]
    index: Path | None = None


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Whether a file name is one of some, `*` standing for anything, in any case."""
    return any(fnmatch.fnmatchcase(name.lower(), pattern) for pattern in patterns)


def some(names: Iterable[Any]) -> str:
    """The first few of some names, and how many more there are."""
    return first_few(sorted(map(str, names)), _SHOWN)


def check_pickles(folder: Path) -> None:
    """Refuse a folder that holds pickles other than what training keeps to go on from.

    Raises:
        PublishError: it does; whoever loads one runs whatever code its author put in.
    """
    found = [path.name for path in folder.iterdir() if path.is_file() and matches(path.name, PICKLES)]
    pickles = [name for name in found if not matches(name, TRAINING_STATE)]
    if not pickles:
        return
    if any(folder.glob("*.safetensors")):
        raise PublishError(
            f"{folder} holds pickles beside its safetensors ({some(pickles)}), and nothing says which of them is the model. "
            "Only safetensors are published, because loading a pickle runs code: move the others out of the folder."
        )
    raise PublishError(
        f"{folder} has its weights as a pickle ({some(pickles)}), which runs code when it is loaded, so only safetensors are "
        "published. Load the model and save it again with `model.save_pretrained(folder)`, which writes safetensors; for an "
        "original checkpoint of SimA there is `sima-hf convert`."
    )


def check_adapter(folder: Path) -> None:
    """Refuse a folder with a PEFT adapter, be there other weights or not.

    Transformers adds an adapter to the weights beside it when it loads them; these alone would be another model than the one that
    was checked.

    Raises:
        PublishError: there is one.
    """
    if (folder / ADAPTER).is_file():
        raise PublishError(
            f"{folder} holds a PEFT adapter ({ADAPTER}), whose weights are no part of the model's own and would not be published "
            "with them. Merge them: load the model with `peft.PeftModel.from_pretrained(model, folder)`, call "
            "`model = model.merge_and_unload()`, and publish what `model.save_pretrained(another_folder)` writes."
        )


def weights_of(folder: Path, named: str | None = None) -> WeightFiles:
    """The files that `from_pretrained` reads the weights of a folder from, each one opened and found whole.

    Args:
        folder: a model folder.
        named: file that its config names as `transformers_weights`, if it does.

    Raises:
        PublishError: there is none, one is missing, cut short or no safetensors, or the index does not fit the shards.
    """
    if named is None:
        named = SINGLE if (folder / SINGLE).is_file() or not (folder / INDEX).is_file() else INDEX
    if not (folder / named).is_file():
        raise PublishError(
            f"{folder} has no {named}, so there are no weights to publish. Save the model with `model.save_pretrained(folder)`."
        )
    if not named.endswith(".json"):
        keys_in(folder / named)
        return WeightFiles((folder / named,))
    shards = _read_index(folder / named)
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise PublishError(
            f"{folder} is not complete: {named} names {len(shards)} files of weights, of which {len(missing)} are missing "
            f"({some(missing)}). Copy the whole folder again, or save the model anew."
        )
    for name, keys in shards.items():
        there = keys_in(folder / name)
        if there != keys:
            raise PublishError(
                f"{folder / name} is of another save than {named}, which expects other weights in it "
                f"({some(there ^ keys)}). Save the model anew into an empty folder."
            )
    return WeightFiles(tuple(folder / name for name in shards), folder / named)


def read_json(path: Path) -> dict:
    """What a JSON file holds.

    Raises:
        PublishError: it is no JSON, or no mapping.
    """
    content = parse_json(path)
    if not isinstance(content, dict):
        raise PublishError(f"{path} should hold a JSON object, but holds a {type(content).__name__}.")
    return content


def parse_json(path: Path) -> Any:
    """What a file of JSON of any kind holds.

    Raises:
        PublishError: it is none.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PublishError(
            f"{path} cannot be read as JSON ({error}); it may have been written by half. Save the model anew."
        ) from error


def _read_index(path: Path) -> dict[str, set[str]]:
    """File of weights -> names of the tensors in it, in the order of the files."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise PublishError(f"{path} has no `weight_map` from the names of weights to files. Save the model anew.")
    shards: dict[str, set[str]] = {}
    for key, name in sorted(weight_map.items(), key=lambda item: item[1]):
        shards.setdefault(name, set()).add(key)
    strange = [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]
    if strange:
        raise PublishError(
            f"{path} names files that are not safetensors beside it ({some(strange)}); they are not published."
        )
    return shards


def keys_in(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file, whose header is read and held against the file's length.

    Raises:
        PublishError: the file is cut short, or no safetensors.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return set(file.keys())
    except (SafetensorError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(len(_LFS_POINTER)) == _LFS_POINTER
        if pointer:
            raise PublishError(
                f"{path} is a pointer of Git LFS, not the weights. Fetch them with `git lfs pull` first."
            ) from error
        raise PublishError(
            f"{path} is no whole safetensors file of {path.stat().st_size:,} bytes ({error}): it was cut short, or is something "
            "else. Copy it again, or save the model anew."
        ) from error


def check_loading(folder: Path, model: str, info: Mapping[str, Any]) -> None:
    """Refuse weights that are not exactly those of the model that the config describes.

    Args:
        folder: where they are.
        model: name of the class that read them.
        info: what `from_pretrained(..., output_loading_info=True)` reports.

    Raises:
        PublishError: some are missing, too many, or of other shapes.
    """
    troubles = []
    if info["missing_keys"]:
        troubles.append(f"{len(info['missing_keys'])} are missing ({some(info['missing_keys'])})")
    if info["unexpected_keys"]:
        troubles.append(f"{len(info['unexpected_keys'])} are none of its own ({some(info['unexpected_keys'])})")
    if info["mismatched_keys"]:
        shapes = [
            f"{key} is {tuple(came)} instead of {tuple(wanted)}" for key, came, wanted in info["mismatched_keys"]
        ]
        troubles.append(f"{len(shapes)} have another shape ({some(shapes)})")
    troubles += [str(message) for message in info.get("error_msgs") or ()]
    if troubles:
        raise PublishError(
            f"The weights in {folder} do not match its config.json: of those of {model}, {'; '.join(troubles)}. "
            "Save model and config together with `model.save_pretrained(folder)`."
        )


def check_finite(folder: Path, model) -> None:
    """Refuse weights that are infinite or no numbers.

    Raises:
        PublishError: some are; the text names them.
    """
    state = {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}
    strange = [name for name, tensor in state.items() if not tensor.float().isfinite().all()]
    if strange:
        raise PublishError(
            f"{len(strange)} of the {len(state)} weights in {folder} hold infinities or NaN ({some(strange)}), so the training "
            "diverged. Publish an earlier checkpoint."
        )

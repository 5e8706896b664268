"""The weights of a model folder, as files: which they are, that they are safetensors, that all of them are there and whole."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import PublishError
from ..errors.words import first_few
from .file_names import matches
from .json_files import read_json


SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle")
# What Trainer and Accelerate keep to resume from, pickles too: readers do not need it, and it is left behind.
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


def some(names: Iterable[Any]) -> str:
    """The first few of some names, and how many more there are."""
    return first_few(sorted(map(str, names)), _SHOWN)


def check_pickles(folder: Path) -> None:
    """Refuse a folder with pickles other than a training's state.

    Raises:
        PublishError: it has some; loading a pickle runs the code in it.
    """
    names = [path.name for path in folder.iterdir() if path.is_file() and matches(path.name.lower(), PICKLES)]
    pickles = [name for name in names if not matches(name.lower(), TRAINING_STATE)]
    if not pickles:
        return
    if any(folder.glob("*.safetensors")):
        raise PublishError(
            f"{folder} has pickles beside its safetensors ({some(pickles)}). Only safetensors are published, because loading a pickle "
            "runs code: move the pickles out of the folder."
        )
    raise PublishError(
        f"{folder} has its weights as a pickle ({some(pickles)}), which runs code when it is loaded, so it is not published. Load the "
        "model and save it with `model.save_pretrained(folder)`, which writes safetensors; for original SimA checkpoints there is "
        "`sima-hf convert`."
    )


def check_adapter(folder: Path) -> None:
    """Refuse a folder with a PEFT adapter: Transformers adds it to the weights beside it, which alone are another model.

    Raises:
        PublishError: there is one.
    """
    if (folder / ADAPTER).is_file():
        raise PublishError(
            f"{folder} has a PEFT adapter ({ADAPTER}), which is not published with the model. Merge it: load the model with "
            "`peft.PeftModel.from_pretrained(model, folder)`, call `model = model.merge_and_unload()`, and publish what "
            "`model.save_pretrained(another_folder)` writes."
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
        raise PublishError(f"{folder} has no {named}. Save the model with `model.save_pretrained(folder)`.")
    if not named.endswith(".json"):
        keys_in(folder / named)
        return WeightFiles((folder / named,))
    shards = _read_index(folder / named)
    missing = [name for name in shards if not (folder / name).is_file()]
    if missing:
        raise PublishError(
            f"{folder} lacks {len(missing)} of the {len(shards)} files of weights that {named} names ({some(missing)}). Copy the whole "
            "folder again, or save the model again."
        )
    for name, keys in shards.items():
        found = keys_in(folder / name)
        if found != keys:
            raise PublishError(
                f"{folder / name} does not fit {named}, which expects other weights in it ({some(found ^ keys)}). Save the model "
                "again, into an empty folder."
            )
    return WeightFiles(tuple(folder / name for name in shards), folder / named)


def _read_index(path: Path) -> dict[str, set[str]]:
    """File of weights -> names of the tensors in it, in the order of the files."""
    weight_map = read_json(path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map or not all(isinstance(v, str) for v in weight_map.values()):
        raise PublishError(f"{path} must have a `weight_map` from weights to files. Save the model again.")
    shards: dict[str, set[str]] = {}
    for key, name in sorted(weight_map.items(), key=lambda item: item[1]):
        shards.setdefault(name, set()).add(key)
    strange = [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]
    if strange:
        raise PublishError(f"The files that {path} names must be safetensors beside it, got {some(strange)}.")
    return shards


def keys_in(path: Path) -> set[str]:
    """Names of the tensors in a safetensors file, whose header is held against the file's length.

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
            raise PublishError(f"{path} is a Git LFS pointer, not the weights. Run `git lfs pull` first.") from error
        raise PublishError(
            f"{path} is not a whole safetensors file ({path.stat().st_size:,} bytes; {error}). Copy it again, or save the model again."
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
    shapes = [f"{key}: got {tuple(got)}, expected {tuple(wanted)}" for key, got, wanted in info["mismatched_keys"]]
    kinds = {"missing": info["missing_keys"], "unexpected": info["unexpected_keys"], "of another shape": shapes}
    troubles = [f"{len(keys)} {kind} ({some(keys)})" for kind, keys in kinds.items() if keys]
    troubles += map(str, info.get("error_msgs") or ())
    if troubles:
        raise PublishError(
            f"The weights in {folder} do not match its config.json: for {model}, {'; '.join(troubles)}. Save model and config together "
            "with `model.save_pretrained(folder)`."
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
            f"{len(strange)} of the {len(state)} weights in {folder} have infinities or NaN ({some(strange)}): the training diverged. "
            "Publish an earlier checkpoint."
        )

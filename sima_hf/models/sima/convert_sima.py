"""Original SimA checkpoints (UCDvision/sima) to Transformers folders, key by key and strictly."""

import argparse
import os
import re
import shutil
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

import torch
from transformers.utils import logging

from ...errors import ConversionError
from ...errors.words import first_few
from .configuration_sima import SIMA_VARIANTS, SimAConfig
from .modeling_sima import SimAForImageClassification


logger = logging.get_logger(__name__)

# Ours -> original, applied in order to every key of SimAForImageClassification. The three projections share one original
# key, their rows stacked in the order of _PROJECTIONS.
_RENAMES = (
    (r"^sima\.class_token$", "cls_token"),
    (r"^sima\.embeddings\.position_encoding\.projection\.", "pos_embeder.token_projection."),
    (
        r"^sima\.embeddings\.patch_embeddings\.layers\.(\d+)\.convolution\.",
        lambda m: f"patch_embed.proj.{2 * int(m[1])}.0.",
    ),
    (r"^sima\.embeddings\.patch_embeddings\.layers\.(\d+)\.norm\.", lambda m: f"patch_embed.proj.{2 * int(m[1])}.1."),
    (r"^sima\.class_attention_layers\.", "cls_attn_blocks."),
    (r"^sima\.layers\.", "blocks."),
    (r"^sima\.layernorm\.", "norm."),
    (r"^classifier\.", "head."),
    (r"\.layernorm_attention\.", ".norm1."),
    (r"\.layernorm_mlp\.", ".norm2."),
    (r"\.layernorm_interaction\.", ".norm3."),
    (r"\.layer_scale_attention$", ".gamma1"),
    (r"\.layer_scale_mlp$", ".gamma2"),
    (r"\.layer_scale_interaction$", ".gamma3"),
    (r"\.attention\.[qkv]_proj\.", ".attn.qkv."),
    (r"\.attention\.o_proj\.", ".attn.proj."),
    (r"\.interaction\.convolution", ".local_mp.conv"),
    (r"\.interaction\.norm\.", ".local_mp.bn."),
)
_PROJECTIONS = ("q_proj", "k_proj", "v_proj")


def convert_original_state_dict(
    original_state: Mapping[str, torch.Tensor], config: SimAConfig | None = None
) -> dict[str, torch.Tensor]:
    """Turn a state_dict of the original code into one of `SimAForImageClassification`.

    Args:
        original_state: original key -> tensor, as in the `model` entry of an original checkpoint; every tensor of the shape
            that it has there, any dtype.
        config: what the checkpoint should be. Without it the sizes are read off the tensors, so that only a gap or a
            stray can be noticed, not a missing last block.

    Returns:
        Our key -> tensor, in the dtypes of the originals. The query, key and value projections are views of the fused original.

    Raises:
        ConversionError: keys that are missing, unexpected or of another shape, each by name.
    """
    config = config or _read_sizes(original_state)
    with torch.device("meta"):
        ours = SimAForImageClassification(config).state_dict()
    stacked = {key: original_name(key) for key in ours}
    expected: dict[str, list[int]] = {}
    for key, name in stacked.items():
        shape = list(ours[key].shape)
        if name in expected:
            expected[name][0] += shape[0]
        else:
            expected[name] = shape
    _check_keys(original_state, expected)

    converted = {}
    for key, name in stacked.items():
        projection = next((i for i, part in enumerate(_PROJECTIONS) if f".{part}." in key), None)
        tensor = original_state[name]
        converted[key] = tensor if projection is None else tensor.chunk(3)[projection]
    return converted


def original_name(key: str) -> str:
    """The original code's name for one of our keys, e.g. `blocks.0.attn.qkv.weight` for three of them."""
    for pattern, replacement in _RENAMES:
        key = re.sub(pattern, replacement, key)
    return key


def convert_original_checkpoint(
    checkpoint: str | os.PathLike,
    output_dir: str | os.PathLike,
    variant: str | None = None,
    weights: str | None = None,
) -> SimAConfig:
    """Turn an original `.pth` file into a folder that `from_pretrained` and `pipeline` take.

    The file is read without unpickling code: tensors, plain containers and the original's `argparse.Namespace` only. The
    folder appears whole or not at all.

    Args:
        checkpoint: file holding `{"model": state_dict, ...}` or `{"model_ema": ...}`, or a bare state_dict.
        output_dir: folder to make; must not exist, or be empty.
        variant: name of the original model, e.g. `"sima_small_12_p16"`. Defaults to the one the checkpoint's `args` name.
        weights: `"model"` or `"model_ema"`; defaults to the first of them that the file has.

    Returns:
        The configuration that was saved, with ImageNet-1k's labels where there are 1000 classes.

    Raises:
        FileNotFoundError, FileExistsError: the checkpoint is not there, or `output_dir` already holds something.
        ConversionError: the file is not such a checkpoint, or does not match `variant`.
    """
    from .image_processing_sima import SimAImageProcessor  # needs Pillow, which the rest of this file does not

    output_dir = Path(output_dir).resolve()
    if output_dir.exists() and (not output_dir.is_dir() or any(output_dir.iterdir())):
        raise FileExistsError(f"{output_dir} already exists and is not empty; name a new folder, or remove it first.")
    original_state, settings = _read_checkpoint(Path(checkpoint), weights)
    trained_as = settings.get("model") if isinstance(settings.get("model"), str) else None
    variant = variant or trained_as
    if variant is None:
        raise ConversionError(
            f"{checkpoint} does not say which model it holds; name the variant: {', '.join(SIMA_VARIANTS)}."
        )
    config = SimAConfig.from_variant(variant, **_classes(original_state))
    if trained_as in SIMA_VARIANTS and trained_as != variant:
        logger.warning(f"{checkpoint} was trained as {trained_as}, and is converted as {variant}, as asked for.")
    image_size = settings.get("input_size") or config.image_size
    if not isinstance(image_size, int) or image_size < 1:
        raise ConversionError(
            f"{checkpoint} was trained with `input_size` {image_size!r}, which is no number of pixels."
        )
    config.image_size = image_size
    model = SimAForImageClassification(config)
    model.load_state_dict(convert_original_state_dict(original_state, config))
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}-", dir=output_dir.parent))
    try:
        model.save_pretrained(staging)
        SimAImageProcessor.for_image_size(config.image_size).save_pretrained(staging)
        staging.chmod(0o755)
        if output_dir.exists():  # empty, as was checked; it may be the current folder, which cannot be replaced
            for path in staging.iterdir():
                path.replace(output_dir / path.name)
        else:
            staging.replace(output_dir)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return config


def imagenet_1k_labels() -> list[str]:
    """The 1000 class names of ImageNet-1k in the usual order: WordNet's lemmas, the two cranes told apart."""
    return resources.files(__package__).joinpath("imagenet_1k_labels.txt").read_text(encoding="utf-8").splitlines()


def _read_checkpoint(path: Path, weights: str | None) -> tuple[Mapping[str, torch.Tensor], dict]:
    """The state_dict and the training settings of an original checkpoint."""
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder, but what is converted is an original checkpoint, a .pth file. A model in a folder is loaded as it is."
        )
    if not path.is_file():
        raise FileNotFoundError(f"There is no file {path}.")
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the reader fail in any way at all
        said = str(error).strip().partition("\n")[0]
        if len(said.split()) < 3:  # a number, perhaps, that the reader stumbled over
            said = f"it is not what torch.save writes, or damaged ({type(error).__name__})"
        refused = re.search(r"Unsupported (?:global|class|operand)[^.]*\S*|GLOBAL \S+", str(error))
        raise ConversionError(
            f"{path} could not be read as tensors and plain values: {refused[0] if refused else said}. Objects that "
            "would need code to be run are not loaded; save the state_dict alone, as torch.save(model.state_dict(), path)."
        ) from error
    if not isinstance(content, Mapping):
        raise ConversionError(f"{path} holds a {type(content).__name__}, not a state_dict or a checkpoint with one.")
    if weights is None:
        weights = next((name for name in ("model", "model_ema") if name in content), None)
    elif weights not in content:
        raise ConversionError(f"{path} has no entry {weights!r}; it has {first_few(content)}.")
    state = content if weights is None else content[weights]
    if not isinstance(state, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, torch.Tensor) for name, tensor in state.items()
    ):
        raise ConversionError(
            f"{path} holds no state_dict under 'model' or 'model_ema', nor is it one; it has {first_few(content)}."
        )
    if state and all(name.startswith("module.") for name in state):  # saved from inside DistributedDataParallel
        state = {name.removeprefix("module."): tensor for name, tensor in state.items()}
    settings = content.get("args") if weights is not None else None
    return state, dict(settings) if isinstance(settings, Mapping) else dict(getattr(settings, "__dict__", {}))


def _classes(original_state: Mapping[str, torch.Tensor]) -> dict:
    num_labels = original_state["head.weight"].shape[0] if "head.weight" in original_state else 0
    if num_labels == 1000:
        labels = imagenet_1k_labels()
        return {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    return {"num_labels": num_labels}


def _read_sizes(state: Mapping[str, torch.Tensor]) -> SimAConfig:
    """A configuration with the sizes that the tensors have. The number of heads cannot be seen, nor does it matter here."""
    try:
        hidden_size = state["cls_token"].shape[-1]
        stem = [name for name in state if re.fullmatch(r"patch_embed\.proj\.\d+\.0\.weight", name)]
        return SimAConfig(
            hidden_size=hidden_size,
            num_hidden_layers=_count(state, "blocks"),
            num_attention_heads=1,
            num_class_attention_layers=_count(state, "cls_attn_blocks"),
            mlp_ratio=state["blocks.0.mlp.fc1.weight"].shape[0] / hidden_size,
            qkv_bias="blocks.0.attn.qkv.bias" in state,
            position_encoding_hidden_size=state["pos_embeder.token_projection.weight"].shape[1] // 2,
            patch_size=8 if len(stem) == 3 else 16,
            num_channels=state["patch_embed.proj.0.0.weight"].shape[1],
            **_classes(state),
        )
    except KeyError as error:
        raise ConversionError(
            f"This is no state_dict of an original SimA model: the key {error} is missing."
        ) from None


def _count(state: Mapping[str, torch.Tensor], blocks: str) -> int:
    indices = [int(match[1]) for name in state if (match := re.match(rf"{blocks}\.(\d+)\.", name))]
    if not indices:
        raise KeyError(f"{blocks}.0.")
    return max(indices) + 1


def _check_keys(state: Mapping[str, torch.Tensor], expected: Mapping[str, list[int]]) -> None:
    problems = {
        "missing": [name for name in expected if name not in state],
        "unexpected": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} (expected {tuple(shape)}, got {tuple(state[name].shape)})"
            for name, shape in expected.items()
            if name in state and list(state[name].shape) != shape
        ],
    }
    found = [f"{len(names)} {what}: {first_few(names, most=8)}" for what, names in problems.items() if names]
    if found:
        raise ConversionError(f"The state_dict does not match the SimA model. Keys {'; '.join(found)}.")

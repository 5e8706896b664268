"""The settings of a calibration or a training as a card shows them: those that the run used, each with its file."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .results import is_number


_WORDS = {
    "num_train_epochs": "epochs",
    "epoch": "epochs",
    "max_steps": "optimizer steps",
    "global_step": "optimizer steps",
    "step": "optimizer steps",
    "per_device_train_batch_size": "images per device and micro-batch",
    "train_batch_size": "batch size",
    "world_size": "processes",
    "highest_logged_learning_rate": "highest learning rate logged",
    "train_loss": "mean loss in training",
    "train_runtime": "time, s",
    "train_seconds": "time, s",
    "train_samples_per_second": "images per second",
    "train_images": "training images",
    "validation_images": "images to choose the checkpoint by",
    "layers": "layers refitted",
    "bases": "blocks with another basis of queries and keys",
    "mlp": "MLPs refitted",
    "classifier": "classifier refitted",
    "basis": "basis of queries and keys chosen",
    "balance": "scale of value and output layer balanced",
}
# Not shown with these values, which switch it off; 1 is for numbers of processes and steps.
_OFF = dict.fromkeys(("warmup_prefix", "cooldown_epochs", "max_grad_norm", "max_steps", "bf16", "fp16"), 0)
_OFF |= {"rand_augment": "none", "gradient_accumulation_steps": 1, "world_size": 1}
# Not shown unless all of these are on: other settings, and with "=" their value, also where they are not set.
_NEEDS = {
    "warmup_epochs": ("lr_scheduler_type=cosine",),
    "warmup_prefix": ("lr_scheduler_type=cosine", "warmup_epochs"),
    "cooldown_epochs": ("lr_scheduler_type=cosine",),
    "warmup_learning_rate": ("lr_scheduler_type=cosine", "warmup_epochs"),
    "min_learning_rate": ("lr_scheduler_type=cosine",),
    "min_crop_area": ("train_view=crop",),
    "horizontal_flip": ("train_view=crop",),
    "max_shift": ("train_view=shift",),
    "mixup_switch_prob": ("mixup", "cutmix"),
    "ema_warmup": ("ema_decay",),
    "eval_weights": ("ema_decay",),
    "save_weights": ("ema_decay",),
}
_DEFAULTS = {"lr_scheduler_type": "cosine", "train_view": "crop", "warmup_epochs": 1, "rand_augment": "none"}
UNEXPLAINED = ("unexplained_before", "unexplained_after")


def settings_rows(found: Iterable[tuple[Mapping[str, Any], Path]]) -> dict[str, Any] | None:
    """Settings as rows of a table; what two files say alike, once.

    Args:
        found: settings, each with their file.

    Returns:
        "rows" with "name", "value" and "file" (None in the main file), "main", the file of most rows, and "others", whether there are
        others; None if there is nothing to show.
    """
    rows: dict[tuple[str, str], tuple[Any, Path]] = {}
    for settings, path in found:
        for name, value in settings.items():
            shown = _WORDS.get(name, name.replace("_", " "))
            if name not in UNEXPLAINED and _used(name, settings):
                rows.setdefault((shown, str(value)), (value, path))
    files = [path for _, path in rows.values()]
    if not files:
        return None
    main = max(dict.fromkeys(files), key=files.count)
    shown = [
        {"name": name, "value": value, "file": None if path == main else path}
        for (name, _), (value, path) in rows.items()
    ]
    return {"rows": shown, "main": main, "others": len(set(files)) > 1}


def _used(name: str, settings: Mapping[str, Any]) -> bool:
    """Whether a run with these settings used one of them; one that is not known here was used."""
    if name in _OFF and settings[name] == _OFF[name]:
        return False
    if name == "num_train_epochs":
        return not settings.get("max_steps")
    if name == "color_jitter":  # RandAugment takes its place unless both are asked for
        return _value("rand_augment", settings) == "none" or bool(settings.get("color_jitter_with_rand_augment"))
    if name == "color_jitter_with_rand_augment":
        return False
    for need in _NEEDS.get(name, ()):
        other, _, wanted = need.partition("=")
        if _value(other, settings) != wanted if wanted else not _value(other, settings):
            return False
    return True


def _value(name: str, settings: Mapping[str, Any]) -> Any:
    return settings.get(name, _DEFAULTS.get(name))


def shown_share(value: Any) -> str:
    """A share of variance with the digits that count; "" if it is no number."""
    return "" if not is_number(value) else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"

"""The sections of a card on how the weights came about: calibration and training, as far as files say it."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from .markdown import cell, link, table
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
    "train_images": "images trained on",
    "validation_images": "images to choose the checkpoint by",
    "layers": "layers refitted",
    "bases": "blocks with another basis of queries and keys",
    "mlp": "MLPs refitted",
    "classifier": "classifier refitted",
    "basis": "basis of queries and keys chosen",
    "balance": "scale of value and output layer balanced",
}
_UNEXPLAINED = ("unexplained_before", "unexplained_after")


def _cropped(one: Mapping[str, Any]) -> bool:
    return one.get("train_view", "crop") == "crop"


def _scheduled(one: Mapping[str, Any]) -> bool:
    """Whether it is the recipe's own schedule, which has warm-up and cooldown by epochs."""
    return one.get("lr_scheduler_type", "cosine") == "cosine"


# Setting -> whether a run with these settings used it; one that is not here was used.
_USED: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "num_train_epochs": lambda one: not one.get("max_steps"),
    "gradient_accumulation_steps": lambda one: one["gradient_accumulation_steps"] != 1,
    "world_size": lambda one: one["world_size"] != 1,
    "warmup_epochs": _scheduled,
    "warmup_prefix": lambda one: _scheduled(one) and bool(one["warmup_prefix"]) and bool(one.get("warmup_epochs", 1)),
    "cooldown_epochs": lambda one: _scheduled(one) and bool(one["cooldown_epochs"]),
    "warmup_learning_rate": lambda one: _scheduled(one) and bool(one.get("warmup_epochs", 1)),
    "min_learning_rate": _scheduled,
    "max_grad_norm": lambda one: bool(one["max_grad_norm"]),
    "min_crop_area": _cropped,
    "horizontal_flip": _cropped,
    "max_shift": lambda one: not _cropped(one),
    "rand_augment": lambda one: one["rand_augment"] != "none",
    "color_jitter": lambda one: (
        one.get("rand_augment", "none") == "none" or bool(one.get("color_jitter_with_rand_augment"))
    ),
    "color_jitter_with_rand_augment": lambda one: False,  # the row of the jitter says it
    "mixup_switch_prob": lambda one: bool(one.get("mixup") and one.get("cutmix")),
    "ema_warmup": lambda one: bool(one.get("ema_decay")),
    "eval_weights": lambda one: bool(one.get("ema_decay")),
    "save_weights": lambda one: bool(one.get("ema_decay")),
    "bf16": lambda one: bool(one["bf16"]),
    "fp16": lambda one: bool(one["fp16"]),
}


def origin_section(calibration: tuple[Mapping, Path] | None, training: Iterable[tuple[Mapping, Path]]) -> str:
    """Calibration, then training: the settings that were used, each with its file; what two files say alike, once."""
    parts = []
    if calibration:
        facts, file = calibration
        parts += [
            "## Calibration",
            "Linear layers behind the attention were refitted in closed form from unlabelled images, so that the swapped model "
            f"follows the softmax model it was made from; no gradient, no new parameter.{_fit(facts)}",
            *_settings([({name: value for name, value in facts.items() if name not in _UNEXPLAINED}, file)]),
        ]
    if settings := _settings(training):
        parts += ["## Training", *settings]
    return "\n\n".join(parts)


def _fit(facts: Mapping[str, Any]) -> str:
    """How far the refitted layers were from softmax's, and are."""
    shares = [(when, facts.get(name)) for when, name in zip(("before", "after"), _UNEXPLAINED, strict=True)]
    told = [(when, f"{value:,.0f}" if value >= 100 else f"{value:.3g}") for when, value in shares if is_number(value)]
    if not told:
        return ""
    (when, value), *more = told
    rest = "".join(f"; {later}, {share} of it" for later, share in more)
    return f" {when.capitalize()} the fit, the error was {value} times the variance of softmax's output{rest} (mean over the layers)."


def _settings(found: Iterable[tuple[Mapping, Path]]) -> list[str]:
    """A line that names the file, and the table; what another file says has that beside it."""
    rows: dict[tuple[str, str], str] = {}
    for settings, path in found:
        for name, value in settings.items():
            if name not in _USED or _USED[name](settings):
                rows.setdefault((cell(_WORDS.get(name, name.replace("_", " "))), cell(value)), link(path))
    files = list(rows.values())
    if not files:
        return []
    main = max(dict.fromkeys(files), key=files.count)
    if len(set(files)) == 1:
        return [f"From {main}:", table(("", ""), rows)]
    shown = [(*row, "" if file == main else file) for row, file in rows.items()]
    return [f"From {main}, where no other file is named:", table(("", "", "file"), shown)]

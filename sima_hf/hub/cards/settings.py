"""Settings of a calibration or a training as a card shows them: only those that the run used."""

from collections.abc import Mapping
from typing import Any


# Not shown with these values, which switch it off; 1 is for numbers of processes and steps.
_OFF = dict.fromkeys(("warmup_prefix", "cooldown_epochs", "max_grad_norm", "max_steps", "bf16", "fp16"), 0)
_OFF |= {"rand_augment": "none", "gradient_accumulation_steps": 1, "world_size": 1}
# Not shown unless all of these are on: other settings, and with "=" their value, also where they are not set.
_COSINE, _CROP, _AVERAGED = ("lr_scheduler_type=cosine",), ("train_view=crop",), ("ema_decay",)
_NEEDS = {
    **dict.fromkeys(("warmup_epochs", "cooldown_epochs", "min_learning_rate"), _COSINE),
    **dict.fromkeys(("warmup_prefix", "warmup_learning_rate"), (*_COSINE, "warmup_epochs")),
    **dict.fromkeys(("min_crop_area", "horizontal_flip"), _CROP),
    "max_shift": ("train_view=shift",),
    "mixup_switch_prob": ("mixup", "cutmix"),
    **dict.fromkeys(("ema_warmup", "eval_weights", "save_weights"), _AVERAGED),
}
_DEFAULTS = {"lr_scheduler_type": "cosine", "train_view": "crop", "warmup_epochs": 1, "rand_augment": "none"}
# What a card says in a sentence of its own, or with another setting.
_NO_ROWS = ("unexplained_before", "unexplained_after", "held_out_agreement", "held_out_cosine", "warning")
_NO_ROWS += ("color_jitter_with_rand_augment",)


def used_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that a run with all of these used, by the names of its arguments; one that is not known here was used."""
    return {name: value for name, value in settings.items() if name not in _NO_ROWS and _used(name, settings)}


def _used(name: str, settings: Mapping[str, Any]) -> bool:
    if name in _OFF and settings[name] == _OFF[name]:
        return False
    if name == "num_train_epochs":
        return not settings.get("max_steps")
    if name == "color_jitter":  # RandAugment takes its place unless both are asked for
        return _value("rand_augment", settings) == "none" or bool(settings.get("color_jitter_with_rand_augment"))
    for need in _NEEDS.get(name, ()):
        other, _, wanted = need.partition("=")
        if _value(other, settings) != wanted if wanted else not _value(other, settings):
            return False
    return True


def _value(name: str, settings: Mapping[str, Any]) -> Any:
    return settings.get(name, _DEFAULTS.get(name))

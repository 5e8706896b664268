"""Only the settings that a run used are shown."""

import pytest

from sima_hf.folders.provenance import training_settings
from sima_hf.hub.cards.settings import used_settings
from sima_hf.training.arguments import LoopArguments


def test_the_defaults_of_a_run():
    """Those of the scripts: crop, RandAugment, mixup with CutMix, averaged weights."""
    shown = set(used_settings(training_settings(LoopArguments(output_dir="x"))))
    assert {"min_crop_area", "rand_augment", "mixup_switch_prob", "ema_decay", "warmup_learning_rate"} <= shown
    assert not {"max_shift", "color_jitter", "color_jitter_with_rand_augment"} & shown
    assert not {"max_steps", "gradient_accumulation_steps", "max_grad_norm"} & shown


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"train_view": "shift", "min_crop_area": 0.1, "horizontal_flip": 0.5, "max_shift": 0.1}, {"max_shift"}),
        ({"train_view": "crop", "min_crop_area": 0.1, "max_shift": 0.1}, {"min_crop_area"}),
        ({"rand_augment": "m9", "color_jitter": 0.4}, {"rand_augment"}),
        (
            {"rand_augment": "m9", "color_jitter": 0.4, "color_jitter_with_rand_augment": True},
            {"rand_augment", "color_jitter"},
        ),
        ({"rand_augment": "none", "color_jitter": 0.4}, {"color_jitter"}),
        ({"mixup": 0.8, "cutmix": 0.0, "mixup_switch_prob": 0.5}, {"mixup", "cutmix"}),
        ({"ema_decay": 0.0, "ema_warmup": True, "eval_weights": "ema", "save_weights": "ema"}, {"ema_decay"}),
        ({"max_steps": 9, "num_train_epochs": 3}, {"max_steps"}),
        ({"lr_scheduler_type": "linear", "warmup_epochs": 5, "min_learning_rate": 1e-5}, {"lr_scheduler_type"}),
        ({"warmup_epochs": 0, "warmup_learning_rate": 1e-6}, {"warmup_epochs"}),
        ({"bf16": False, "fp16": True, "world_size": 1}, {"fp16"}),
        ({"images": 48, "unexplained_after": 0.1, "warning": "few"}, {"images"}),  # these have their sentences
        ({"something_new": 0}, {"something_new"}),
    ],
)
def test_what_a_run_did_not_use_is_not_told(settings, shown):
    assert set(used_settings(settings)) - {"train_view"} == shown

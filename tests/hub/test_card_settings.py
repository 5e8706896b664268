"""The sections on calibration and training: one link to a file, and only the settings that a run used."""

from pathlib import Path

import pytest

from sima_hf.folders.provenance import training_settings
from sima_hf.hub.cards.settings import settings_rows, shown_share
from sima_hf.training.arguments import LoopArguments


FILE, OTHER = Path("sima_provenance.json"), Path("all_results.json")


def rows(settings):
    return {row["name"] for row in settings_rows([(settings, FILE)])["rows"]}


def test_the_defaults_of_a_run():
    """Those of the scripts: crop, RandAugment, mixup with CutMix, averaged weights."""
    shown = rows(training_settings(LoopArguments(output_dir="x")))
    assert {"min crop area", "rand augment", "mixup switch prob", "ema decay", "warmup learning rate"} <= shown
    assert not {"max shift", "color jitter", "color jitter with rand augment"} & shown
    assert not {"optimizer steps", "max steps", "gradient accumulation steps", "max grad norm"} & shown


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({"train_view": "shift", "min_crop_area": 0.1, "horizontal_flip": 0.5, "max_shift": 0.1}, {"max shift"}),
        ({"train_view": "crop", "min_crop_area": 0.1, "max_shift": 0.1}, {"min crop area"}),
        ({"rand_augment": "m9", "color_jitter": 0.4}, {"rand augment"}),
        (
            {"rand_augment": "m9", "color_jitter": 0.4, "color_jitter_with_rand_augment": True},
            {"rand augment", "color jitter"},
        ),
        ({"rand_augment": "none", "color_jitter": 0.4}, {"color jitter"}),
        ({"color_jitter": 0.4, "color_jitter_with_rand_augment": False}, {"color jitter"}),
        ({"mixup": 0.8, "cutmix": 0.0, "mixup_switch_prob": 0.5}, {"mixup", "cutmix"}),
        ({"ema_decay": 0.0, "ema_warmup": True, "eval_weights": "ema", "save_weights": "ema"}, {"ema decay"}),
        ({"max_steps": 9, "num_train_epochs": 3}, {"optimizer steps"}),
        ({"lr_scheduler_type": "linear", "warmup_epochs": 5, "min_learning_rate": 1e-5}, {"lr scheduler type"}),
        ({"warmup_epochs": 0, "warmup_learning_rate": 1e-6}, {"warmup epochs"}),
        (
            {"bf16": False, "fp16": True, "world_size": 1, "gradient_accumulation_steps": 2},
            {"fp16", "gradient accumulation steps"},
        ),
        ({"something_new": 0}, {"something new"}),
    ],
)
def test_what_a_run_did_not_use_is_not_told(settings, shown):
    assert rows(settings) - {"train view"} == shown


def test_the_main_file_is_named_once_and_others_beside_what_they_say():
    found = [({"seed": 1, "epochs": 3, "learning_rate": 0.1}, FILE), ({"epochs": 3, "step": 9}, OTHER)]
    table = settings_rows(found)
    assert (table["main"], table["others"]) == (FILE, True)
    assert [(row["name"], row["file"]) for row in table["rows"]] == [
        ("seed", None),
        ("epochs", None),
        ("learning rate", None),
        ("optimizer steps", OTHER),
    ]
    assert not settings_rows([({"seed": 1}, FILE)])["others"]
    assert settings_rows([]) is settings_rows([({}, FILE)]) is None


@pytest.mark.parametrize(
    ("value", "shown"), [(12.271, "12.3"), (0.1286, "0.129"), (1234.5, "1,234"), ("x", ""), (None, "")]
)
def test_shares_have_the_digits_that_count(value, shown):
    assert shown_share(value) == shown
    assert [row["name"] for row in settings_rows([({"images": 48, "unexplained_after": value}, FILE)])["rows"]] == [
        "images"
    ]

"""The sections on calibration and training: one link to a file, and only the settings that a run used."""

from pathlib import Path

import pytest

from sima_hf.folders.provenance import training_settings
from sima_hf.hub.cards.origin import origin_section
from sima_hf.training.arguments import LoopArguments


FILE, OTHER = Path("sima_provenance.json"), Path("all_results.json")
LINK = "[sima_provenance.json](sima_provenance.json)"


def rows(settings):
    text = origin_section(None, [(settings, FILE)])
    return {row.split(" | ")[0].removeprefix("| ") for row in text.split("\n") if row.startswith("| ")} - {"", " "}


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


def test_the_file_is_named_once_and_others_beside_what_they_say():
    text = origin_section(
        None, [({"seed": 1, "epochs": 3, "learning_rate": 0.1}, FILE), ({"epochs": 3, "step": 9}, OTHER)]
    )
    assert text.startswith(f"## Training\n\nFrom {LINK}, where no other file is named:\n\n|  |  | file |\n")
    assert "| seed | 1 |  |\n" in text
    assert "| optimizer steps | 9 | [all_results.json](all_results.json) |" in text
    assert text.count("| epochs |") == text.count(LINK) == 1
    alone = origin_section(None, [({"seed": 1}, FILE)])
    assert alone == f"## Training\n\nFrom {LINK}:\n\n|  |  |\n|---|---|\n| seed | 1 |"
    assert origin_section(None, []) == origin_section(None, [({}, FILE)]) == ""


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        (
            {"unexplained_before": 12.271, "unexplained_after": 0.1286},
            "Before the fit, the error was 12.3 times the variance of softmax's output; after, 0.129 of it (mean over the layers).",
        ),
        ({"unexplained_after": 0.1286}, "After the fit, the error was 0.129 times the variance of softmax's output"),
        ({"unexplained_before": 1234.5}, "Before the fit, the error was 1,234 times the variance of softmax's output"),
        ({"unexplained_before": "x"}, "no new parameter.\n\nFrom"),
    ],
)
def test_how_far_the_fit_was_off_is_said_in_words(facts, words):
    text = origin_section(({"images": 48, **facts}, FILE), [])
    assert words in text
    assert "unexplained" not in text
    assert f"From {LINK}:\n\n|  |  |\n|---|---|\n| images | 48 |" in text

"""The recipe's arguments: defaults of the original, limits, and what they make of a run."""

import pytest
import torch

from sima_hf.training.arguments import LoopArguments, SimATrainingArguments
from sima_hf.training.recipe import augmentation_of, average_warms_up, rate_of, schedule_of, warmup_and_cooldown


def arguments(tmp_path, **changes):
    return LoopArguments(output_dir=str(tmp_path), **changes)


def test_defaults_are_the_original_scripts(tmp_path):
    """UCDvision/sima main.py: 400 epochs, 5e-4 for 512 images, AdamW 0.05, RandAugment m9, mixup 0.8, cutmix 1.0, ..."""
    for args in (arguments(tmp_path), SimATrainingArguments(output_dir=str(tmp_path), use_cpu=True)):
        assert (args.num_train_epochs, args.warmup_epochs, args.cooldown_epochs) == (400, 5, 10)
        assert (args.learning_rate, args.warmup_learning_rate, args.min_learning_rate) == (5e-4, 1e-6, 1e-5)
        assert (args.weight_decay, args.max_grad_norm, args.label_smoothing_factor) == (0.05, 0.0, 0.1)
        assert (args.mixup, args.cutmix, args.mixup_switch_prob) == (0.8, 1.0, 0.5)
        assert (args.rand_augment, args.color_jitter, args.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.4, 0.25)
        assert (args.repeated_augmentation, args.ema_decay) == (3, 0.99996)
        assert rate_of(args, args.learning_rate, 1024) == pytest.approx(1e-3)


def test_the_trainer_takes_the_cosine(tmp_path):
    assert SimATrainingArguments(output_dir=str(tmp_path)).lr_scheduler_type == "cosine"


def test_rates_stay_as_they_are_on_request(tmp_path):
    assert rate_of(arguments(tmp_path, scale_learning_rate=False), 3e-4, 1024) == 3e-4


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(4000, (50, 100)), (300, (50, 100)), (60, (10, 20)), (3, (0, 0)), (1, (0, 0))],
)
def test_warm_up_and_cooldown_take_half_of_a_short_run_at_most(steps, expected, tmp_path):
    assert warmup_and_cooldown(arguments(tmp_path), steps, steps_per_epoch=10) == expected


@pytest.mark.parametrize(
    ("decay", "steps", "warms_up"),
    [(0.99996, 40, True), (0.99996, 74_000, True), (0.99996, 76_000, False), (0.9, 20, True), (0.9, 40, False)],
)
def test_the_average_of_a_short_run_is_not_where_it_began(decay, steps, warms_up, tmp_path, caplog):
    """Of ImageNet's 400 epochs of 1,251 steps nothing is left of the start; of a fine-tuning, nearly all would be."""
    args = arguments(tmp_path, ema_decay=decay)
    assert average_warms_up(args, steps) is warms_up
    assert ("would still be those of its beginning" in caplog.text) == warms_up
    for given in (True, False):
        assert average_warms_up(arguments(tmp_path, ema_decay=decay, ema_warmup=given), steps) is given


def test_the_schedule_in_numbers(tmp_path):
    args = arguments(tmp_path, warmup_epochs=1, cooldown_epochs=1, learning_rate=1e-2, min_learning_rate=1e-3)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate_of(args, args.learning_rate, 256))
    schedule, rates = schedule_of(args, optimizer, steps=60, steps_per_epoch=10, global_batch_size=256), []
    for _ in range(60):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    assert rates[0] == pytest.approx(0.5e-6)
    assert rates[10] == pytest.approx(5e-3)
    assert rates[30] == pytest.approx((5e-3 + 5e-4) / 2)
    assert rates[50:] == pytest.approx([5e-4] * 10)
    assert rates[10:50] == sorted(rates[10:50], reverse=True)


def test_everything_can_be_switched_off(tmp_path):
    args = arguments(
        tmp_path, rand_augment="none", color_jitter=0, random_erasing=0, mixup=0, cutmix=0, label_smoothing_factor=0
    )
    pixels = torch.randint(0, 256, (3, 3, 9, 7), dtype=torch.uint8)
    found, targets = augmentation_of(args, [0.5] * 3, [0.25] * 3, 4)(pixels, torch.tensor([0, 3, 1]), torch.arange(3))
    torch.testing.assert_close(found, (pixels / 255 - 0.5) / 0.25)
    assert torch.equal(targets, torch.eye(4)[[0, 3, 1]])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train_view": "zoom"}, "--train_view must be one of crop, shift, but 'zoom' came"),
        ({"eval_weights": "mean"}, "--eval_weights must be one of ema, raw, both"),
        ({"save_weights": "both"}, "--save_weights must be one of ema, raw, but 'both' came"),
        ({"ema_decay": 1.0}, "--ema_decay must be at least 0 and less than 1, but 1.0 came"),
        ({"random_erasing": 1.5}, "--random_erasing must be from 0 to 1"),
        ({"mixup": -1.0}, "--mixup must not be negative, but -1.0 came"),
        ({"repeated_augmentation": 0}, "--repeated_augmentation must be 1 or more"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps must be 1 or more"),
        ({"min_crop_area": 0.0}, "--min_crop_area must be above 0"),
        ({"output_dir": None}, "--output_dir FOLDER"),
    ],
)
def test_what_no_run_can_be_made_of_is_said(changes, words, tmp_path):
    for kind in (LoopArguments, SimATrainingArguments):
        with pytest.raises(ValueError, match=words):
            kind(**{"output_dir": str(tmp_path), **changes})


def test_which_weights_are_evaluated(tmp_path):
    assert arguments(tmp_path).evaluated_weights == ("ema",)
    assert arguments(tmp_path, eval_weights="both").evaluated_weights == ("ema", "raw")
    assert arguments(tmp_path, eval_weights="raw").evaluated_weights == ("raw",)
    assert arguments(tmp_path, eval_weights="both", ema_decay=0).evaluated_weights == ("raw",)

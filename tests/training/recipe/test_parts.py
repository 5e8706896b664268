"""The recipe's arguments: defaults of the original, limits, and what they make of a run."""

import functools
import math

import pytest
import torch
from accelerate import PartialState
from transformers import TrainingArguments

from sima_hf.training.arguments import LoopArguments, SimATrainingArguments
from sima_hf.training.recipe.parts import (
    augmentation_of,
    average_warms_up,
    scaled_lr,
    schedule_of,
    warmup_and_cooldown,
)


def arguments(tmp_path, **changes):
    return LoopArguments(output_dir=str(tmp_path), **changes)


def test_defaults_are_the_original_scripts(tmp_path):
    """UCDvision/sima main.py: 400 epochs, 5e-4 for 512 images, AdamW 0.05, RandAugment m9, mixup 0.8, cutmix 1.0, ..."""
    for args in (arguments(tmp_path), SimATrainingArguments(output_dir=str(tmp_path), use_cpu=True)):
        assert (args.num_train_epochs, args.warmup_epochs) == (400, 5)
        assert (
            args.cooldown_epochs == 0
        )  # main.py has the argument, but its loop ends after 400 epochs, where the cosine ends
        assert (args.eval_weights, args.save_weights) == (
            "raw",
            "raw",
        )  # main.py evaluates `model`, and stores model_ema beside
        assert (args.learning_rate, args.warmup_learning_rate, args.min_learning_rate) == (5e-4, 1e-6, 1e-5)
        assert (args.weight_decay, args.max_grad_norm, args.label_smoothing_factor) == (0.05, 0.0, 0.1)
        assert (args.mixup, args.cutmix, args.mixup_switch_prob) == (0.8, 1.0, 0.5)
        assert (args.rand_augment, args.color_jitter, args.random_erasing) == ("rand-m9-mstd0.5-inc1", 0.4, 0.25)
        assert (args.repeated_augmentation, args.ema_decay) == (3, 0.99996)
        assert scaled_lr(args, 1024) == pytest.approx(1e-3)


def rates_of(args, global_batch_size, steps, steps_per_epoch):
    rate = scaled_lr(args, global_batch_size)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=rate)
    schedule, rates = schedule_of(args, optimizer, steps, steps_per_epoch, global_batch_size), []
    for _ in range(steps + 1):
        rates.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.parametrize("images", [256, 1024, 4096])
def test_the_rates_of_400_epochs_are_the_original_scripts(images, tmp_path):
    """main.py scales the peak alone and runs `range(400)`; timm's cosine (0.4.9) has its warm-up inside its 400 epochs."""
    peak = 5e-4 * images / 512
    for epoch, rate in enumerate(rates_of(arguments(tmp_path), images, steps=400, steps_per_epoch=1)):
        warm_up = 1e-6 + epoch * (peak - 1e-6) / 5
        cosine = 1e-5 + 0.5 * (peak - 1e-5) * (1 + math.cos(math.pi * epoch / 400))
        assert rate == pytest.approx(warm_up if epoch < 5 else cosine, rel=1e-9), epoch


def test_a_rate_scaled_below_the_smallest_stays_where_it_is(tmp_path, caplog):
    """As a try of the ImageNet recipe with four images a step has it; a rate given too low is a mistake."""
    rates = rates_of(arguments(tmp_path, warmup_epochs=0), 4, steps=20, steps_per_epoch=10)
    assert rates == pytest.approx([5e-4 * 4 / 512] * 21)
    assert "With 4 images a step the highest learning rate is 3.91e-06, below --min_learning_rate 1e-05" in caplog.text
    with pytest.raises(ValueError, match=r"min_lr \(1e-05\) must not exceed .* got 1e-06"):
        rates_of(arguments(tmp_path, learning_rate=1e-6, scale_learning_rate=False), 4, steps=20, steps_per_epoch=10)


def test_the_trainer_takes_the_cosine(tmp_path):
    assert SimATrainingArguments(output_dir=str(tmp_path)).lr_scheduler_type == "cosine"


def test_rates_stay_as_they_are_on_request(tmp_path):
    assert scaled_lr(arguments(tmp_path, scale_learning_rate=False, learning_rate=3e-4), 1024) == 3e-4


@pytest.mark.parametrize(
    ("steps", "expected"),
    [(4000, (50, 100)), (300, (50, 100)), (60, (10, 20)), (3, (0, 0)), (1, (0, 0))],
)
def test_warm_up_and_cooldown_take_half_of_a_short_run_at_most(steps, expected, tmp_path):
    assert warmup_and_cooldown(arguments(tmp_path, cooldown_epochs=10), steps, steps_per_epoch=10) == expected


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


def test_a_cosine_behind_the_warm_up_with_a_cooldown_in_numbers(tmp_path):
    settings = {"warmup_epochs": 1, "warmup_prefix": True, "cooldown_epochs": 1}
    args = arguments(tmp_path, **settings, learning_rate=1e-2, min_learning_rate=1e-3)
    rates = rates_of(args, 256, steps=60, steps_per_epoch=10)
    assert rates[0] == pytest.approx(1e-6)
    assert rates[10] == pytest.approx(5e-3)
    assert rates[30] == pytest.approx((5e-3 + 1e-3) / 2)
    assert rates[50:] == pytest.approx([1e-3] * 11)
    assert rates[10:50] == sorted(rates[10:50], reverse=True)


def test_one_process_with_several_gpus_takes_one_and_says_how_to_use_them_all(tmp_path, monkeypatch, caplog):
    """In place of Transformers' DataParallel, with which a batch of 8 would be one of 32."""

    def find_gpus(self):
        self.distributed_state, self._n_gpu = PartialState(cpu=True), 4
        return torch.device("cpu")

    devices = functools.cached_property(find_gpus)
    devices.__set_name__(TrainingArguments, "_setup_devices")
    monkeypatch.setattr(TrainingArguments, "_setup_devices", devices)
    args = SimATrainingArguments(output_dir=str(tmp_path), per_device_train_batch_size=8)
    assert (args.n_gpu, args.train_batch_size) == (1, 8)
    assert "There are 4 GPUs and one process" in caplog.text
    assert "accelerate launch --num_processes 4" in caplog.text


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
        ({"train_view": "zoom"}, "--train_view must be one of crop, shift, got 'zoom'"),
        ({"eval_weights": "mean"}, "--eval_weights must be one of ema, raw, both"),
        ({"save_weights": "both"}, "--save_weights must be one of ema, raw, got 'both'"),
        ({"ema_decay": 1.0}, "--ema_decay must be at least 0 and less than 1, got 1.0"),
        ({"random_erasing": 1.5}, "--random_erasing must be from 0 to 1"),
        ({"mixup": -1.0}, "--mixup must not be negative, got -1.0"),
        ({"repeated_augmentation": 0}, "--repeated_augmentation must be 1 or more"),
        ({"gradient_accumulation_steps": 0}, "--gradient_accumulation_steps must be 1 or more"),
        ({"min_crop_area": 0.0}, "--min_crop_area must be above 0"),
        ({"output_dir": None}, "--output_dir must name"),
    ],
)
def test_what_no_run_can_be_made_of_is_said(changes, words, tmp_path):
    for kind in (LoopArguments, SimATrainingArguments):
        with pytest.raises(ValueError, match=words):
            kind(**{"output_dir": str(tmp_path), **changes})


def test_which_weights_are_evaluated(tmp_path):
    assert arguments(tmp_path).evaluated_weights == ("raw",)
    assert arguments(tmp_path, eval_weights="ema").evaluated_weights == ("ema",)
    assert arguments(tmp_path, eval_weights="both").evaluated_weights == ("ema", "raw")
    assert arguments(tmp_path, eval_weights="raw").evaluated_weights == ("raw",)
    assert arguments(tmp_path, eval_weights="both", ema_decay=0).evaluated_weights == ("raw",)

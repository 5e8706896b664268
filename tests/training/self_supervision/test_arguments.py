"""What no DINO run can be made of ends in a sentence that names the argument."""

import pytest

from sima_hf.training.self_supervision.arguments import DINOTrainingArguments


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"mixup": 0.8}, "--mixup has no use in DINO, got 0.8; leave it out"),
        ({"rand_augment": "rand-m9-mstd0.5-inc1"}, "--rand_augment has no use in DINO"),
        ({"eval_strategy": "epoch"}, "--eval_strategy must be 'no', got 'epoch': .*--protocol knn"),
        ({"crop_split": 0.04}, r"--crop_split must be above --min_crop_area \(0.05\) and below 1, got 0.04"),
        ({"teacher_temperature": 0.0}, "--teacher_temperature must be above 0, got 0.0"),
        ({"out_dim": 0}, "--out_dim must be above 0, got 0"),
        ({"local_crops": -1}, "--local_crops must be 0 or more, got -1"),
        ({"center_momentum": 1.5}, "--center_momentum must be from 0 to 1, got 1.5"),
        ({"ema_decay": 0}, r"--ema_decay must be above 0 and at most --ema_decay_end \(1.0\), got 0"),
        ({"weight_decay": 0.0}, "--weight_decay must be above 0 where --weight_decay_end is given, got 0.0 and 0.4"),
        ({"output_dir": None}, "--output_dir must name the folder"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_arguments_that_no_run_can_have(given, words):
    with pytest.raises(ValueError, match=words):
        DINOTrainingArguments(**{"output_dir": "x", **given})


def test_the_defaults_are_the_papers():
    args = DINOTrainingArguments("x")
    assert (args.learning_rate, args.weight_decay, args.weight_decay_end) == (2 * 5e-4, 0.04, 0.4)  # at 512 images
    assert (args.ema_decay, args.ema_decay_end, args.center_momentum) == (0.996, 1.0, 0.9)
    assert (args.out_dim, args.head_hidden_dim, args.head_bottleneck_dim) == (65536, 2048, 256)
    assert (args.local_crops, args.local_crop_size, args.crop_split, args.min_crop_area) == (8, 96, 0.4, 0.05)
    assert args.rand_augment is None

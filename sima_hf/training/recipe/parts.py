"""The recipe's parts, made from its arguments for one run: augmentation, learning rates, schedule, seeds."""

import torch
from transformers.utils import logging

from ...data.randomness import combine
from ..arguments import RecipeArguments
from .augmentation import BatchAugmentation
from .optimization import cosine_schedule


logger = logging.get_logger(__name__)
MOST_OF_THE_START = 0.05  # share of an average that may be the weights which a run began with


def augmentation_of(
    args: RecipeArguments, image_mean: list[float], image_std: list[float], num_labels: int
) -> BatchAugmentation:
    """What is done to a training batch on the device."""
    return BatchAugmentation(
        image_mean,
        image_std,
        num_labels=num_labels,
        rand_augment=args.rand_augment,
        color_jitter=args.color_jitter,
        color_jitter_with_rand_augment=args.color_jitter_with_rand_augment,
        random_erasing=args.random_erasing,
        mixup=args.mixup,
        cutmix=args.cutmix,
        mixup_switch_prob=args.mixup_switch_prob,
        label_smoothing=args.label_smoothing_factor,
    )


def scaled_lr(args: RecipeArguments, global_batch_size: int) -> float:
    """`--learning_rate` for optimizer steps of `global_batch_size` images; the other rates do not change with the batch.

    Scaled linearly, `lr x global_batch_size / 512` (Goyal et al., arXiv 1706.02677; the base batch is DeiT's).
    """
    return args.learning_rate * (global_batch_size / 512 if args.scale_learning_rate else 1)


def schedule_of(
    args: RecipeArguments, optimizer: torch.optim.Optimizer, steps: int, steps_per_epoch: int, global_batch_size: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm-up, cosine and, if any, cooldown over a run of `steps` optimizer steps."""
    warmup, cooldown = warmup_and_cooldown(args, steps, steps_per_epoch)
    return cosine_schedule(
        optimizer,
        steps,
        warmup_steps=warmup,
        cooldown_steps=cooldown,
        warmup_lr=args.warmup_learning_rate,
        min_lr=_lowest_rate(args, global_batch_size),
        warmup_prefix=args.warmup_prefix,
    )


def _lowest_rate(args: RecipeArguments, global_batch_size: int) -> float:
    """`--min_learning_rate`, or the highest rate where few images a step have scaled that one below it, which is said."""
    peak, lowest = scaled_lr(args, global_batch_size), args.min_learning_rate
    if peak >= lowest or args.learning_rate < lowest:
        return lowest
    logger.warning(
        f"With {global_batch_size} images a step the highest learning rate is {peak:.3g}, below --min_learning_rate {lowest:.3g}, so it "
        "does not fall. Lower that one, raise --learning_rate, or keep rates as they are given: --scale_learning_rate False."
    )
    return peak


def average_warms_up(args: RecipeArguments, steps: int) -> bool:
    """Whether the average of the weights takes fewer steps in the beginning of a run of `steps` optimizer steps; said if chosen here.

    Without it, `decay ** steps` of what is evaluated and saved in the end is where the run began.
    """
    if args.ema_warmup is not None:
        return args.ema_warmup
    left = args.ema_decay**steps
    if left < MOST_OF_THE_START:
        return False
    logger.warning(
        f"The run has {steps} steps, after which {left:.1%} of weights averaged with --ema_decay {args.ema_decay} would still be those "
        "of its beginning, so the average warms up (--ema_warmup True)."
    )
    return True


def seed_process(args: RecipeArguments, step: int) -> None:
    """Give this process dropout and skipped branches of its own, from a step on.

    The main process of a run that begins keeps the state that its seed gave it. Where a run goes on, what the checkpoint has of this
    process comes after this and counts; one made by fewer processes has nothing of it.

    Args:
        args: of the run: `seed`, `process_index`.
        step: optimizer steps done.
    """
    if step:
        torch.manual_seed(combine(args.seed, args.process_index, step))
    elif args.process_index:
        torch.manual_seed(combine(args.seed, args.process_index))


def warmup_and_cooldown(args: RecipeArguments, steps: int, steps_per_epoch: int) -> tuple[int, int]:
    """Optimizer steps of each; of a run too short for both they take half at most, which is said."""
    wanted = [round(epochs * steps_per_epoch) for epochs in (args.warmup_epochs, args.cooldown_epochs)]
    if sum(wanted) <= steps // 2:
        return wanted[0], wanted[1]
    shorter = [part * (steps // 2) // sum(wanted) for part in wanted]
    logger.warning(
        f"The run has {steps} steps, too few for {wanted[0]} of warm-up and {wanted[1]} of cooldown; it takes "
        f"{shorter[0]} and {shorter[1]}."
    )
    return shorter[0], shorter[1]

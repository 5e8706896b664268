"""What the optimizer is given: which parameters decay, which learning rate, and how it changes from step to step."""

import contextlib
import functools
import math
import re
from collections.abc import Callable, Iterator
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from transformers import TrainingArguments
from transformers.utils import logging

from ...errors import MissingDependencyError, TrainingError


logger = logging.get_logger(__name__)

# Parameters that stand for a token, a position or a scale, by the names that Transformers' vision models have for them.
TOKEN = re.compile(r"(^|\.)(\w+_tokens?|class_embedding)$")
POSITION = re.compile(r"position_embedding|positional_embedding|pos_embed|position_bias|attention_bias|rel_pos_[hw]$")
SCALE = re.compile(r"logit_scale$")

# Where Transformers does not say how a package of an optimizer is installed, by words in the optimizer's name.
PACKAGES = {"xla": "torch_xla", "npu": "torch_npu", "anyprecision": "git+https://github.com/pytorch/torchdistx"}

NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def decays(name: str, parameter: nn.Parameter, owner: nn.Module) -> bool:
    """Whether weight decay is for this parameter: matrices and convolutions yes; biases, norms, scales, tokens, positions no.

    Args:
        name: as `named_parameters` gives it.
        parameter: it.
        owner: the module that holds it directly.
    """
    if parameter.ndim <= 1 or name.endswith("bias") or isinstance(owner, NORMS):
        return False
    return not any(pattern.search(name) for pattern in (TOKEN, POSITION, SCALE))


def decaying_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay is for, trainable or not."""
    return [
        name
        for name, parameter in model.named_parameters()
        if decays(name, parameter, model.get_submodule(name.rpartition(".")[0]))
    ]


def parameter_groups(model: nn.Module, weight_decay: float, groups: list[dict] | None = None) -> list[dict]:
    """The trainable parameters in two groups for an optimizer, with and without weight decay; an empty one is left out.

    As in the recipes of DeiT and SimA, biases, norms, LayerScale, class, mask and register tokens, position embeddings and
    relative position bias tables do not decay. Frozen parameters are in no group, tied ones in one, once.

    Args:
        model: any.
        weight_decay: for the group that decays.
        groups: dicts with `params` and settings of their own (GaLore's projected matrices), each of which becomes two; by
            default one of all parameters.

    Returns:
        Dicts with `params`, `weight_decay` and the settings of their group, the decaying group first.

    Raises:
        ValueError: nothing is trainable.
    """
    names = set(decaying_names(model))
    decaying = {one: name in names for name, one in model.named_parameters() if one.requires_grad}
    if not decaying:
        raise ValueError(
            f"This {type(model).__name__} has no trainable parameter: set requires_grad to True on what is to be trained."
        )
    halves = [
        {**group, "params": [one for one in group["params"] if decaying.get(one) is decay], "weight_decay": rate}
        for group in groups or [{"params": list(decaying)}]
        for decay, rate in ((True, weight_decay), (False, 0.0))
    ]
    return [half for half in halves if half["params"]]


def optimizer_of(
    choose: Callable[[TrainingArguments, nn.Module], tuple[Any, dict]], args: TrainingArguments, model: nn.Module
) -> tuple[Any, dict[str, Any]]:
    """The class that `--optim` names and its arguments, among them the recipe's groups of parameters.

    Args:
        choose: `Trainer.get_optimizer_cls_and_kwargs`.
        args: of the run.
        model: to be trained.

    Raises:
        MissingDependencyError (an ImportError): the package of the optimizer is not installed.
        TrainingError: it needs other arguments, or steps where neither schedule nor checkpoint reach it.
    """
    name = str(getattr(args.optim, "value", args.optim))
    if name.endswith("_layerwise"):
        raise TrainingError(
            f"--optim {name} steps in the middle of the backward pass, so that its state is in no checkpoint; take "
            f"{name.removesuffix('_layerwise')}."
        )
    try:
        cls, settings = choose(args, model)
    except (ImportError, ValueError, TypeError) as error:
        package = next((package for word, package in PACKAGES.items() if word in name.split("_")), None)
        if package or "install" in str(error):
            remedy = f"pip install {package}" if package else str(error)
            raise MissingDependencyError(f"--optim {name} needs a package that is not installed: {remedy}") from error
        raise TrainingError(f"--optim {name} cannot be made: {error}") from error
    if "model" in settings:  # LOMO takes the model as it is
        logger.warning(
            f"--optim {name} takes no groups of parameters, so --weight_decay {args.weight_decay} is not used."
        )
    elif isinstance(cls, type) and issubclass(cls, Optimizer):
        settings["params"] = parameter_groups(model, args.weight_decay, settings.get("params"))
    return cls, settings


def cosine_schedule(
    optimizer: Optimizer,
    steps: int,
    warmup_steps: int = 0,
    cooldown_steps: int = 0,
    warmup_lr: float = 1e-6,
    min_lr: float = 1e-5,
    warmup_prefix: bool = True,
) -> LambdaLR:
    """Linear warm-up, half a cosine, and a cooldown at the smallest rate; a new rate at each step, for each group its own.

    From `warmup_lr` at step 0 to the group's rate at step `warmup_steps`, along a cosine to `min_lr` at step
    `steps - cooldown_steps`, then `min_lr`. Inside `keep_current_lr`, a scheduler that loads the state of another goes on
    from its step with the numbers given here.

    Args:
        optimizer: its groups hold the rate that each rises to.
        steps: optimizer steps of the whole run.
        warmup_steps, cooldown_steps: how many of them.
        warmup_lr, min_lr: rates.
        warmup_prefix: whether the cosine begins after the warm-up; False: at step 0, and the warm-up covers its beginning, so
            that the rate falls a little at the end of the warm-up, as in timm by default.

    Returns:
        A scheduler without functions in its state, to be stepped after each optimizer step.

    Raises:
        ValueError: warm-up and cooldown leave no step in between, a number is negative, or a group's rate is below `min_lr`.
    """
    if min(warmup_steps, cooldown_steps, warmup_lr, min_lr) < 0 or steps <= warmup_steps + cooldown_steps:
        raise ValueError(
            f"Warm-up ({warmup_steps} steps from {warmup_lr}) and cooldown ({cooldown_steps} steps at {min_lr}) must not be negative and "
            f"must leave at least one of the {steps} steps: train for longer, or shorten these two."
        )
    peaks = [group.get("initial_lr", group["lr"]) for group in optimizer.param_groups]
    if any(0 < peak < min_lr for peak in peaks):
        raise ValueError(
            f"min_lr ({min_lr}) must not exceed the peak learning rate, got {min(peak for peak in peaks if peak > 0)}: lower "
            "--min_learning_rate or raise --learning_rate."
        )
    shape = {"steps": steps - cooldown_steps, "warmup_steps": warmup_steps, "warmup_lr": warmup_lr, "min_lr": min_lr}
    shape["start"] = warmup_steps if warmup_prefix else 0
    # functools.partial of a module's function can be pickled, and LambdaLR leaves it out of its state.
    return LambdaLR(optimizer, [functools.partial(_relative_lr, peak=peak, **shape) for peak in peaks])


@contextlib.contextmanager
def keep_current_lr(optimizer: Optimizer, scheduler: LRScheduler) -> Iterator[None]:
    """Within it, the states of a checkpoint are loaded; rates and decays stay those of this run, whatever the checkpoint's were."""
    if not isinstance(scheduler, LambdaLR):
        yield
        return
    bases, decays = list(scheduler.base_lrs), [group["weight_decay"] for group in optimizer.param_groups]
    yield
    scheduler.base_lrs = bases
    for group, base, decay, factor in zip(optimizer.param_groups, bases, decays, scheduler.lr_lambdas, strict=True):
        group["initial_lr"], group["weight_decay"] = base, decay
        group["lr"] = base * factor(scheduler.last_epoch)
    scheduler._last_lr = [group["lr"] for group in optimizer.param_groups]


def _relative_lr(
    step: int, peak: float, steps: int, warmup_steps: int, warmup_lr: float, min_lr: float, start: int
) -> float:
    """The rate at a step, relative to the group's own."""
    if not peak:
        return 0.0
    if step < warmup_steps:
        return (warmup_lr + (peak - warmup_lr) * step / warmup_steps) / peak
    progress = min((step - start) / (steps - start), 1.0)
    return (min_lr + 0.5 * (peak - min_lr) * (1 + math.cos(math.pi * progress))) / peak

"""`distill`: bring a swapped model back to its softmax original by gradient, from images without labels."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.utils import logging

from ...calibration.blocks import find_blocks
from ...data.processors import normalization
from ...errors import TrainingError, UnsupportedModelError
from ...patching import describe, sima_attentions
from ..arguments import SimATrainingArguments
from ..checkpoints.folders import check_output_dir, checkpoint_to_resume
from .images import split_images
from .unlabeled import FeatureDistillationTrainer


logger = logging.get_logger(__name__)


@dataclass(frozen=True)
class DistillationReport:
    """What `distill` did; printed, a few lines.

    Attributes:
        images: how many the student was trained on, with repetitions.
        learning_rate: the highest that was used.
        held_out: how many it was measured on and never trained on.
        before, after: distance from the teacher (`loss`), `cosine` and, for classifiers, `agreement`, on the held-out images.
        history: the same after each evaluation, with its `step`.
    """

    images: int
    learning_rate: float
    held_out: int
    before: dict[str, float]
    after: dict[str, float]
    history: tuple[dict[str, float], ...]

    def __str__(self) -> str:
        lines = [
            f"Distilled from {self.images} images without labels, learning rate {self.learning_rate:.2g}; on {self.held_out} "
            "held-out images:"
        ]
        lines += [f"{name:>10}  {self.before[name]:.4f} -> {value:.4f}" for name, value in self.after.items()]
        return "\n".join(lines)


def distill(
    model: PreTrainedModel,
    teacher: PreTrainedModel,
    images: str | Path | Sequence[torch.Tensor] | Any,
    *,
    processor: Any = None,
    num_images: int = 10_000,
    batch_size: int = 16,
    learning_rate: float | None = None,
    held_out: float = 0.1,
    output_dir: str | Path | None = None,
    resume_from_checkpoint: str | None = None,
    seed: int = 0,
    max_unreadable: int = 20,
    progress: bool = True,
    **arguments: Any,
) -> DistillationReport:
    """Train a swapped model, in place, to give what its softmax original gives, from images without labels.

    It learns what a consumer reads: logits where there is a head, the last hidden state (class token and patches in equal
    shares), feature maps of a backbone, pooled embeddings of a tower; each channel in units of the teacher's variance. Of a
    larger model, such as LLaVA or CLIP, the vision tower that was swapped is trained. Call `sima_hf.calibrate` first: it is
    the far quicker part of the way.

    AdamW without decay, gradients clipped at 1, a tenth of the run as warm-up, then a cosine to zero, and a running average
    of the weights; every parameter takes steps in proportion to its size, the teacher's being the measure. On the held-out
    images the model never ends below its start: the best weights that were measured are kept, the first ones among them.

    Args:
        model: a model that `patch_model` has swapped, or any other with the teacher's outputs.
        teacher: the softmax model, such as a `copy.deepcopy` made before the swap; it is frozen.
        images: a folder of images, a split of `datasets` with a column of images, or processed `pixel_values`, each
            `(C, H, W)`.
        processor: the image processor; needed with a folder or a split.
        num_images: training images over all processes, with repetitions where there are fewer.
        batch_size: images in a step, on each process.
        learning_rate: the highest; None: the one that the student bears, found by short runs before the first step. An
            interrupted run that goes on must be given the weights that it began with, or this rate.
        held_out: share of the images to measure on, 32 at least and 1,000 at most.
        output_dir: folder for checkpoints, the same for all processes; None: none are kept beyond the call, of one process.
        resume_from_checkpoint: "last", "auto" or a checkpoint, to go on in `output_dir`.
        seed: of order, views and dropout.
        max_unreadable: image files that are passed over, with a warning, because they cannot be read.
        progress: show a progress bar.
        arguments: further `SimATrainingArguments`, such as `bf16=True`, `ema_decay` or `eval_steps`.

    Returns:
        A `DistillationReport`; print it.

    Raises:
        DataError (a ValueError): images that cannot be read, too few of them, or no image processor where one is needed.
        TrainingError: student and teacher do not belong together, the teacher is SimA itself, or the loss is not finite.
            Whatever ends the training before its time leaves the model's weights as they were.
    """
    student, goal, layer = _towers(model, teacher)
    train, held = split_images(images, processor, held_out, seed, max_unreadable)
    processes = int(os.environ.get("WORLD_SIZE", 1))  # as torchrun and accelerate say it
    in_a_step = batch_size * processes * arguments.get("gradient_accumulation_steps", 1)
    steps = max(1, num_images // in_a_step)
    if processes > 1 and output_dir is None:
        raise TrainingError(f"`output_dir` must be a folder that all {processes} processes share, got None.")
    with contextlib.ExitStack() as stack:
        place = output_dir or stack.enter_context(tempfile.TemporaryDirectory())
        check_output_dir(place, bool(resume_from_checkpoint))
        checkpoint = checkpoint_to_resume(place, resume_from_checkpoint)
        args = _arguments(place, steps, batch_size, learning_rate, seed, progress, arguments)
        mean, std = normalization(processor) if processor is not None else ([0.0] * 3, [1.0] * 3)
        stack.enter_context(_as_before_on_failure(student, goal))  # before Trainer moves them
        trainer = FeatureDistillationTrainer(
            student,
            args,
            mean,
            std,
            max_unreadable,
            teacher=goal,
            class_tokens=_class_tokens(student),
            hidden_layer=layer,
            train_dataset=train,
            eval_dataset=held,
        )
        if learning_rate is None:
            args.learning_rate = trainer.find_learning_rate()
        trainer.train(str(checkpoint) if checkpoint else None)
        if trainer.stopped_by_signal:
            raise trainer.run_state.stopped()
        with trainer.weights_to_save():
            averaged = {name: one.detach().clone() for name, one in student.state_dict().items()}
        student.load_state_dict(averaged)
    history = tuple(_measured(entry) for entry in trainer.state.log_history if "eval_loss" in entry)
    best = min(history, key=lambda entry: entry["loss"])
    if best["step"] != history[-1]["step"]:
        logger.warning(
            f"The distance from the teacher was least after step {best['step']:.0f} ({best['loss']:.4f}; in the end "
            f"{history[-1]['loss']:.4f}), so the model has the weights of that step. A lower `learning_rate` may serve it better."
        )
    before, after = ({key: value for key, value in one.items() if key != "step"} for one in (history[0], best))
    seen = trainer.state.global_step * trainer.global_batch_size
    return DistillationReport(seen, args.learning_rate, len(held), before, after, history)


def _towers(model: PreTrainedModel, teacher: PreTrainedModel) -> tuple[PreTrainedModel, PreTrainedModel, int | None]:
    """What is trained and what it learns from: both models, or the swapped tower in each; and the layer that is read of it."""
    for name, given in (("model", model), ("teacher", teacher)):
        if not isinstance(given, PreTrainedModel):
            raise TypeError(f"`{name}` must be a Transformers model (PreTrainedModel), got {type(given).__name__}.")
    if sima_attentions(teacher):
        raise TrainingError(
            "The teacher must be the softmax model, got one that is SimA itself: make it with copy.deepcopy(model) before "
            "sima_hf.patch_model(model), or load it anew with from_pretrained."
        )
    if model.main_input_name == "pixel_values":
        return model, teacher, None
    places = [part.path for part in describe(model).swapped]
    if len(places) != 1:
        raise TrainingError(
            f"`model` must take images or hold one swapped vision tower, got {type(model).__name__} with {len(places)}: give "
            "`distill` the tower itself."
        )
    layer = getattr(model.config, "vision_feature_layer", None)
    try:
        goal = teacher.get_submodule(places[0])
    except AttributeError as error:
        raise TrainingError(f"The teacher must have {places[0]} like the model, got none: {error}") from error
    return model.get_submodule(places[0]), goal, layer if isinstance(layer, int) and layer != -1 else None


def _class_tokens(student: PreTrainedModel) -> int:
    try:
        return find_blocks(student)[0].class_tokens
    except UnsupportedModelError:
        return 0


def _arguments(
    place: str | Path,
    steps: int,
    batch_size: int,
    rate: float | None,
    seed: int,
    progress: bool,
    given: dict[str, Any],
) -> SimATrainingArguments:
    every = max(1, steps // 8)
    recipe = {
        "output_dir": str(place),
        "max_steps": steps,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": 4 * batch_size,
        "learning_rate": rate or 0.0,
        "scale_learning_rate": False,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": 0.0},
        "warmup_steps": max(1, steps // 10),
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "rand_augment": "none",
        "color_jitter": 0.0,
        "random_erasing": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "label_smoothing_factor": 0.0,
        "repeated_augmentation": 1,
        "ema_decay": min(0.999, max(0.8, 1 - 3 / steps)),
        "ema_warmup": False,  # the average begins at weights that are worth keeping
        "eval_on_start": True,
        "eval_strategy": "steps",
        "save_strategy": "steps",
        "eval_steps": every,
        "save_steps": given.get("eval_steps", every),
        "save_total_limit": 1,
        "logging_steps": max(1, every // 4),
        "dataloader_num_workers": 0,
        "seed": seed,
        "disable_tqdm": not progress,
        "report_to": "none",
    }
    # What is measured is what is kept.
    always = {"load_best_model_at_end": True, "metric_for_best_model": "loss", "greater_is_better": False}
    always |= {"eval_weights": "ema", "save_weights": "ema"}
    return SimATrainingArguments(**{**recipe, **given, **always})


@contextlib.contextmanager
def _as_before_on_failure(model: PreTrainedModel, teacher: PreTrainedModel) -> Iterator[None]:
    """Put back weights where the block breaks off; modes, trainability and devices in any case."""
    devices = [(one, next(one.parameters()).device) for one in (model, teacher)]
    modes = {module: module.training for module in model.modules()}
    trained = {name: one.requires_grad for name, one in model.named_parameters()}
    state = {name: one.detach().clone() for name, one in model.state_dict().items()}
    try:
        model.requires_grad_(True)
        yield
    except BaseException:
        model.load_state_dict(state)
        raise
    finally:
        for one, device in devices:
            one.to(device)
        for module, mode in modes.items():
            module.training = mode
        for name, one in model.named_parameters():
            one.requires_grad_(trained[name])


def _measured(entry: dict[str, Any]) -> dict[str, float]:
    names = {"eval_loss": "loss", "eval_cosine": "cosine", "eval_agreement": "agreement", "step": "step"}
    return {short: float(entry[name]) for name, short in names.items() if name in entry}

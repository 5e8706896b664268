"""`FeatureDistillationTrainer`: a student that learns its teacher's outputs from images alone."""

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction, PreTrainedModel, TrainerCallback
from transformers.utils import logging

from ..arguments import SimATrainingArguments
from ..recipe.optimization import parameter_groups
from ..trainer import SimATrainer
from .features import FeatureMatching
from .step_size import TRIED_RATES, TRIED_STEPS, bearable_rate, relative_sizes


logger = logging.get_logger(__name__)

# Batches that the teacher's means and variances are taken from.
MEASURED_BATCHES = 16
# Batches of held-out images that a learning rate is judged by.
HELD_OUT_BATCHES = 4
# A fall of agreement or cosine by less than this may be the draw of the images.
MARGIN = 0.01


class FeatureDistillationTrainer(SimATrainer):
    """`SimATrainer` without labels: the loss is the distance of the student's outputs from its teacher's (`FeatureMatching`).

    Evaluation gives `eval_loss`, that distance; `eval_cosine`, the cosine of the outputs that are read, the teacher's mean taken
    off; and for classifiers `eval_agreement`, the share of images that both call the same. The weights before the first step
    are evaluated and saved as `checkpoint-0`, so that with `load_best_model_at_end` a run never ends below its start.

    Args:
        model, args, image_mean, image_std, max_unreadable: as for `SimATrainer`; labels, and what mixes them, play no part.
        teacher: a model with the same outputs, such as the one from before the swap; it is frozen.
        class_tokens, hidden_layer: as for `FeatureMatching`.
        kwargs: further arguments of `SimATrainer`.

    Raises:
        TrainingError: outputs that cannot be compared; from `train`.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SimATrainingArguments,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        max_unreadable: int = 0,
        *,
        teacher: PreTrainedModel,
        class_tokens: int = 0,
        hidden_layer: int | None = None,
        **kwargs,
    ):
        self.matching = FeatureMatching(model, teacher, class_tokens, hidden_layer)
        super().__init__(model, args, image_mean, image_std, max_unreadable, compute_metrics=_means, **kwargs)
        self.matching.teacher.to(self.args.device)
        self.shares = relative_sizes(model, teacher)  # of the start, also where a run goes on
        self.add_callback(_KeepsTheStart(self))

    def train(self, *args, **kwargs):
        """As `SimATrainer.train`; the hooks of the matching are there as long as it runs."""
        with self.matching:
            return super().train(*args, **kwargs)

    def begin(self) -> None:
        """As `SimATrainer.begin`, and the teacher's variances, from the same images whenever the run goes on."""
        super().begin()
        self._measure()

    def _measure(self) -> None:
        if self.matching.measured:
            return
        held_out = self.eval_dataset is not None
        self.matching.measure(self._first_inputs(MEASURED_BATCHES, held_out))

    def _first_inputs(self, count: int, held_out: bool) -> Iterator[dict[str, torch.Tensor]]:
        loader = self.get_eval_dataloader() if held_out else self.get_train_dataloader()
        for _, batch in zip(range(count), loader, strict=False):
            inputs = self._prepare_inputs(batch)
            yield {"pixel_values": inputs["pixel_values"][_readable(inputs)]}

    def find_learning_rate(self) -> float:
        """The highest rate that the student bears on images that are not trained on, see `bearable_rate`; on every process.

        It depends on the weights before the first step; they are put back.
        """
        with self.matching, torch.random.fork_rng(devices=[]):
            self._measure()
            tried = list(self._first_inputs(HELD_OUT_BATCHES, held_out=True))
            answers = [self.matching.answers(inputs) for inputs in tried]

            def losses() -> Iterator[torch.Tensor]:
                return (self.compute_loss(self.model, inputs) for inputs in self._first_inputs(TRIED_STEPS, False))

            @torch.no_grad()
            def measure() -> float:
                return sum(
                    float(self.matching.loss(self.model(**inputs, **self.matching.arguments), answer))
                    for inputs, answer in zip(tried, answers, strict=True)
                )

            rate = bearable_rate(self.model.eval(), losses, measure, self.shares)
            place = torch.tensor([TRIED_RATES.index(rate)], device=self.args.device)
            return TRIED_RATES[int(self.accelerator.gather(place).max())]

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """AdamW whose step for a parameter is as large, relative to it, as it would be for the teacher's.

        Adam's steps know nothing of a parameter's size, and calibration leaves layers that are a small part of the teacher's.
        """
        if self.optimizer is None:
            rates: dict[float, list[torch.nn.Parameter]] = {}
            for name, parameter in self.model.named_parameters():
                rates.setdefault(self.args.learning_rate * self.shares.get(name, 1.0), []).append(parameter)
            groups = [{"params": parameters, "lr": rate} for rate, parameters in sorted(rates.items())]
            self.optimizer = torch.optim.AdamW(
                parameter_groups(self.model, self.args.weight_decay, groups),
                lr=self.args.learning_rate,
                betas=(self.args.adam_beta1, self.args.adam_beta2),
                eps=self.args.adam_epsilon,
            )
        return self.optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """The distance from the teacher, a float32 scalar."""
        inputs = {"pixel_values": inputs["pixel_values"]}
        outputs = model(**inputs, **self.matching.arguments)
        loss = self.matching.loss(outputs, self._answers(inputs))
        return (loss, outputs) if return_outputs else loss

    def _answers(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        with self.compute_loss_context_manager():
            return self.matching.answers(inputs)

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As `SimATrainer.evaluate`: distance, cosine and, for classifiers, agreement."""
        with contextlib.ExitStack() as stack:
            if not self.is_in_train:
                stack.enter_context(self.matching)
            self._measure()
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)

    def save_start(self, metrics: dict[str, float]) -> None:
        """Save the weights before the first step as the best that there are yet."""
        if self._determine_best_metric(metrics, None):
            self._save_checkpoint(self.model, None)

    @torch.no_grad()
    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """What evaluation keeps of each image: distance, cosine and, for classifiers, agreement, `(B, 2 or 3)`."""
        inputs = self._prepare_inputs(inputs)
        readable, inputs = _readable(inputs), {"pixel_values": inputs["pixel_values"]}
        with self.compute_loss_context_manager():
            parts = self.matching.parts(model(**inputs, **self.matching.arguments))
            answers = self.matching.answers(inputs)
        kept = [self.matching.distances(parts, answers), self.matching.cosines(parts, answers)]
        if self.classifies:
            own, goal = (one["logits"][:, 0].argmax(dim=-1) for one in (parts, answers))
            kept.append((own == goal).float())
        kept = torch.stack(kept, dim=1).masked_fill(~readable[:, None], float("nan"))
        return None, kept, kept[:, 0]

    @property
    def classifies(self) -> bool:
        """Whether the student is an image classifier."""
        return type(self.model).__name__.endswith(("ForImageClassification", "ForImageClassificationWithTeacher"))


def _readable(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which images of a batch could be read, `(B,)`; for the others a black one stands, without a label."""
    return inputs["labels"] >= 0 if inputs["labels"].dim() == 1 else inputs["labels"].sum(dim=1) > 0


def _means(prediction: EvalPrediction) -> dict[str, float]:
    """Means of what `prediction_step` keeps over the images that could be read."""
    means = np.nanmean(prediction.predictions, axis=0, dtype="float64").tolist()
    names = ("loss", "cosine", "agreement")
    return dict(zip(names, means, strict=False))


class _KeepsTheStart(TrainerCallback):
    """Saves the weights before the first step as a checkpoint, and says when an evaluation falls below them."""

    def __init__(self, trainer: FeatureDistillationTrainer):
        self.trainer = trainer

    def on_evaluate(self, args, state, control, metrics: dict[str, Any], **kwargs):
        if "eval_loss" not in metrics:
            return
        if state.global_step == 0 and args.load_best_model_at_end:
            self.trainer.save_start(metrics)
        start = next((entry for entry in state.log_history if "eval_loss" in entry), metrics)
        for name in ("eval_agreement", "eval_cosine"):
            if name in metrics and metrics[name] < start[name] - MARGIN and state.is_world_process_zero:
                logger.warning(
                    f"After step {state.global_step} the {name.removeprefix('eval_')} with the teacher is {metrics[name]:.3f}, below "
                    f"the {start[name]:.3f} of the start. Lower --learning_rate or lengthen the warm-up; the best weights are kept."
                )
                break

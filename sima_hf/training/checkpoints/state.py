"""The state of a run between two steps: of `SimATrainer`, and of a loop on Accelerate."""

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import PreTrainedModel
from transformers.utils import logging

from ...data.streaming import StreamedImages
from ...errors import TrainingError
from ..arguments import RecipeArguments
from ..recipe.ema import WeightAverage
from ..recipe.optimization import keep_current_lr
from ..recipe.parts import average_warms_up, seed_process
from .folders import belongs_to, keep_newest, last_good_sentence, set_aside_newer, writing
from .interruption import StoppedBySignal
from .progress import progress_of, step_to_resume, write_progress
from .sharded import AVERAGE, all_finite, read_average, shard_like, unshard


logger = logging.get_logger(__name__)

AVERAGE_MODEL = "ema"


class RunState:
    """Model, average of its weights, optimizer, schedule and progress: saved whole or not at all, restored exactly.

    What holds optimizer, schedule and random states on the disk is the business of who trains (Trainer's files, or those of
    `Accelerator.save_state`); everything else is the same for both.

    Args:
        args: of the run.
        accelerator: has prepared the model, or will.
        model: the bare model, as it is saved.
        save_model: writes the model as it is into a folder; all processes call it together.

    Attributes:
        step: optimizer steps done.
        ema: the `WeightAverage`; None before `start`, or where the run keeps none.
    """

    def __init__(
        self,
        args: RecipeArguments,
        accelerator: Accelerator,
        model: PreTrainedModel,
        save_model: Callable[[Path], None],
    ):
        self.args, self.accelerator, self.model, self.save_model = args, accelerator, model, save_model
        self.step, self.ema = 0, None
        self._saved_at: int | None = None

    def describe_data(self, images: Any, steps_per_epoch: int, global_batch_size: int) -> None:
        """Say what an epoch is: the images to train on, optimizer steps, and images in each of these."""
        self.images, self.steps_per_epoch, self.global_batch_size = images, steps_per_epoch, global_batch_size

    @property
    def progress(self) -> dict:
        """How far the run is, as `position.json` holds it."""
        return progress_of(self.args, self.step, self.steps_per_epoch, self.global_batch_size, self.images)

    def step_of(self, checkpoint: Path) -> int:
        """The step at which this run may go on from a checkpoint.

        Raises:
            CheckpointError: it was made by something else, or with another global batch size.
        """
        return step_to_resume(checkpoint, self.progress, isinstance(self.images, StreamedImages))

    def start(self, steps: int) -> None:
        """Begin: the average of the weights from where the model is, and for each process dropout of its own.

        Args:
            steps: optimizer steps of the whole run.
        """
        self._saved_at = None
        if self.args.ema_decay:
            self.args.ema_warmup = average_warms_up(self.args, steps)
            self.ema = WeightAverage(self.model, self.args.ema_decay, warmup=self.args.ema_warmup)
        seed_process(self.args, self.step)

    def restore(
        self,
        checkpoint: Path,
        load: Callable[[Path], None] | None = None,
        optimizer: Optimizer | None = None,
        schedule: LRScheduler | None = None,
    ) -> None:
        """Go on from a checkpoint, after `start`; checkpoints of the run that came after it are put aside.

        Args:
            checkpoint: its folder, as `checkpoint_to_resume` has checked it.
            load: reads model, optimizer, schedule and random states; None where that is done.
            optimizer, schedule: those that `load` fills; the learning rates and decays of this run stay.

        Raises:
            CheckpointError: it is of another run, has no average though this run keeps one, or holds another model.
        """
        step = self.step_of(checkpoint)
        average = read_average(checkpoint) if self.ema is not None else None
        seed_process(self.args, step)
        if load is not None:
            with keep_current_lr(optimizer, schedule):
                load(checkpoint)
        self.step = step
        if average is not None:
            self.ema.load_state_dict(shard_like(average, self.ema.state_dict()))
        if self.args.should_save and belongs_to(checkpoint, self.args.output_dir):
            for path in set_aside_newer(self.args.output_dir, step):
                logger.warning(f"The run goes on from step {step}; what came after is now {path}.")

    def load_average(self, checkpoint: Path) -> None:
        """Take the average of a checkpoint's weights, where the run keeps one."""
        if self.ema is not None:
            self.ema.load_state_dict(shard_like(read_average(checkpoint), self.ema.state_dict()))

    def update_average(self) -> None:
        """Take the weights after an optimizer step into their average; not those after a step that mixed precision left out."""
        if self.ema is not None and not self.accelerator.optimizer_step_was_skipped:
            self.ema.update(self.model)

    def save(
        self, write: Callable[[Path], None], protected: str | None = None, loss: torch.Tensor | None = None
    ) -> bool:
        """Make a checkpoint in the run's folder, and remove the oldest beyond `--save_total_limit`.

        Args:
            write: writes model, optimizer, schedule and random states into a folder; all processes call it together.
            protected: a checkpoint never to be removed.
            loss: since the last record, a scalar; it must be finite as the weights must.

        Returns:
            Whether there was one to make; the step may have its checkpoint already.

        Raises:
            TrainingError: a weight or the loss is not finite, or the checkpoint could not be written.
        """
        if self.step == self._saved_at:
            return False  # at the end of an epoch and of the run: replacing it would leave a moment without any
        self._check_finite(loss)
        main = self.args.should_save
        with writing(self.args.output_dir, self.step, seals=main, wait=self.accelerator.wait_for_everyone) as folder:
            write(folder)
            if self.ema is not None:
                average = unshard(self.ema.state_dict())
                with self.weights("ema"):
                    self.save_model(folder / AVERAGE_MODEL)
                if main:
                    torch.save(average, folder / AVERAGE)
            if main:
                write_progress(folder, self.progress)
        self._saved_at = self.step
        if main:
            keep_newest(self.args.output_dir, self.args.save_total_limit, protected=protected)
        return True

    def _check_finite(self, loss: torch.Tensor | None) -> None:
        flag = all_finite(self.model)
        if loss is not None:
            flag = flag & loss.isfinite().all()
        if not bool(self.accelerator.gather(flag.reshape(1).int()).min()):
            raise self.diverged("The loss or a weight is not finite")

    def mean_loss(self, losses: list[torch.Tensor]) -> float:
        """The mean of losses, scalars of as many micro-batches in every process, over all of them.

        Raises:
            TrainingError: it is not finite.
        """
        found = self.accelerator.gather(torch.stack(losses).mean().reshape(1)).mean().item()
        if not math.isfinite(found):
            raise self.diverged(f"The loss is {found}")
        return found

    def diverged(self, what: str) -> TrainingError:
        """The error of a run whose numbers are lost."""
        return TrainingError(
            f"{what} at step {self.step}: the run has diverged. Lower --learning_rate, lengthen --warmup_epochs, clip with "
            f"--max_grad_norm 1, or train in bfloat16 instead of float16. {last_good_sentence(self.args.output_dir)}"
        )

    def stopped(self) -> StoppedBySignal:
        """The end of a run that SIGTERM has stopped."""
        return StoppedBySignal(
            f"Stopped by SIGTERM after step {self.step}. {last_good_sentence(self.args.output_dir)}"
        )

    @contextlib.contextmanager
    def weights(self, kind: str) -> Iterator[None]:
        """Within it, the model has its averaged weights for kind "ema", where there are any; for "raw" it is as it is."""
        with self.ema.applied_to(self.model) if kind == "ema" and self.ema is not None else contextlib.nullcontext():
            yield

    def evaluate(self, measure: Callable[[str], dict[str, float]], prefix: str = "eval") -> dict[str, float]:
        """Metrics of the averaged weights, the raw ones, or both, as `--eval_weights` says; raw ones beside others as `eval_raw_...`.

        No random number is drawn from the generators of the training, so that it goes on as if there had been no evaluation.

        Args:
            measure: from the prefix of the metrics' names to the metrics of the model as it is.
            prefix: of the names.

        Raises:
            StoppedBySignal: `measure` was stopped by SIGTERM.
        """
        found: dict[str, float] = {}
        kinds = self.args.evaluated_weights if self.ema is not None else ("raw",)
        try:
            for kind in kinds:
                with torch.random.fork_rng(devices=[]), self.weights(kind):
                    found |= measure(f"{prefix}_raw" if kind == "raw" and len(kinds) > 1 else prefix)
        except StoppedBySignal as stopped:
            raise self.stopped() from stopped
        return found

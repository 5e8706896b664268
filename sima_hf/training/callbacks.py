"""Runs that begin with a trained model: how good it was before the first step, and whether training has made it worse."""

from transformers import TrainerCallback
from transformers.utils import logging


logger = logging.get_logger(__name__)
MARGIN = 0.05  # of the accuracy; less may be the draw of the images


class RegressionWarning:
    """Compares each evaluation with that of the start, and says once in a row that a run has fallen below it.

    A model whose attention was swapped, above all a calibrated one, is far more sensitive to its weights than its softmax original:
    a learning rate that fine-tunes the original can destroy it.
    """

    def __init__(self):
        self.start: float | None = None
        self.below = False

    def record(self, accuracy: float, step: int) -> str | None:
        """Take in the accuracy, a share from 0 to 1, after `step` optimizer steps; that after none is the start.

        Returns:
            What is to be said: the run fell below its start by more than `MARGIN`. None: nothing, or nothing new.
        """
        if step == 0:
            self.start = accuracy
        before, self.below = self.below, self.start is not None and accuracy < self.start - MARGIN
        if not self.below or before:
            return None
        return (
            f"After step {step} the accuracy is {accuracy:.1%}, below the {self.start:.1%} that the run began with: this training "
            "undoes what the model knew. Lower --learning_rate, lengthen --warmup_epochs, take less augmentation (--rand_augment none "
            "--mixup 0 --cutmix 0 --random_erasing 0), or learn from the softmax original with `sima-hf distill`. A swapped model "
            "may come back after a fall; if it does not, the model that the run began with is the better one."
        )


class WarnBelowStartCallback(TrainerCallback):
    """A `RegressionWarning` on a Trainer's evaluations, of the weights that are saved; for `eval_on_start`."""

    def __init__(self):
        self.watch = RegressionWarning()

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Hold the accuracy against the start's."""
        accuracy = (metrics or {}).get("eval_accuracy")
        sentence = None if accuracy is None else self.watch.record(accuracy, state.global_step)
        if sentence and state.is_world_process_zero:
            logger.warning(sentence)

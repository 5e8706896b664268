"""Transformers' Trainer for dense tasks: checkpoints that are whole, views that depend on the epoch, ends that say why."""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from ...errors import TrainingError
from ..checkpoints.folders import keep_newest, last_good_sentence, remove_leftovers, writing
from ..checkpoints.interruption import StoppedBySignal, StopRequest
from ..checkpoints.sharded import all_finite
from ..checkpoints.weights import load_weights


def _help(text: str) -> dict:
    return {"help": text}


@dataclass
class DenseTrainingArguments(TrainingArguments):
    """`transformers.TrainingArguments` with the defaults that dense tasks need."""

    overwrite_output_dir: bool = field(
        default=False, metadata=_help("Start over where a run left checkpoints or results.")
    )
    learning_rate: float = field(default=6e-5, metadata=_help("Peak learning rate."))
    weight_decay: float = field(default=0.01, metadata=_help("Weight decay."))
    eval_strategy: str = field(default="epoch", metadata=_help("When to evaluate: no, steps, epoch."))
    save_strategy: str = field(default="epoch", metadata=_help("When to save a checkpoint: no, steps, epoch."))
    save_total_limit: int | None = field(default=3, metadata=_help("Checkpoints kept."))
    hub_strategy: str = field(default="end", metadata=_help("What --push_to_hub uploads: the finished folder (end)."))
    remove_unused_columns: bool = field(
        default=False, metadata=_help("Leave it as it is: views are made from columns.")
    )
    # Masks and boxes of a whole data set are too much to keep until the end.
    batch_eval_metrics: bool = field(default=True, metadata=_help("Leave it as it is: metrics add up batch by batch."))
    logging_nan_inf_filter: bool = field(
        default=False, metadata=_help("Not used: a loss that is not finite ends the run.")
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise TrainingError("--output_dir must name the folder of the run, got none.")
        for name in ("remove_unused_columns", "batch_eval_metrics"):
            wanted = name == "batch_eval_metrics"
            if getattr(self, name) is not wanted:
                raise TrainingError(f"--{name} must be {wanted}, got {not wanted}; leave it out.")
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()


class DenseTrainer(Trainer):
    """As `transformers.Trainer`, and:

    - A checkpoint is complete or absent, with a manifest of its files, as those of `SimATrainer`.
    - A training set with `set_epoch` is told the epoch, so that its random views are the same after an interruption.
    - A loss or weight that is not finite ends the run with a `TrainingError` that names the last good checkpoint.
    - SIGTERM saves a checkpoint and ends the run; `stopped_by_signal` then is True.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.model_accepts_loss_kwargs = False  # these heads' losses are means over the micro-batch
        self.stop_request, self.stopped_by_signal = StopRequest(), False
        self.add_callback(_HeedSigterm(self))

    def train(self, resume_from_checkpoint: str | Path | None = None, **kwargs):
        """As `Trainer.train`; `resume_from_checkpoint` is a checkpoint that `checkpoint_to_resume` has checked.

        Raises:
            StoppedBySignal: SIGTERM came; the text says where to go on.
        """
        folder = str(resume_from_checkpoint) if resume_from_checkpoint else None
        if self.args.should_save:
            remove_leftovers(self.args.output_dir)
        with self.stop_request:
            output = super().train(resume_from_checkpoint=folder, **kwargs)
        if self.stopped_by_signal:
            raise StoppedBySignal(
                f"Stopped by SIGTERM after step {self.state.global_step}. {last_good_sentence(self.args.output_dir)}"
            )
        return output

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        epoch = kwargs["epoch"] if "epoch" in kwargs else args[1]
        if hasattr(self.train_dataset, "set_epoch"):
            self.train_dataset.set_epoch(epoch)
        return super()._run_epoch(*args, **kwargs)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`; a loss that is not finite ends the run."""
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise self._diverged(f"The loss is {logs['loss']}")
        super().log(logs, start_time)

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.state.global_step}: the run has diverged. Lower --learning_rate, lengthen --warmup_steps, or clip "
            f"with --max_grad_norm 1. {last_good_sentence(self.args.output_dir)}"
        )

    def _save_checkpoint(self, model, trial) -> None:
        """A checkpoint with all that going on needs, whole or not at all."""
        if not bool(all_finite(self.model)):
            raise self._diverged("A weight is not finite")
        run_dir, args, step = self._get_output_dir(trial), self.args, self.state.global_step
        self.store_flos()
        with writing(run_dir, step, seals=args.should_save, wait=self.accelerator.wait_for_everyone) as folder:
            self.save_model(str(folder), _internal_call=True)
            if not args.save_only_model:
                self._save_optimizer_and_scheduler(str(folder))
                self._save_scaler(str(folder))
                self._save_rng_state(str(folder))
            if args.should_save:
                self.state.save_to_json(str(folder / "trainer_state.json"))
        if args.should_save:
            keep_newest(run_dir, args.save_total_limit, protected=self.state.best_model_checkpoint)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model, resume_from_checkpoint)


class _HeedSigterm(TrainerCallback):
    """Asks after each step whether the run is to stop."""

    def __init__(self, trainer: DenseTrainer):
        self.trainer = trainer

    def on_step_end(self, args, state, control, **kwargs):
        if self.trainer.stop_request.agreed(state.global_step, self.trainer.accelerator):
            self.trainer.stopped_by_signal = control.should_save = control.should_training_stop = True
            control.should_evaluate = False

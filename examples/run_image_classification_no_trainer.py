"""The same training as run_image_classification.py, as a loop that one can read and change: Accelerate, no Trainer.

    python examples/run_image_classification_no_trainer.py --variant sima_tiny_12_p16 --train_dir photos --output_dir mine
    accelerate launch --config_file examples/configs/accelerate_8_gpus.yaml \
        examples/run_image_classification_no_trainer.py examples/configs/sima_small_12_p16.json --output_dir mine

Precision and devices are Accelerate's business (`accelerate launch --mixed_precision bf16`), FSDP2 among them; DeepSpeed is for
run_image_classification.py. After an interruption, the same command with --resume_from_checkpoint last.
"""

import contextlib
import functools
import math
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from torch.nn import functional as F
from tqdm.auto import tqdm

from sima_hf.data.loading import Unreadable, lost_workers_as_errors
from sima_hf.data.processors import normalization
from sima_hf.training.arguments import DataArguments, LoopArguments, ModelArguments
from sima_hf.training.callbacks import RegressionWarning
from sima_hf.training.checkpoints.folders import last_good_sentence
from sima_hf.training.checkpoints.interruption import StoppedBySignal, StopRequest
from sima_hf.training.checkpoints.sharded import fsdp_wrap_layers
from sima_hf.training.checkpoints.state import RunState
from sima_hf.training.command_line import failures_as_sentences, parse
from sima_hf.training.loop import (
    finish_loop,
    make_accelerator,
    read_history,
    save_whole,
    training_batches,
    validation_batches,
    write_history,
)
from sima_hf.training.measuring import measure
from sima_hf.training.recipe.batch_norm import synchronize_batch_norm
from sima_hf.training.recipe.optimization import parameter_groups
from sima_hf.training.recipe.parts import augmentation_of, scaled_lr, schedule_of
from sima_hf.training.run import TrainingSetup, prepare, start_over


NAME = "run_image_classification_no_trainer"


class TrainingLoop:
    """A training run on Accelerate: what it is made of, and its steps."""

    def __init__(self, setup: TrainingSetup, data_args: DataArguments, args: LoopArguments, accelerator: Accelerator):
        self.setup, self.args, self.accelerator = setup, args, accelerator
        self.plain = setup.loaded.model  # without what wraps it: DDP, torch.compile; FSDP2 shards it in place
        self.normalization = normalization(setup.processor)  # mean and standard deviation
        self.augment = augmentation_of(args, *self.normalization, self.plain.config.num_labels)
        self.stop, self.unreadable = StopRequest(), Unreadable(data_args.max_unreadable_images)
        self.regression, self.history = RegressionWarning(), []

        self.loader = training_batches(setup, data_args, args)
        self.validation = validation_batches(setup, args, accelerator)
        steps_per_epoch = math.ceil(len(self.loader) / args.gradient_accumulation_steps)
        batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch)

        if args.sync_batch_norm and args.world_size > 1:
            synchronize_batch_norm(self.plain, device_type=accelerator.device.type)
        fsdp_wrap_layers(accelerator, self.plain)
        groups = parameter_groups(self.plain, args.weight_decay)
        optimizer = torch.optim.AdamW(groups, lr=scaled_lr(args, batch_size))
        self.model, self.optimizer = accelerator.prepare(self.plain, optimizer)
        # Not prepared: Accelerate would step it once for each process.
        self.schedule = schedule_of(args, optimizer, self.steps, steps_per_epoch, batch_size)
        accelerator.register_for_checkpointing(self.schedule)

        self.save_model = functools.partial(save_whole, self.plain, setup.processor, accelerator)
        self.state = RunState(args, accelerator, self.plain, self.save_model)
        self.state.describe_data(self.loader.dataset, steps_per_epoch, batch_size)
        self.state.start(self.steps)
        if setup.checkpoint:  # `RunState` reads what Accelerate does not
            self.history = read_history(setup.checkpoint)
            load = self.accelerator.load_state
            self.state.restore(setup.checkpoint, lambda folder: load(str(folder)), self.optimizer, self.schedule)

    def write(self, folder: Path) -> None:
        """Fill a checkpoint; `RunState` writes the rest. The folder is also a model that `from_pretrained` loads."""
        self.accelerator.save_state(str(folder))
        self.save_model(folder)
        if self.accelerator.is_main_process:
            write_history(folder, self.history)

    def run(self) -> None:
        """Train, evaluate, save."""
        first, start = self.state.step, time.perf_counter()
        workers = lost_workers_as_errors(lambda: last_good_sentence(self.args.output_dir))
        bar = tqdm(total=self.steps, initial=first, disable=not self.accelerator.is_main_process)
        with self.stop, workers, bar:
            if self.setup.measures_start:  # a trained model, which training may ruin
                self.record(self.evaluate())
            while self.state.step < self.steps:
                self.epoch(bar)
            seconds = time.perf_counter() - start
            evaluated = self.evaluate() if self.validation is not None else {}
        with self.state.weights(self.args.save_weights):
            self.save_model(Path(self.args.output_dir))
        if self.accelerator.is_main_process:
            speed = (self.steps - first) * self.state.global_batch_size / seconds
            trained = {"train_runtime": seconds, "train_samples_per_second": speed}
            finish_loop(self.state, self.setup, self.history, trained, evaluated)

    def epoch(self, bar: tqdm) -> None:
        """The rest of an epoch, and what is due after each step: loss, evaluation, checkpoint."""
        args, state, micro_batches = self.args, self.state, self.args.gradient_accumulation_steps
        epoch, done = divmod(state.step, state.steps_per_epoch)
        losses = []
        for number, batch in enumerate(self.loader.batches(epoch, done * micro_batches), done * micro_batches):
            last = number + 1 == len(self.loader)
            updates = last or (number + 1) % micro_batches == 0
            # The last step of an epoch may have fewer micro-batches.
            parts = min(micro_batches, len(self.loader) - number + number % micro_batches)
            with contextlib.nullcontext() if updates else self.accelerator.no_sync(self.model):
                losses.append(self.forward_and_backward(batch, parts))
            if not updates:
                continue
            learning_rate = self.schedule.get_last_lr()[0]
            self.update()
            bar.update()
            ends, stops = state.step == self.steps, self.stop.agreed(state.step, self.accelerator)
            saves = ends or (state.step % args.checkpointing_steps == 0 if args.checkpointing_steps else last)
            if saves or stops or state.step % args.logging_steps == 0:
                self.record({"loss": state.mean_loss(losses), "learning_rate": learning_rate})
                losses = []
            if last and not stops and self.validation is not None:
                try:
                    self.record(self.evaluate())
                except StoppedBySignal:
                    stops = True
            if saves or stops:
                state.save(self.write)
            if stops:
                self.accelerator.end_training()
                raise state.stopped()
            if ends:
                return

    def forward_and_backward(self, batch: dict, parts: int) -> torch.Tensor:
        """Add the gradients of one micro-batch of `parts` in this step; returns its loss."""
        self.model.train()
        self.unreadable.note(batch["unreadable"])
        device = self.accelerator.device
        pixels, labels = (batch[name].to(device, non_blocking=True) for name in ("pixel_values", "labels"))
        pixels, targets = self.augment(pixels, labels, batch["seeds"])
        with self.accelerator.autocast():
            logits = self.model(pixel_values=pixels).logits
        loss = F.cross_entropy(logits.float(), targets)
        self.accelerator.backward(loss / parts)
        return loss.detach()

    def update(self) -> None:
        """One optimizer step."""
        if self.args.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:  # by float16's scaler
            self.schedule.step()
        self.state.update_average()
        self.optimizer.zero_grad()
        self.state.step += 1

    def record(self, numbers: dict[str, float]) -> None:
        """Keep numbers for the curves and send them to the trackers."""
        step = self.state.step
        self.history.append({**numbers, "step": step, "epoch": step / self.state.steps_per_epoch})
        self.accelerator.log(numbers, step=step)
        warning = self.regression.record(numbers["eval_accuracy"], step) if "eval_accuracy" in numbers else None
        if warning and self.accelerator.is_main_process:
            tqdm.write(warning)

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracies of the averaged weights, the raw ones, or both, exact over all processes."""
        parts = self.plain, self.validation, self.normalization, self.accelerator, self.stop, self.unreadable
        return self.state.evaluate(functools.partial(measure, *parts))


def main() -> None:
    """Read the arguments and train; what a user can mend ends in a sentence."""
    with failures_as_sentences(NAME):
        model_args, data_args, args = parse(ModelArguments, DataArguments, LoopArguments)
    with failures_as_sentences(NAME, args.output_dir):
        accelerator = make_accelerator(args)
        setup = prepare(model_args, data_args, args)  # data, model, image processor, checkpoint to go on from
        loop = TrainingLoop(setup, data_args, args, accelerator)
        start_over(args, setup.checkpoint)  # with --overwrite_output_dir
        loop.run()
        accelerator.end_training()


if __name__ == "__main__":
    main()

"""The same training as run_image_classification.py, as a loop that one can read and change: Accelerate, no Trainer.

    python examples/run_image_classification_no_trainer.py --variant sima_tiny_12_p16 --train_dir photos --output_dir mine
    accelerate launch --config_file examples/configs/accelerate_8_gpus.yaml \
        examples/run_image_classification_no_trainer.py examples/configs/sima_small_12_p16.json --output_dir mine

Precision and devices are Accelerate's business (`accelerate launch --mixed_precision bf16`). After an interruption, the same
command with --resume_from_checkpoint last.
"""

import contextlib
import functools
import json
import math
import time
from datetime import timedelta
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, DistributedType, InitProcessGroupKwargs
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from sima_hf import training
from sima_hf.data.images import collate
from sima_hf.data.loading import (
    Unreadable,
    begin_worker,
    leaving_flag,
    lost_workers_as_errors,
    training_loader,
)
from sima_hf.data.pixels import normalize
from sima_hf.data.processors import normalization
from sima_hf.errors import CheckpointError, MissingDependencyError, TrainingError
from sima_hf.training.arguments import DataArguments, LoopArguments, ModelArguments
from sima_hf.training.callbacks import StartWatch
from sima_hf.training.checkpoints.folders import (
    belongs_to,
    keep_newest,
    last_good_sentence,
    remove_run,
    set_aside_newer,
    writing,
)
from sima_hf.training.checkpoints.interruption import StopRequest
from sima_hf.training.checkpoints.progress import position_of, read_position, write_position
from sima_hf.training.checkpoints.sharded import (
    AVERAGE,
    all_finite,
    full_state,
    read_average,
    shard_like,
    share_out_layers,
)
from sima_hf.training.publication import finish_folder
from sima_hf.training.recipe.batch_norm import synchronize_batch_norm
from sima_hf.training.recipe.ema import WeightAverage
from sima_hf.training.recipe.losses import soft_cross_entropy
from sima_hf.training.recipe.optimization import own_rates, parameter_groups
from sima_hf.training.recipe.parts import augmentation_of, average_warms_up, rate_of, schedule_of, seed_process
from sima_hf.training.run import Task, class_name, draw, failures_as_sentences, parse, prepare


HISTORY = "history.json"
MINUTES_TO_WAIT = 30  # for a process in a step; what takes longer, the others do not wait for in a collective


def make_accelerator(args: LoopArguments) -> Accelerator:
    """Devices, processes, precision and trackers, as the launcher and the arguments say; to be made before anything else."""
    trackers = None if args.report_to == "none" else args.report_to
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # else Accelerate leaves processes without a GPU apart
        gradient_accumulation_steps=args.gradient_accumulation_steps,
        log_with=trackers,
        project_dir=args.output_dir,
        kwargs_handlers=[
            DistributedDataParallelKwargs(broadcast_buffers=False),
            InitProcessGroupKwargs(timeout=timedelta(minutes=MINUTES_TO_WAIT)),
        ],
    )
    if trackers and not accelerator.log_with:
        raise MissingDependencyError(
            f"--report_to {trackers} needs a package that is not installed: pip install {trackers}"
        )
    if trackers:
        settings = {key: value for key, value in vars(args).items() if isinstance(value, (int, float, str))}
        accelerator.init_trackers("sima_hf", settings)
    if (
        accelerator.state.deepspeed_plugin is not None
    ):  # what it would look for in a loader that it shards, or choose itself
        config = accelerator.state.deepspeed_plugin.deepspeed_config
        config["train_micro_batch_size_per_gpu"] = args.per_device_train_batch_size
        config["gradient_clipping"] = args.max_grad_norm
    return accelerator


class Loop:
    """A training run on Accelerate: what it is made of, and its steps."""

    def __init__(self, task: Task, args: LoopArguments, accelerator: Accelerator, max_unreadable: int):
        self.task, self.args, self.accelerator = task, args, accelerator
        mean, std = normalization(task.processor)
        self.augment = augmentation_of(args, mean, std, task.built.model.config.num_labels)
        # DeepSpeed's models are in half precision by themselves, without autocast.
        halved = accelerator.distributed_type == DistributedType.DEEPSPEED
        self.as_input = lambda pixels: pixels.to(self.plain.dtype) if halved else pixels
        self.normalize = lambda pixels: self.as_input(normalize(pixels, mean, std))
        self.unreadable = Unreadable(max_unreadable)
        self.metric_class = training.TopKAccuracy  # here, where a missing package ends in a sentence
        self.loader = training_loader(
            task.train,
            batch_size=args.per_device_train_batch_size,
            num_workers=args.dataloader_num_workers,
            seed=args.seed,
            repeats=args.repeated_augmentation,
            process_index=args.process_index,
            num_processes=args.world_size,
            pin_memory=torch.cuda.is_available(),
        )
        self.validation = None
        if task.validation is not None:
            options = {
                "batch_size": args.per_device_eval_batch_size,
                "num_workers": args.dataloader_num_workers,
                "collate_fn": collate,
                "worker_init_fn": functools.partial(begin_worker, leaving_flag()),
            }
            self.validation = accelerator.prepare(DataLoader(task.validation, **options))
        self.steps_per_epoch = math.ceil(len(self.loader) / args.gradient_accumulation_steps)
        self.global_batch_size = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
        self.steps = args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * self.steps_per_epoch)

        if args.sync_batch_norm and args.world_size > 1:
            synchronize_batch_norm(task.built.model)
        rate = rate_of(args, args.learning_rate, self.global_batch_size)
        optimizer = torch.optim.AdamW(parameter_groups(task.built.model, args.weight_decay), lr=rate)
        share_out_layers(accelerator, task.built.model)
        self.model, self.optimizer = self.accelerator.prepare(task.built.model, optimizer)
        # Not prepared: Accelerate would step it once for each process.
        self.schedule = schedule_of(args, optimizer, self.steps, self.steps_per_epoch, self.global_batch_size)
        self.accelerator.register_for_checkpointing(self.schedule)
        self.plain = task.built.model  # without what wraps it: DDP, torch.compile; FSDP2 shares it out in place
        self.ema = None
        if args.ema_decay:
            args.ema_warmup = average_warms_up(args, self.steps)
            self.ema = WeightAverage(self.plain, args.ema_decay, warmup=args.ema_warmup)
        self.start_watch = StartWatch()
        self.step, self.history, self.results = 0, [], {}

    def run(self, checkpoint: Path | None) -> bool:
        """Train to the end, or until SIGTERM; returns whether the end was reached."""
        if checkpoint is not None:
            self.load(checkpoint)
        else:
            seed_process(self.args, step=0)
        if checkpoint is None and self.validation is not None and self.task.built.base_model:
            self.record(self.evaluate())
        start, first = time.perf_counter(), self.step
        bar = tqdm(total=self.steps, initial=first, desc="training", disable=not self.accelerator.is_main_process)
        workers = lost_workers_as_errors(lambda: last_good_sentence(self.args.output_dir))
        with StopRequest() as stop, bar, workers:
            while self.step < self.steps:
                if not self.epoch(stop, bar):
                    return False
        seconds = time.perf_counter() - start
        self.results = {
            "train_runtime": seconds,
            "train_samples_per_second": (self.steps - first) * self.global_batch_size / seconds,
        }
        return True

    def epoch(self, stop: StopRequest, bar: tqdm) -> bool:
        """The rest of an epoch; returns False if the run is to stop."""
        args, step = self.args, self.step
        epoch, done = divmod(step, self.steps_per_epoch)
        accumulation = args.gradient_accumulation_steps
        batches = self.loader.batches(epoch, start=done * accumulation)
        total, count = torch.zeros((), device=self.accelerator.device), 0
        for number, batch in enumerate(batches, start=done * accumulation):
            begun = number - number % accumulation  # first micro-batch of this step
            last = number + 1 == len(self.loader)
            updates = last or (number + 1) % accumulation == 0
            with contextlib.nullcontext() if updates else self.accelerator.no_sync(self.model):
                self.accelerator.gradient_state._set_sync_gradients(updates)  # DeepSpeed steps by it
                loss = self.forward_and_backward(batch, parts=min(accumulation, len(self.loader) - begun))
            total, count = total + loss, count + 1
            if not updates:
                continue
            rate = self.schedule.get_last_lr()[0]
            self.update()
            step = self.step = step + 1
            bar.update()
            saves = step == self.steps or (step % args.checkpointing_steps == 0 if args.checkpointing_steps else last)
            stops = stop.agreed(step, self.accelerator)
            if saves or stops or step % args.logging_steps == 0:
                self.record({"loss": self.mean(total / count), "learning_rate": rate})
                total, count = torch.zeros_like(total), 0
            if last and not stops and self.validation is not None:
                self.record(self.evaluate())
            if saves or stops:
                self.save()
            if stops or step == self.steps:
                return not stops
        return True

    def forward_and_backward(self, batch: dict, parts: int) -> torch.Tensor:
        """Add the gradients of one micro-batch of `parts` in this step; returns its loss."""
        self.model.train()
        self.unreadable.note(batch["unreadable"])
        device = self.accelerator.device
        pixels, labels = (batch[name].to(device, non_blocking=True) for name in ("pixel_values", "labels"))
        pixels, targets = self.augment(pixels, labels, batch["seeds"])  # what is drawn from seeds is drawn on the CPU
        with self.accelerator.autocast():
            logits = self.model(pixel_values=self.as_input(pixels)).logits
        loss = soft_cross_entropy(logits, targets)
        # Accelerate divides by the usual number of micro-batches; the last step of an epoch may have fewer.
        self.accelerator.backward(loss * self.args.gradient_accumulation_steps / parts)
        return loss.detach()

    def update(self) -> None:
        """One optimizer step."""
        if self.args.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.args.max_grad_norm)
        self.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
            self.schedule.step()
            if self.ema is not None:
                self.ema.update(self.plain)
        self.optimizer.zero_grad()

    def mean(self, value: torch.Tensor) -> float:
        """The mean over all processes; an error if it is not finite."""
        found = self.accelerator.gather(value.reshape(1)).mean().item()
        if not math.isfinite(found):
            raise self.diverged(f"The loss is {found}")
        return found

    def diverged(self, what: str) -> TrainingError:
        """How a run ends whose numbers are lost."""
        return TrainingError(
            f"{what} at step {self.step}: the run has diverged. Lower --learning_rate, lengthen --warmup_epochs, or "
            f"clip with --max_grad_norm 1. {last_good_sentence(self.args.output_dir)}"
        )

    def record(self, numbers: dict[str, float]) -> None:
        """Keep numbers for the curves and send them to the trackers."""
        self.history.append({**numbers, "step": self.step, "epoch": self.step / self.steps_per_epoch})
        self.accelerator.log(numbers, step=self.step)
        accuracy = numbers.get("eval_accuracy")
        sentence = None if accuracy is None else self.start_watch.note(accuracy, self.step)
        if sentence and self.accelerator.is_main_process:
            tqdm.write(sentence)

    def evaluate(self) -> dict[str, float]:
        """Accuracy and loss of the averaged weights, the raw ones, or both."""
        found, kinds = {}, self.args.evaluated_weights
        for weights in kinds:
            prefix = "eval_raw_" if weights == "raw" and len(kinds) > 1 else "eval_"
            average = self.ema.applied_to(self.plain) if weights == "ema" else contextlib.nullcontext()
            with average, torch.random.fork_rng(devices=[]):
                found.update({prefix + name: value for name, value in self.measure().items()})
        return found

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """The model as it is, on the validation images; exact over all processes."""
        self.model.eval()
        metric, total = self.metric_class(), 0.0
        for batch in tqdm(
            self.validation, desc="evaluating", leave=False, disable=not self.accelerator.is_main_process
        ):
            self.unreadable.pass_over(batch["unreadable"])
            logits = self.model(pixel_values=self.normalize(batch["pixel_values"])).logits
            logits, labels = self.accelerator.gather_for_metrics((logits, batch["labels"]))
            metric.add_batch(predictions=logits, references=labels)
            total += soft_cross_entropy(logits, labels).item() * int((labels >= 0).sum())
        found = metric.compute()
        return {"loss": total / found.pop("num_images"), **found}

    def save(self) -> None:
        """A checkpoint, whole or not at all; the folder is also a model that `from_pretrained` loads."""
        if not all_finite(self.plain):
            raise self.diverged("A weight is not finite")
        main = self.accelerator.is_main_process
        wait = self.accelerator.wait_for_everyone
        # Files of these kinds are no model for from_pretrained.
        shared_out = self.accelerator.distributed_type in (DistributedType.FSDP, DistributedType.DEEPSPEED)
        with writing(self.args.output_dir, self.step, seals=main, wait=wait) as folder:
            self.accelerator.save_state(str(folder))
            if shared_out:
                self.save_model(folder)
            average = full_state(self.ema.state_dict()) if self.ema is not None else None
            if self.ema is not None:
                with self.ema.applied_to(self.plain):
                    self.save_model(folder / "ema")
            if main:
                self.plain.config.save_pretrained(folder)
                self.task.processor.save_pretrained(folder)
                write_position(folder, self.position())
                write_json(folder / HISTORY, self.history)
                if average is not None:
                    torch.save(average, folder / AVERAGE)
        if main:
            keep_newest(self.args.output_dir, self.args.save_total_limit)

    def save_model(self, folder: Path) -> None:
        """The model as it is, and its image processor."""
        state = full_state(self.plain.state_dict())
        if self.accelerator.is_main_process:
            self.plain.save_pretrained(folder, state_dict=state)
            self.task.processor.save_pretrained(folder)

    def position(self) -> dict:
        """Where the run is, as a checkpoint says it."""
        return position_of(self.args, self.step, self.steps_per_epoch, self.global_batch_size, self.task.train)

    def load(self, checkpoint: Path) -> None:
        """Take up a run where a checkpoint left it."""
        if not (checkpoint / HISTORY).is_file():
            raise CheckpointError(f"{checkpoint} was not made by this script: it has no {HISTORY}.")
        step = read_position(checkpoint, self.position(), streams=self.loader.streams)
        average = read_average(checkpoint) if self.ema is not None else None
        seed_process(self.args, step)
        try:
            with own_rates(self.optimizer, self.schedule):
                self.accelerator.load_state(str(checkpoint))
        except RuntimeError as error:
            reason = [*str(error).splitlines(), ""][1].strip() or str(error)
            raise CheckpointError(f"{checkpoint} holds another model than the one to be trained: {reason}") from error
        self.step = step
        self.history = json.loads((checkpoint / HISTORY).read_text(encoding="utf-8"))
        if self.ema is not None:
            self.ema.load_state_dict(shard_like(average, self.ema.state_dict()))
        if self.accelerator.is_main_process and belongs_to(checkpoint, self.args.output_dir):
            for path in set_aside_newer(self.args.output_dir, step):
                tqdm.write(f"The run goes on from step {step}; what came after is now {path}.")

    def finish(self) -> None:
        """Leave the model, its results and the curves in the output folder."""
        folder = Path(self.args.output_dir)
        trained = {**self.results, "train_loss": self.newest("loss"), "step": self.step}
        found = self.evaluate() if self.validation is not None else {}
        average = self.ema is not None and self.args.save_weights == "ema"
        with self.ema.applied_to(self.plain) if average else contextlib.nullcontext():
            self.save_model(folder)
        if not self.accelerator.is_main_process:
            return
        for name, results in {"train": trained, "eval": found, "all": {**trained, **found}}.items():
            write_json(folder / f"{name}_results.json", results)
        print("\n".join(f"{key:<26} {value:.4g}" for key, value in {**trained, **found}.items()))
        title = (
            f"{class_name(self.plain)} on {self.task.data.source}, {self.task.built.image_size} px: {self.steps} steps of "
            f"{self.global_batch_size} images, seed {self.args.seed}"
        )
        draw(self.history, folder / "curves.png", title)
        if not finish_folder(self.args, self.plain, self.task, self.global_batch_size) and self.args.push_to_hub:
            self.plain.push_to_hub(self.args.hub_model_id or folder.resolve().name)
            self.task.processor.push_to_hub(self.args.hub_model_id or folder.resolve().name)

    def newest(self, name: str) -> float:
        """The last record of a number."""
        return next((entry[name] for entry in reversed(self.history) if name in entry), math.nan)


def write_json(path: Path, content: dict | list) -> None:
    """Write numbers down."""
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    with failures_as_sentences("run_image_classification_no_trainer"):
        model_args, data_args, args = parse(ModelArguments, DataArguments, LoopArguments)
    with failures_as_sentences("run_image_classification_no_trainer", args.output_dir):
        accelerator = make_accelerator(args)
        task, checkpoint = prepare(model_args, data_args, args)
        loop = Loop(task, args, accelerator, data_args.max_unreadable_images)
        anew = args.overwrite_output_dir and not belongs_to(checkpoint, args.output_dir)
        if anew and accelerator.is_main_process:
            remove_run(args.output_dir)
        if loop.run(checkpoint):
            loop.finish()
        elif accelerator.is_main_process:
            print(f"Stopped by SIGTERM after step {loop.step}. {last_good_sentence(args.output_dir)}")
        accelerator.end_training()


if __name__ == "__main__":
    main()

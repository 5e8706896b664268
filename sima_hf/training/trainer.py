"""`SimATrainer`: Transformers' Trainer with SimA's recipe, an average of the weights, and checkpoints that are whole."""

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import SchedulerType
from transformers.utils import logging

from ..data.images import collate
from ..data.loading import Unreadable, begin_worker, leaving_flag, lost_workers_as_errors, training_loader
from ..data.pixels import normalize
from ..data.processors import normalization
from ..data.streaming import StreamedImages
from ..errors import CheckpointError, TrainingError
from ..evaluation.metrics import compute_metrics, top_classes
from ..folders.manifest import PREFIX
from .arguments import SimATrainingArguments
from .checkpoints.folders import (
    belongs_to,
    keep_newest,
    last_good_sentence,
    remove_leftovers,
    set_aside_newer,
    writing,
)
from .checkpoints.interruption import StopRequest
from .checkpoints.progress import position_of, read_position, write_position
from .checkpoints.sharded import AVERAGE, all_finite, full_state, read_average, shard_like, share_out_layers
from .recipe.batch_norm import synchronize_batch_norm
from .recipe.ema import WeightAverage
from .recipe.losses import soft_cross_entropy
from .recipe.optimization import decaying_names, optimizer_of, own_rates
from .recipe.parts import augmentation_of, average_warms_up, rate_of, schedule_of, seed_process
from .splits import Splits


logger = logging.get_logger(__name__)

AVERAGE_MODEL = "ema"
_EXACT_LOSS = "loss_of_each_image"


class SimATrainer(Trainer):
    """Trains image classifiers on batches of bytes, which are augmented and normalized on the device.

    Whatever `transformers.Trainer` does works; in addition, or instead:

    - Augmentation, mixup, cutmix, soft targets: `BatchAugmentation` on each training batch; normalization alone in evaluation.
    - The average of the weights is updated after each step and saved in every checkpoint, as a model folder `ema/` beside the raw
      weights; `--eval_weights` and `--save_weights` have it evaluated, and saved in the end, in their place.
    - A checkpoint is complete or absent (`checkpoints.writing`), and resuming from it is exact on one process.
    - A loss or weight that is not finite, a full disk, a lost worker end the run with a `TrainingError`.
    - SIGTERM saves a checkpoint and ends the run; `stopped_by_signal` then is True.

    Args:
        model: an image classifier, native, swapped or with softmax.
        args: `SimATrainingArguments`.
        image_mean, image_std: normalization, one number for each channel; by default the image processor's.
        max_unreadable: unreadable training images to pass over before `DataError`.
        train_dataset: a split of `datasets` with a column of images and one of classes, which need no transform: views,
            augmentation and normalization are made here, as `args` say. Or `TrainImages` or `StreamedImages`.
        eval_dataset: such a split, no stream, or `EvalImages`; or a dictionary of them. So for `evaluate` and `predict`.
        processing_class: the image processor; needed with splits, and saved with the model.
        image_column, label_column: of the splits, where types and usual names do not tell.
        num_images: in an epoch of a stream that does not say.
        kwargs: further arguments of `transformers.Trainer`; without `compute_metrics` it measures top-1 and top-5 accuracy.

    Raises:
        DataError: splits without an image processor or usable columns, with classes that are not the model's, or with images
            that have no label.
        ValueError: neither normalization nor an image processor.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        args: SimATrainingArguments,
        image_mean: list[float] | None = None,
        image_std: list[float] | None = None,
        max_unreadable: int = 0,
        *,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        image_column: str | None = None,
        label_column: str | None = None,
        num_images: int | None = None,
        **kwargs,
    ):
        self.splits = Splits(
            model, args, processing_class, image_column, label_column, num_images, max_unreadable=max_unreadable
        )
        train_dataset = self.splits.for_training(train_dataset)
        eval_dataset = self.splits.for_evaluation(eval_dataset)
        if image_mean is None or image_std is None:
            if processing_class is None:
                raise ValueError(
                    "Give `processing_class`, the image processor, or `image_mean` and `image_std`, got none."
                )
            image_mean, image_std = normalization(processing_class)
        self.image_mean, self.image_std = image_mean, image_std
        if args.sync_batch_norm and args.world_size > 1:
            synchronize_batch_norm(model)
        kwargs = {
            "compute_metrics": _accuracies_and_loss,
            "preprocess_logits_for_metrics": _ranks_and_losses,
            "train_dataset": train_dataset,
            "eval_dataset": eval_dataset,
            "processing_class": processing_class,
            **kwargs,
        }
        super().__init__(model, args, data_collator=collate, **kwargs)
        share_out_layers(self.accelerator, model)
        # The loss is a mean over the micro-batch; Trainer then divides by their number.
        self.model_accepts_loss_kwargs = False
        self.augmentation = augmentation_of(args, image_mean, image_std, model.config.num_labels)
        self.unreadable = Unreadable(max_unreadable)
        self.ema: WeightAverage | None = None
        self.stop_request = StopRequest()
        self.stopped_by_signal = False
        self._resumes_from: Path | None = None
        self._goes_on_from = 0
        self._saved_at: int | None = None
        self._updates_per_epoch: int | None = None
        self.add_callback(_AfterEachStep(self))  # behind the flow callback, whose decisions it adds to

    # Data

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        """This process's own batches: the same global batches whatever the number of processes."""
        args = self.args
        loader = training_loader(
            self.train_dataset,
            batch_size=self._train_batch_size,
            num_workers=args.dataloader_num_workers,
            seed=args.seed,
            repeats=args.repeated_augmentation,
            process_index=args.process_index,
            num_processes=args.world_size,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            prefetch_factor=args.dataloader_prefetch_factor,
            persistent_workers=args.dataloader_persistent_workers,
        )
        self._updates_per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
        self._goes_on_from = 0
        if self._resumes_from is not None:
            streams = isinstance(self.train_dataset, StreamedImages)
            step = self._goes_on_from = read_position(self._resumes_from, self._position(), streams)
            if streams:
                epoch, update = divmod(step, self._updates_per_epoch)
                self.train_dataset.start_at(epoch, update * args.gradient_accumulation_steps)
        return loader

    def _prepare_inputs(self, inputs: dict) -> dict:
        names, seeds = inputs.pop("unreadable", ()), inputs.pop("seeds", None)
        training = self.model.training and seeds is not None
        self.unreadable.note(names) if training else self.unreadable.pass_over(names)
        inputs = {name: tensor.to(self.args.device, non_blocking=True) for name, tensor in inputs.items()}
        inputs = super()._prepare_inputs(inputs)
        pixels = inputs["pixel_values"]
        if pixels.dtype == torch.uint8:
            if training:
                pixels, inputs["labels"] = self.augmentation(pixels, inputs["labels"], seeds)
            else:
                pixels = normalize(pixels, self.image_mean, self.image_std)
            # DeepSpeed's models are in half precision by themselves, without autocast.
            inputs["pixel_values"] = pixels.to(self.model.dtype) if self.is_deepspeed_enabled else pixels
        return inputs

    def get_eval_dataloader(self, eval_dataset=None) -> torch.utils.data.DataLoader:
        """As Trainer's; its workers outlive a SIGTERM to the whole job, as those of training do."""
        loader = super().get_eval_dataloader(self.splits.for_evaluation(eval_dataset))
        inner = getattr(loader, "base_dataloader", loader)
        inner.worker_init_fn = functools.partial(begin_worker, leaving_flag())
        return loader

    def get_test_dataloader(self, test_dataset) -> torch.utils.data.DataLoader:
        """As Trainer's, for `predict`."""
        return super().get_test_dataloader(self.splits.for_evaluation(test_dataset))

    # Loss and optimization

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Cross-entropy with soft targets `(B,K)` in training, with classes `(B,)` in evaluation; float32."""
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = soft_cross_entropy(outputs["logits"], labels)
        return (loss, outputs) if return_outputs else loss

    @property
    def global_batch_size(self) -> int:
        """Images in one optimizer step, over all processes and micro-batches."""
        return self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """The optimizer that `--optim` names, at the scaled rate, without decay where the recipe has none.

        One given as `optimizer_cls_and_kwargs`, a class or a factory, has the rate that is given with it.
        """
        given = self.args.learning_rate
        self.args.learning_rate = rate_of(self.args, given, self.global_batch_size)
        try:
            return super().create_optimizer(model)
        finally:
            self.args.learning_rate = given

    @staticmethod
    def get_optimizer_cls_and_kwargs(args: SimATrainingArguments, model: PreTrainedModel | None = None) -> tuple:
        """As Trainer's; with a model, its parameters are in groups with and without decay."""
        if model is None:
            return Trainer.get_optimizer_cls_and_kwargs(args, model)
        return optimizer_of(Trainer.get_optimizer_cls_and_kwargs, args, model)

    def get_decay_parameter_names(self, model: torch.nn.Module) -> list[str]:
        """Those that decay in the recipe, for optimizers that are given as `optimizer_cls_and_kwargs`."""
        return decaying_names(model)

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None):
        """Warm-up, cosine and cooldown, per step; another `--lr_scheduler_type` is Transformers' own."""
        if self.args.lr_scheduler_type != SchedulerType.COSINE:
            return super().create_scheduler(num_training_steps, optimizer)
        if self.lr_scheduler is None:
            self.lr_scheduler = schedule_of(
                self.args,
                optimizer or self.optimizer,
                num_training_steps,
                self._updates_per_epoch,
                self.global_batch_size,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Training

    def train(self, resume_from_checkpoint: str | None = None, **kwargs):
        """As `Trainer.train`; `resume_from_checkpoint` is a checkpoint that `checkpoint_to_resume` has checked."""
        self._resumes_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self._saved_at = None
        if self.args.should_save:
            remove_leftovers(self.args.output_dir)
        with self.stop_request, lost_workers_as_errors(lambda: last_good_sentence(self.args.output_dir)):
            return super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)

    def _run_epoch(self, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # taken up at its end, in the middle of an epoch
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def begin(self) -> None:
        """What comes right before the first step, when the checkpoint has been loaded."""
        self._begin_average()
        seed_process(self.args, self._goes_on_from)
        if self._resumes_from is None:
            return
        if self.args.should_save and belongs_to(self._resumes_from, self.args.output_dir):
            for path in set_aside_newer(self.args.output_dir, self._goes_on_from):
                logger.warning(f"The run goes on from step {self._goes_on_from}; what came after is now {path}.")

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`; a loss that is not finite ends the run."""
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise self._diverged(f"The loss is {logs['loss']}")
        super().log(logs, start_time)

    def _diverged(self, what: str) -> TrainingError:
        return TrainingError(
            f"{what} at step {self.state.global_step}: the run has diverged. Lower --learning_rate, lengthen --warmup_epochs, "
            f"clip with --max_grad_norm 1, or use --bf16 in place of --fp16. {last_good_sentence(self.args.output_dir)}"
        )

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As `Trainer.evaluate`, with the averaged weights, the raw ones, or both (the raw ones as `eval_raw_...`).

        No random number is drawn from the generators of the training, so that it goes on as if there had been no evaluation.
        """
        metrics = {}
        evaluated = self.args.evaluated_weights if self.ema is not None else ("raw",)
        for weights in evaluated:
            prefix = f"{metric_key_prefix}_raw" if weights == "raw" and len(evaluated) > 1 else metric_key_prefix
            average = self.ema.applied_to(self.model) if weights == "ema" else contextlib.nullcontext()
            with torch.random.fork_rng(devices=[]), average:
                metrics.update(super().evaluate(eval_dataset, ignore_keys, prefix))
        return metrics

    def evaluation_loop(self, dataloader, description, *args, metric_key_prefix: str = "eval", **kwargs):
        """As Trainer's, with the loss of each image counted once; Trainer's own mean knows batches and their padding."""
        output = super().evaluation_loop(dataloader, description, *args, metric_key_prefix=metric_key_prefix, **kwargs)
        exact = output.metrics.pop(f"{metric_key_prefix}_{_EXACT_LOSS}", None)
        if exact is not None:
            output.metrics[f"{metric_key_prefix}_loss"] = exact
        return output

    @contextlib.contextmanager
    def weights_to_save(self) -> Iterator[None]:
        """Within it, the model has the weights that `--save_weights` names."""
        average = self.ema is not None and self.args.save_weights == "ema"
        with self.ema.applied_to(self.model) if average else contextlib.nullcontext():
            yield

    # Checkpoints

    def _save_checkpoint(self, model, trial) -> None:
        """A checkpoint with all that going on needs, whole or not at all."""
        if self.state.global_step == self._saved_at:
            return  # at the end of an epoch and of the run: replacing it would leave a moment without any
        self._check_finite()
        run_dir, step = Path(self._get_output_dir(trial)), self.state.global_step
        self.store_flos()
        seals = self.args.should_save
        with writing(run_dir, step, seals=seals, wait=self.accelerator.wait_for_everyone) as folder:
            self.save_model(str(folder), _internal_call=True)
            if not self.args.save_only_model:
                self._save_optimizer_and_scheduler(str(folder))
                self._save_scaler(str(folder))
                self._save_rng_state(str(folder))
            self._save_average(folder)
            best = self.state.best_global_step
            if best and (best == step or (run_dir / f"{PREFIX}{best}").exists()):
                self.state.best_model_checkpoint = str(run_dir / f"{PREFIX}{best}")
            if seals:
                self._note_callbacks()
                self.state.save_to_json(str(folder / "trainer_state.json"))
                write_position(folder, self._position())
        self._saved_at = step
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / f"{PREFIX}{step}"))
        if seals:
            keep_newest(run_dir, self.args.save_total_limit, protected=self.state.best_model_checkpoint)

    def _note_callbacks(self) -> None:
        """Put the state of callbacks that have one (early stopping's patience) into the trainer's, as Trainer does when it saves."""
        keepers = [one for one in [*self.callback_handler.callbacks, self.control] if isinstance(one, ExportableState)]
        for name in {type(one).__name__ for one in keepers}:
            states = [one.state() for one in keepers if type(one).__name__ == name]
            kept = self.state.stateful_callbacks.get(name)
            self.state.stateful_callbacks[name] = states if isinstance(kept, list) else states[0]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's; of a model that is shared out (FSDP2), the whole."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir, state_dict=full_state(self.model.state_dict()))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _position(self) -> dict:
        step = self.state.global_step
        return position_of(self.args, step, self._updates_per_epoch, self.global_batch_size, self.train_dataset)

    def _check_finite(self) -> None:
        flag = (all_finite(self.model) & self._tr_loss.isfinite()).reshape(1).int()
        if not bool(self.accelerator.gather(flag).min()):
            raise self._diverged("The loss or a weight is not finite")

    def _save_average(self, folder: Path) -> None:
        if self.ema is None:
            return
        state = full_state(self.ema.state_dict())
        with self.ema.applied_to(self.model):
            self.save_model(str(folder / AVERAGE_MODEL), _internal_call=True)
        if self.args.should_save:
            torch.save(state, folder / AVERAGE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with own_rates(self.optimizer, self.lr_scheduler) if checkpoint else contextlib.nullcontext():
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        """As Trainer's; the average of the weights becomes the best checkpoint's too."""
        super()._load_best_model()
        if self.ema is not None and self.state.best_model_checkpoint:
            self._load_average(Path(self.state.best_model_checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """As Trainer's, but through `from_pretrained`, which knows the names under which Transformers saves a model."""
        own = isinstance(self.model, PreTrainedModel) and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if not own:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        loaded = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        try:
            self.model.load_state_dict(loaded.state_dict())
        except RuntimeError as error:
            raise CheckpointError(
                f"{resume_from_checkpoint} holds another model than the one to be trained: {str(error).splitlines()[1].strip()}"
            ) from error

    def _begin_average(self) -> None:
        """Start the average of the weights, or take it up where the checkpoint left it."""
        if not self.args.ema_decay:
            return
        self.args.ema_warmup = average_warms_up(self.args, self.state.max_steps)
        self.ema = WeightAverage(self.model, self.args.ema_decay, warmup=self.args.ema_warmup)
        if self._resumes_from is not None:
            self._load_average(self._resumes_from)

    def _load_average(self, checkpoint: Path) -> None:
        self.ema.load_state_dict(shard_like(read_average(checkpoint), self.ema.state_dict()))


def _ranks_and_losses(logits, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What is kept of each image's logits: its five best classes `(B,5)` and its cross-entropy `(B,)`."""
    own = logits[0] if isinstance(logits, (tuple, list)) else logits
    return top_classes(logits, labels), torch.nn.functional.cross_entropy(own.float(), labels, reduction="none")


def _accuracies_and_loss(prediction: EvalPrediction) -> dict[str, float]:
    ranked, losses = prediction.predictions
    labeled = prediction.label_ids >= 0
    loss = float(losses[labeled].mean(dtype="float64")) if labeled.any() else math.nan
    return {**compute_metrics(EvalPrediction(ranked, prediction.label_ids)), _EXACT_LOSS: loss}


class _AfterEachStep(TrainerCallback):
    """What SimATrainer does between the optimizer's step and the record of it: average the weights, heed SIGTERM."""

    def __init__(self, trainer: SimATrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begin()

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        if trainer.ema is not None and not trainer.accelerator.optimizer_step_was_skipped:
            trainer.ema.update(trainer.model)
        if trainer.stop_request.agreed(state.global_step, trainer.accelerator):
            trainer.stopped_by_signal = control.should_save = control.should_training_stop = True
        self._settle(control)

    def on_epoch_end(self, args, state, control, **kwargs):
        self._settle(control)

    def _settle(self, control) -> None:
        if control.should_save:
            control.should_log = True  # the record of the loss starts anew where a resumed run starts
        if self.trainer.stopped_by_signal:
            control.should_evaluate = False  # there may be little time left

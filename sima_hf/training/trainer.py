"""`SimATrainer`: Transformers' Trainer with SimA's recipe, an average of the weights, and checkpoints that are whole."""

import contextlib
import functools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F
from transformers import EvalPrediction, PreTrainedModel, Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import EvalLoopOutput, SchedulerType, TrainOutput
from transformers.utils import logging

from ..data.images import collate
from ..data.loading import Unreadable, begin_worker, leaving_flag, lost_workers_as_errors, training_loader
from ..data.pixels import normalize
from ..data.processors import normalization
from ..data.streaming import StreamedImages
from ..evaluation.metrics import compute_metrics
from ..folders.manifest import PREFIX
from .arguments import SimATrainingArguments
from .checkpoints.folders import last_good_sentence, remove_leftovers
from .checkpoints.interruption import StoppedBySignal, StopRequest
from .checkpoints.sharded import fsdp_wrap_layers, unshard
from .checkpoints.state import RunState
from .checkpoints.weights import load_weights
from .measuring import measure
from .recipe.batch_norm import synchronize_batch_norm
from .recipe.ema import WeightAverage
from .recipe.optimization import decaying_names, keep_current_lr, optimizer_of
from .recipe.parts import augmentation_of, scaled_lr, schedule_of
from .splits import SHUFFLE_BUFFER, Splits


logger = logging.get_logger(__name__)


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
        shuffle_buffer_size: images of a stream to draw from at random.
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
        shuffle_buffer_size: int = SHUFFLE_BUFFER,
        **kwargs,
    ):
        self.splits = Splits(
            model, args, processing_class, image_column, label_column, num_images, max_unreadable, shuffle_buffer_size
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
            synchronize_batch_norm(model, device_type=args.device.type)
        data = {"train_dataset": train_dataset, "eval_dataset": eval_dataset, "processing_class": processing_class}
        super().__init__(model, args, data_collator=collate, **data, **kwargs)
        fsdp_wrap_layers(self.accelerator, model)
        # The loss is a mean over the micro-batch; Trainer then divides by their number.
        self.model_accepts_loss_kwargs = False
        self.augmentation = augmentation_of(args, image_mean, image_std, model.config.num_labels)
        self.unreadable = Unreadable(max_unreadable)
        self.run_state = RunState(args, self.accelerator, model, self._save_internally)
        self.stop_request = StopRequest()
        self.stopped_by_signal = False
        self._resumes_from: Path | None = None
        self.add_callback(_AfterEachStep(self))  # behind the flow callback, whose decisions it adds to

    @property
    def ema(self) -> WeightAverage | None:
        """The average of the weights; None before the training, or where none is kept."""
        return self.run_state.ema

    @property
    def saved_model(self) -> PreTrainedModel:
        """What is saved of the model that is trained: all of it."""
        return self.model

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
        steps_per_epoch = math.ceil(len(loader) / args.gradient_accumulation_steps)
        self.run_state.describe_data(self.train_dataset, steps_per_epoch, self.global_batch_size)
        if self._resumes_from is not None:
            step = self.run_state.step_of(self._resumes_from)
            if isinstance(self.train_dataset, StreamedImages):
                epoch, update = divmod(step, steps_per_epoch)
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
            inputs["pixel_values"] = pixels.to(self.model.dtype)
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
        loss = F.cross_entropy(outputs["logits"].float(), labels)
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
        self.args.learning_rate = scaled_lr(self.args, self.global_batch_size)
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
                self.run_state.steps_per_epoch,
                self.global_batch_size,
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # Training

    def train(self, resume_from_checkpoint: str | Path | None = None, **kwargs):
        """As `Trainer.train`; `resume_from_checkpoint` is a checkpoint that `checkpoint_to_resume` has checked."""
        self._resumes_from = Path(resume_from_checkpoint) if resume_from_checkpoint else None
        self.stopped_by_signal, folder = False, str(resume_from_checkpoint) if resume_from_checkpoint else None
        if self.args.should_save:
            remove_leftovers(self.args.output_dir)
        with self.stop_request, lost_workers_as_errors(lambda: last_good_sentence(self.args.output_dir)):
            try:
                output = super().train(resume_from_checkpoint=folder, **kwargs)
            except StoppedBySignal:  # in an evaluation, which is given up
                self.stopped_by_signal = True
                if self.state.global_step:
                    self._save_checkpoint(self.model, None)
                output = TrainOutput(self.state.global_step, math.nan, {})
        if self.stopped_by_signal and self.args.should_save:
            print(self.run_state.stopped())
        return output

    def _run_epoch(self, *args, **kwargs):
        if self.state.global_step >= self.state.max_steps:  # taken up at its end, in the middle of an epoch
            self.control.should_training_stop = True
            return None
        return super()._run_epoch(*args, **kwargs)

    def begin(self) -> None:
        """What comes right before the first step, when the checkpoint has been loaded."""
        self.run_state.step = 0
        self.run_state.start(self.state.max_steps)
        if self._resumes_from is not None:
            self.run_state.restore(self._resumes_from)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """As `Trainer.log`; a loss that is not finite ends the run."""
        if "loss" in logs and not math.isfinite(logs["loss"]):
            raise self.run_state.diverged(f"The loss is {logs['loss']}")
        super().log(logs, start_time)

    # Evaluation

    def evaluate(self, eval_dataset=None, ignore_keys=None, metric_key_prefix: str = "eval") -> dict[str, float]:
        """As `Trainer.evaluate`, with the averaged weights, the raw ones, or both (the raw ones as `eval_raw_...`).

        No random number is drawn from the generators of the training, so that it goes on as if there had been no evaluation.

        Raises:
            StoppedBySignal: SIGTERM came; within `train`, that ends the training instead.
        """
        evaluate = super().evaluate
        if isinstance(self.eval_dataset if eval_dataset is None else eval_dataset, dict):
            return evaluate(eval_dataset, ignore_keys, metric_key_prefix)  # comes back here for each
        with self.stop_request:
            return self.run_state.evaluate(
                lambda prefix: evaluate(eval_dataset, ignore_keys, prefix), metric_key_prefix
            )

    def evaluation_loop(
        self,
        dataloader: torch.utils.data.DataLoader,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """As Trainer's; without `compute_metrics`, loss and accuracies of each image counted once, over all processes.

        Trainer's own mean of the loss knows batches and their padding.
        """
        if self.compute_metrics is not None:
            return super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix
            )
        if prediction_loss_only:  # an evaluation, as Trainer asks for one where there is no `compute_metrics`
            half = {self.args.fp16_full_eval: torch.float16, self.args.bf16_full_eval: torch.bfloat16}.get(True)
            if not self.is_in_train and (half or next(self.model.parameters()).device != self.args.device):
                # Never of a model in training: DDP would no longer know its parameters.
                self.model.to(self.args.device, half)
            metrics = measure(
                self.model,
                dataloader,
                (self.image_mean, self.image_std),
                self.accelerator,
                self.stop_request,
                self.unreadable,
                metric_key_prefix,
                progress=not self.args.disable_tqdm,
            )
            return EvalLoopOutput(None, None, metrics, len(dataloader.dataset))
        output = super().evaluation_loop(dataloader, description, False, ignore_keys, metric_key_prefix)
        if output.label_ids is not None:
            logits = output.predictions[0] if isinstance(output.predictions, tuple) else output.predictions
            loss = F.cross_entropy(torch.from_numpy(logits).float(), torch.from_numpy(output.label_ids)).item()
            counted = compute_metrics(EvalPrediction(logits, output.label_ids))
            output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in counted.items()})
            output.metrics[f"{metric_key_prefix}_loss"] = loss
        return output

    @contextlib.contextmanager
    def weights_to_save(self) -> Iterator[None]:
        """Within it, the model has the weights that `--save_weights` names."""
        with self.run_state.weights(self.args.save_weights):
            yield

    # Checkpoints

    def _save_checkpoint(self, model, trial) -> None:
        """A checkpoint with all that going on needs, whole or not at all."""
        run_dir, state = Path(self._get_output_dir(trial)), self.state
        best = state.best_global_step
        if best is not None and (best == state.global_step or (run_dir / f"{PREFIX}{best}").exists()):
            state.best_model_checkpoint = str(run_dir / f"{PREFIX}{best}")
        self.store_flos()
        self.run_state.step = state.global_step
        saved = self.run_state.save(self._write_checkpoint, state.best_model_checkpoint, self._tr_loss)
        if saved and self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / f"{PREFIX}{state.global_step}"))

    def _write_checkpoint(self, folder: Path) -> None:
        self._save_internally(folder)
        if not self.args.save_only_model:
            self._save_optimizer_and_scheduler(str(folder))
            self._save_scaler(str(folder))
            self._save_rng_state(str(folder))
        if self.args.should_save:
            self._note_callbacks()
            self.state.save_to_json(str(folder / "trainer_state.json"))

    def _save_internally(self, folder: Path) -> None:
        self.save_model(str(folder), _internal_call=True)

    def _note_callbacks(self) -> None:
        """Put the state of callbacks that have one (early stopping's patience) into the trainer's, as Trainer does when it saves."""
        keepers = [one for one in [*self.callback_handler.callbacks, self.control] if isinstance(one, ExportableState)]
        for name in {type(one).__name__ for one in keepers}:
            states = [one.state() for one in keepers if type(one).__name__ == name]
            kept = self.state.stateful_callbacks.get(name)
            self.state.stateful_callbacks[name] = states if isinstance(kept, list) else states[0]

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As Trainer's; of a model that is sharded (FSDP2), the whole."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        self._save(output_dir, state_dict=unshard(self.model.state_dict()))
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with keep_current_lr(self.optimizer, self.lr_scheduler) if checkpoint else contextlib.nullcontext():
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        """As Trainer's; the average of the weights becomes the best checkpoint's too."""
        super()._load_best_model()
        if self.state.best_model_checkpoint:
            self.run_state.load_average(Path(self.state.best_model_checkpoint))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model=None) -> None:
        """As Trainer's, but through `from_pretrained`, which knows the names under which Transformers saves a model."""
        own = isinstance(self.model, PreTrainedModel) and not (self.is_fsdp_enabled or self.is_deepspeed_enabled)
        if not own:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
        else:
            load_weights(self.model, resume_from_checkpoint)


class _AfterEachStep(TrainerCallback):
    """What SimATrainer does between the optimizer's step and the record of it: average the weights, heed SIGTERM."""

    def __init__(self, trainer: SimATrainer):
        self.trainer = trainer

    def on_train_begin(self, args, state, control, **kwargs):
        self.trainer.begin()

    def on_step_end(self, args, state, control, **kwargs):
        trainer = self.trainer
        trainer.run_state.step = state.global_step
        trainer.run_state.update_average()
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

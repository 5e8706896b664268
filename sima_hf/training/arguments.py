"""What a training run is told: which data, which model, and the recipe. Every field is an argument of the scripts.

The defaults of the recipe are those of the original training script (UCDvision/sima, main.py) for ImageNet. It changes the
learning rate once an epoch, this package at each step.
"""

import os
from dataclasses import dataclass, field

import torch
from transformers import TrainingArguments
from transformers.utils import logging

from ..errors import MissingDependencyError


try:
    from accelerate import PartialState
except ImportError as error:
    raise MissingDependencyError("Training needs accelerate: pip install 'sima-hf[train]'") from error


logger = logging.get_logger(__name__)

WEIGHTS = ("ema", "raw")


def cpu_count() -> int:
    """How many CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _help(text: str, **metadata) -> dict:
    return {"help": text, **metadata}


@dataclass
class DataArguments:
    """Which images; without any of the first four, scikit-learn's digits."""

    dataset_name: str | None = field(
        default=None,
        metadata=_help("Data set on the Hub or a local folder that `datasets.load_dataset` takes; 'digits'."),
    )
    dataset_config_name: str | None = field(default=None, metadata=_help("Configuration of that data set."))
    train_dir: str | None = field(default=None, metadata=_help("Folder with one sub-folder of images per class."))
    validation_dir: str | None = field(default=None, metadata=_help("The same for validation."))
    train_files: list[str] | None = field(
        default=None, metadata=_help("Parquet files or WebDataset tar shards to train on; patterns are expanded.")
    )
    validation_files: list[str] | None = field(default=None, metadata=_help("The same for validation."))
    image_column: str | None = field(
        default=None, metadata=_help("Column of the images; by default the one there is.")
    )
    label_column: str | None = field(
        default=None, metadata=_help("Column of the classes; by default the one there is.")
    )
    labels_file: str | None = field(
        default=None,
        metadata=_help("Text file with the names of the classes, one in a line, where the data has numbers only."),
    )
    held_out: float = field(
        default=0.2, metadata=_help("Share of the training images to validate on where there are no others.")
    )
    streaming: bool = field(
        default=False,
        metadata=_help("Stream the training data instead of downloading it, for data larger than the disk."),
    )
    shuffle_buffer_size: int = field(default=10_000, metadata=_help("Images to draw from at random when streaming."))
    num_train_images: int | None = field(
        default=None, metadata=_help("Images in an epoch when streaming data that does not say how many it has.")
    )
    max_train_images: int | None = field(default=None, metadata=_help("Use this many training images at most."))
    max_validation_images: int | None = field(default=None, metadata=_help("The same for validation."))
    max_unreadable_images: int = field(
        default=0, metadata=_help("Unreadable training images to pass over, by name, before the run gives up.")
    )

    @property
    def folders(self) -> tuple[str | None, ...]:
        """Where images may lie on this disk."""
        return self.train_dir, self.validation_dir, self.dataset_name


@dataclass
class ModelArguments:
    """Which model: exactly one of the first four."""

    variant: str | None = field(
        default=None, metadata=_help("An original SimA model with fresh weights, e.g. sima_small_12_p16.")
    )
    model_type: str | None = field(
        default=None,
        metadata=_help(
            "Any Transformers model type with fresh weights: sima, sima_deit, sima_cvt, or deit for softmax."
        ),
    )
    model_name_or_path: str | None = field(
        default=None, metadata=_help("A trained SimA or swapped model, folder or Hub name, to go on with.")
    )
    patch: str | None = field(
        default=None, metadata=_help("A trained softmax model, whose attention is swapped for SimA before training.")
    )
    attention: str = field(
        default="sima",
        metadata=_help("With --patch: what softmax is swapped for; 'sima', or a peer such as 'inline'."),
    )
    config_overrides: str | None = field(
        default=None, metadata=_help("Config fields to set, e.g. hidden_size=96,drop_path_rate=0.1.")
    )
    attention_gain: str | None = field(
        default=None,
        metadata=_help("'none' (the paper's formula) or 'tokens'; by default what the model has or the swap sets."),
    )
    calibrate: int = field(
        default=0, metadata=_help("With --patch: training images for a closed-form calibration before training.")
    )
    image_size: int | None = field(default=None, metadata=_help("Resolution in pixels; by default the model's own."))
    eval_crop_pct: float = field(
        default=0.875,
        metadata=_help("Side of the central crop in evaluation over the resized side; 1.0: the full crop."),
    )
    ignore_mismatched_sizes: bool = field(
        default=True, metadata=_help("Start a new classification head where the number of classes differs.")
    )
    revision: str | None = field(default=None, metadata=_help("Branch, tag or commit on the Hub."))
    token: str | None = field(default=None, metadata=_help("Access token of the Hub."))
    trust_remote_code: bool = field(default=False, metadata=_help("Run code that comes with a model from the Hub."))

    @property
    def hub_options(self) -> dict:
        """How the Hub is asked for the model, as `from_pretrained` takes it."""
        return {
            "revision": self.revision or "main",
            "token": self.token,
            "trust_remote_code": self.trust_remote_code,
        }


@dataclass
class RecipeArguments:
    """How to train; shared by the Trainer and the Accelerate script."""

    output_dir: str | None = field(default=None, metadata=_help("Folder for checkpoints, the model and its results."))
    overwrite_output_dir: bool = field(default=False, metadata=_help("Start over where a run left checkpoints."))
    resume_from_checkpoint: str | None = field(
        default=None, metadata=_help("A checkpoint folder; 'last'; or 'auto', the last one if there is one.")
    )
    per_device_train_batch_size: int = field(default=128, metadata=_help("Images per device and micro-batch."))
    per_device_eval_batch_size: int = field(default=128, metadata=_help("Images per device in evaluation."))
    gradient_accumulation_steps: int = field(default=1, metadata=_help("Micro-batches in one optimizer step."))
    num_train_epochs: float = field(default=400, metadata=_help("Epochs in all, warm-up and cooldown included."))
    max_steps: int = field(default=-1, metadata=_help("Optimizer steps in all, in place of the epochs."))
    learning_rate: float = field(default=5e-4, metadata=_help("Peak learning rate, for a global batch size of 512."))
    scale_learning_rate: bool = field(
        default=True,
        metadata=_help("Multiply the peak learning rate by global batch size / 512 (5e-4 is 1e-3 at 1024)."),
    )
    warmup_epochs: float = field(default=5, metadata=_help("Epochs of linear warm-up."))
    warmup_prefix: bool = field(
        default=False,
        metadata=_help("Begin the cosine after the warm-up; by default the warm-up covers the beginning of it."),
    )
    cooldown_epochs: float = field(default=0, metadata=_help("Epochs at the minimum learning rate in the end."))
    warmup_learning_rate: float = field(
        default=1e-6, metadata=_help("Learning rate at which the warm-up starts, whatever the batch size.")
    )
    min_learning_rate: float = field(
        default=1e-5, metadata=_help("Learning rate at which the cosine ends, whatever the batch size.")
    )
    weight_decay: float = field(
        default=0.05, metadata=_help("Weight decay; not for biases, norms, class tokens and position embeddings.")
    )
    max_grad_norm: float = field(default=0.0, metadata=_help("Maximum gradient norm; 0 disables clipping."))
    drop_path: float | None = field(
        default=None, metadata=_help("Probability of stochastic depth (config.drop_path_rate).")
    )
    rand_augment: str | None = field(
        default="rand-m9-mstd0.5-inc1", metadata=_help("RandAugment's magnitude in timm's words, or 'none'.")
    )
    color_jitter: float = field(default=0.4, metadata=_help("Jitter of colors, used where RandAugment is not."))
    color_jitter_with_rand_augment: bool = field(default=False, metadata=_help("Use it besides RandAugment."))
    random_erasing: float = field(default=0.25, metadata=_help("Probability of erasing a rectangle by noise."))
    mixup: float = field(default=0.8, metadata=_help("Alpha of mixup; 0 is off."))
    cutmix: float = field(default=1.0, metadata=_help("Alpha of cutmix; 0 is off."))
    mixup_switch_prob: float = field(default=0.5, metadata=_help("Probability of cutmix where both are on."))
    label_smoothing_factor: float = field(default=0.1, metadata=_help("Label smoothing."))
    repeated_augmentation: int = field(default=3, metadata=_help("Views of each image drawn in an epoch; 1 is off."))
    train_view: str = field(
        default="crop",
        metadata=_help("'crop' (random resized crop and flip), or 'shift' for small symbols: resized, moved."),
    )
    min_crop_area: float = field(default=0.08, metadata=_help("Smallest share of the image that a crop takes."))
    horizontal_flip: float = field(default=0.5, metadata=_help("Probability of a flip, with --train_view crop."))
    max_shift: float = field(default=0.125, metadata=_help("With --train_view shift: largest move, of the side."))
    ema_decay: float = field(
        default=0.99996, metadata=_help("Decay of the exponential moving average (EMA) of the weights; 0 keeps none.")
    )
    ema_warmup: bool | None = field(
        default=None,
        metadata=_help(
            "Average over fewer steps in the beginning; by default in runs that are short for --ema_decay."
        ),
    )
    eval_weights: str = field(
        default="raw",
        metadata=_help("Weights to evaluate in training: 'raw', 'ema' or 'both'."),
    )
    save_weights: str = field(default="raw", metadata=_help("Weights of the model saved in the end: 'raw' or 'ema'."))
    sync_batch_norm: bool = field(
        default=True, metadata=_help("Batch norm over all processes where there are several.")
    )
    save_total_limit: int | None = field(default=3, metadata=_help("Checkpoints kept."))
    logging_steps: float = field(default=50, metadata=_help("Steps between two records of the loss."))
    dataloader_num_workers: int = field(
        default_factory=lambda: min(8, cpu_count()),
        metadata=_help("Processes that decode images, per device; by default 8, or as many as there are CPUs."),
    )
    seed: int = field(default=42, metadata=_help("Seed of weights, order, views and dropout."))

    def check(self) -> None:
        """Raise ValueError, with the argument and what came, for what no run can be made of."""
        if self.output_dir is None:
            raise ValueError("--output_dir must name the folder of the run, got none.")
        if self.rand_augment and self.rand_augment.lower() == "none":
            self.rand_augment = None
        choices = {"train_view": ("crop", "shift"), "eval_weights": (*WEIGHTS, "both"), "save_weights": WEIGHTS}
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"--{name} must be one of {', '.join(known)}, got {getattr(self, name)!r}.")
        for name in ("random_erasing", "mixup_switch_prob", "horizontal_flip"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"--{name} must be from 0 to 1, got {getattr(self, name)}.")
        for name in ("ema_decay", "label_smoothing_factor"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"--{name} must be at least 0 and less than 1, got {getattr(self, name)}.")
        for name in ("mixup", "cutmix", "warmup_epochs", "cooldown_epochs", "min_learning_rate", "color_jitter"):
            if getattr(self, name) < 0:
                raise ValueError(f"--{name} must not be negative, got {getattr(self, name)}.")
        for name in (
            "repeated_augmentation",
            "per_device_train_batch_size",
            "gradient_accumulation_steps",
            "logging_steps",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} must be 1 or more, got {getattr(self, name)}.")
        if not 0 < self.min_crop_area <= 1:
            raise ValueError(f"--min_crop_area must be above 0 and at most 1, got {self.min_crop_area}.")

    @property
    def evaluated_weights(self) -> tuple[str, ...]:
        """The weights to evaluate, "ema" first; without an average, the raw ones."""
        if not self.ema_decay:
            return ("raw",)
        return WEIGHTS if self.eval_weights == "both" else (self.eval_weights,)


@dataclass
class SimATrainingArguments(RecipeArguments, TrainingArguments):
    """`transformers.TrainingArguments` with SimA's recipe: its defaults, and what it has besides.

    Raises:
        ValueError: what no run can be made of; the text has the argument and what came.
    """

    lr_scheduler_type: str = field(
        default="cosine",
        metadata=_help("'cosine' has the recipe's warm-up and cooldown; others are Transformers' own."),
    )
    eval_strategy: str = field(default="epoch", metadata=_help("When to evaluate: no, steps, epoch."))
    save_strategy: str = field(default="epoch", metadata=_help("When to save a checkpoint: no, steps, epoch."))
    # Trainer's "every_save" uploads its state as well, of which training_args.bin is a pickle.
    hub_strategy: str = field(
        default="end",
        metadata=_help("What --push_to_hub uploads: the finished folder (end), or every save, as Trainer does."),
    )
    # Batches carry the views' seeds and the names of unreadable images, which no model's forward takes.
    remove_unused_columns: bool = field(default=False, metadata=_help("Leave it as it is."))
    ddp_find_unused_parameters: bool | None = field(
        default=False, metadata=_help("Look for parameters without gradients in each step; needed by few models.")
    )
    # Trainer's filter would replace a NaN by an average; here it ends the run.
    logging_nan_inf_filter: bool = field(
        default=False, metadata=_help("Not used: a loss that is not finite ends the run.")
    )

    def __post_init__(self):
        self.check()
        if self.remove_unused_columns:
            raise ValueError(
                "--remove_unused_columns must be False, got True: batches carry the views' seeds and the names of unreadable "
                "images, which no model's forward takes. Leave it out."
            )
        # Without an accelerator, processes are only joined, and nothing is pinned, if one says so.
        self.use_cpu = self.use_cpu or not torch.accelerator.is_available()
        super().__post_init__()
        if self.n_gpu > 1:
            logger.warning(
                f"There are {self.n_gpu} GPUs and one process, which takes one of them: Transformers would spread its batches over all, "
                "with so many times the global batch size and batch norm of each alone. To use them all, start a process for each: accelerate "
                f"launch --num_processes {self.n_gpu}, before the script and its arguments."
            )
            self._n_gpu = 1


@dataclass
class LoopArguments(RecipeArguments):
    """The recipe for a training loop on Accelerate, which has its own launcher for devices and precision."""

    checkpointing_steps: int | None = field(
        default=None, metadata=_help("Steps between checkpoints; by default one after each epoch.")
    )
    report_to: str = field(
        default="none", metadata=_help("Trackers of Accelerate: trackio, tensorboard, wandb, all, none.")
    )
    push_to_hub: bool = field(default=False, metadata=_help("Upload the finished folder."))
    hub_model_id: str | None = field(
        default=None, metadata=_help("Repository to upload to; by default the folder's name.")
    )

    def __post_init__(self):
        self.check()

    @property
    def process_index(self) -> int:
        """Number of this process among all."""
        return PartialState().process_index

    @property
    def world_size(self) -> int:
        """Number of processes."""
        return PartialState().num_processes

    @property
    def should_save(self) -> bool:
        """Whether this process writes what is written once."""
        return PartialState().is_main_process

"""A run of the training commands, from its arguments to data and model, and from its results to the finished folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, set_seed
from transformers.utils import logging

from ..data.images import EvalImages
from ..data.pixels import normalize
from ..data.processors import normalization
from ..data.sources import ImageData, load_image_data
from ..data.views import EvalView
from ..errors import MissingDependencyError
from ..machine.waiting import main_process_first
from .arguments import DataArguments, ModelArguments, RecipeArguments
from .callbacks import WarnBelowStartCallback
from .checkpoints.folders import belongs_to, check_output_dir, checkpoint_to_resume, remove_run
from .checkpoints.progress import classes_of
from .curves import draw_curves
from .models import LoadedModel, build_model, calibrate_model, image_processor_of
from .publication import finish_folder
from .trainer import SimATrainer


logger = logging.get_logger(__name__)


@dataclass
class TrainingSetup:
    """What is to be trained on what.

    Attributes:
        data: the splits and the names of the classes.
        loaded: the model, and where it comes from.
        processor: the image processor that is saved with the model.
        checkpoint: where the run goes on, if it does.
        hub_dataset: name of the data on the Hub, if that is where they are from.
    """

    data: ImageData
    loaded: LoadedModel
    processor: Any
    checkpoint: Path | None = None
    hub_dataset: str | None = None

    @property
    def measures_start(self) -> bool:
        """Whether the model is evaluated before the first step: one that knows something, which training may ruin."""
        return bool(self.data.validation is not None and self.loaded.base_model and self.checkpoint is None)


def prepare(model_args: ModelArguments, data_args: DataArguments, args: RecipeArguments) -> TrainingSetup:
    """Find the checkpoint to go on from, load data and model, and calibrate, before anything on the disk is changed.

    Raises:
        DataError, CheckpointError, UnsupportedModelError, ValueError, OSError: as the parts.
    """
    logging.disable_progress_bar()  # of saving and loading weights; training keeps its own
    checkpoint = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint)
    data = load_data(data_args, model_args.token, checkpoint)
    set_seed(args.seed)
    loaded = build_model(model_args, data.labels, args.drop_path)
    processor = image_processor_of(loaded, model_args)
    check_folders(args, checkpoint, *data_args.folders)
    if model_args.calibrate and checkpoint is None:
        calibrate_on(loaded, data.train, processor, model_args.calibrate, args)
    if data.validation is None:
        args.eval_strategy = "no"
    return TrainingSetup(data, loaded, processor, checkpoint, hub_name_of(data_args))


def load_data(data_args: DataArguments, token: str | None = None, checkpoint: Path | None = None) -> ImageData:
    """The splits that the arguments name, cut down to what they allow; the main process fetches and reads before the others.

    Args:
        data_args: which.
        token: of the Hub.
        checkpoint: where the run goes on; it knows the classes of a stream, which is not read again for them.

    Raises:
        DataError: as `load_image_data`.
    """
    files = {"train": data_args.train_files, "validation": data_args.validation_files}
    names = Path(data_args.labels_file).read_text(encoding="utf-8").splitlines() if data_args.labels_file else None
    with main_process_first() as told:
        data = load_image_data(
            dataset=data_args.dataset_name,
            train_dir=data_args.train_dir,
            validation_dir=data_args.validation_dir,
            data_files={split: patterns for split, patterns in files.items() if patterns} or None,
            config_name=data_args.dataset_config_name,
            streaming=data_args.streaming,
            held_out=data_args.held_out,
            max_unreadable=data_args.max_unreadable_images,
            image_column=data_args.image_column,
            label_column=data_args.label_column,
            labels=names,
            num_images=data_args.num_train_images,
            read=told.get("classes") or (classes_of(checkpoint) if checkpoint else None),
            **({"token": token} if token else {}),
        )
        told["classes"] = data.labels, data.num_train
    if data_args.max_train_images and data_args.streaming:
        data.num_train = min(data.num_train or data_args.max_train_images, data_args.max_train_images)
    elif data_args.max_train_images:
        data.train = _subsample(data.train, data_args.max_train_images)
        data.num_train = len(data.train)
    if data_args.max_validation_images and data.validation is not None:
        data.validation = _subsample(data.validation, data_args.max_validation_images)
    return data


def _subsample(images, most: int):
    """At most so many of them; at random, as folders come in the order of their classes."""
    return images if len(images) <= most else images.shuffle(seed=0).select(range(most))


def hub_name_of(data_args: DataArguments) -> str | None:
    """The name of the data on the Hub, if that is where they are from."""
    name = data_args.dataset_name
    return None if name in (None, "digits") or Path(name).exists() else name


def check_folders(args: RecipeArguments, checkpoint: Path | None, *image_folders: str | None) -> None:
    """Make sure that the run's folder can be written into, and holds neither images nor another run.

    Args:
        args: of the run.
        checkpoint: where it goes on, if it does.
        image_folders: where images may lie; what is no folder is passed over.

    Raises:
        ValueError: it is the folder of the images, or lies in it, where its folders would be classes the next time.
        CheckpointError: it holds a run that this one neither goes on from nor is to replace.
        OSError: it cannot be made, or not be written into, which should not show at the first checkpoint only.
    """
    output = Path(args.output_dir).resolve()
    for given in image_folders:
        if given and Path(given).is_dir() and Path(given).resolve() in (output, *output.parents):
            raise ValueError(
                f"--output_dir must be outside the folder of images {given}, where its folders would be taken for classes, got "
                f"{args.output_dir}; name a folder elsewhere."
            )
    check_output_dir(args.output_dir, belongs_to(checkpoint, args.output_dir) or args.overwrite_output_dir)
    if args.should_save:
        probe = output / ".writable"
        output.mkdir(parents=True, exist_ok=True)
        probe.write_text("", encoding="utf-8")
        probe.unlink()


def start_over(args: RecipeArguments, checkpoint: Path | None) -> None:
    """Remove what an earlier run left in the folder, where --overwrite_output_dir says so and this one does not go on from it."""
    if args.should_save and args.overwrite_output_dir and not belongs_to(checkpoint, args.output_dir):
        remove_run(args.output_dir)


def calibrate_on(loaded: LoadedModel, images: Any, processor: Any, count: int, args: RecipeArguments) -> None:
    """Calibrate a swapped model on `count` training images, in place.

    Raises:
        ValueError: the images are a stream.
    """
    if not hasattr(images, "__len__"):
        raise ValueError("--calibrate samples the whole training set and cannot be combined with --streaming.")
    shown = EvalImages(_subsample(images, count), EvalView(processor))
    progress = args.should_save and not getattr(args, "disable_tqdm", False)
    calibrate_model(loaded, _batches(shown, processor), progress=progress)


def _batches(images: EvalImages, processor: Any, size: int = 64) -> Iterator[torch.Tensor]:
    for start in range(0, len(images), size):
        pixels = torch.stack([images[index]["pixel_values"] for index in range(start, min(start + size, len(images)))])
        yield normalize(pixels, *normalization(processor))


def trainer_arguments(setup: TrainingSetup, data_args: DataArguments) -> dict[str, Any]:
    """What `SimATrainer` is given besides the model and its arguments."""
    return {
        "train_dataset": setup.data.train,
        "eval_dataset": setup.data.validation,
        "processing_class": setup.processor,
        "num_images": setup.data.num_train,
        "max_unreadable": data_args.max_unreadable_images,
        "shuffle_buffer_size": data_args.shuffle_buffer_size,
    }


def train_and_evaluate(trainer: SimATrainer, setup: TrainingSetup) -> dict[str, float]:
    """Train, evaluate, and finish the folder.

    Returns:
        What `all_results.json` holds; {} if SIGTERM ended the training before its end.

    Raises:
        StoppedBySignal: SIGTERM came in the evaluation after the training.
    """
    start_over(trainer.args, setup.checkpoint)
    if setup.measures_start:
        trainer.args.eval_on_start = True
        trainer.add_callback(WarnBelowStartCallback())
    result = trainer.train(resume_from_checkpoint=setup.checkpoint)
    if trainer.stopped_by_signal:
        return {}
    metrics = trainer.evaluate() if setup.data.validation is not None else {}
    finish(trainer, setup, result.metrics, metrics)
    return {**result.metrics, **metrics}


def finish(
    trainer: SimATrainer,
    setup: TrainingSetup,
    train_metrics: dict,
    eval_metrics: dict,
    task: str = "image-classification",
) -> None:
    """Leave in the output folder: the model, its image processor, results, state, curves, card; push it where that is asked for.

    `task` is what the Hub calls it.
    """
    args = trainer.args
    with trainer.weights_to_save():
        trainer.save_model(_internal_call=True)  # the finished folder is pushed below, as a whole
    for split, metrics in (("train", train_metrics), ("eval", eval_metrics)):
        if metrics:
            trainer.log_metrics(split, metrics)
            trainer.save_metrics(split, metrics)
    trainer.save_state()
    if not args.should_save:
        return
    length = f"{trainer.state.num_train_epochs} epochs, {trainer.global_batch_size} images a step, seed {args.seed}"
    draw(trainer.state.log_history, trainer.saved_model, setup, args, length)
    if not finish_folder(args, trainer.saved_model, setup, trainer.global_batch_size):
        card = {"tasks": task, "dataset": setup.data.source, "tags": [task]}
        (trainer.push_to_hub if args.push_to_hub else trainer.create_model_card)(**card)


def draw(
    history: list[dict], model: PreTrainedModel, setup: TrainingSetup, args: RecipeArguments, length: str
) -> None:
    """`curves.png` of a run; a warning where matplotlib is missing, for a picture must not cost a finished run its end."""
    name = type(model).__name__.removesuffix("ForImageClassification")
    title = f"{name} on {setup.data.source}, {setup.loaded.image_size} px: {length}"
    try:
        draw_curves(history, Path(args.output_dir) / "curves.png", title)
    except MissingDependencyError as error:
        logger.warning(f"No curves: {error}")

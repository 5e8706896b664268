"""What training commands share: from arguments to data and model, from a trainer to results on the disk, from failures to sentences."""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser, set_seed
from transformers.utils import logging

from ..data.images import EvalImages, TrainImages
from ..data.pixels import normalize
from ..data.processors import normalization, processor_for
from ..data.sources import ImageData, load_image_data
from ..data.streaming import StreamedImages
from ..data.views import EvalView
from ..errors import MissingDependencyError
from ..errors.sentences import sentence_of, traceback_wanted, with_hint
from ..loading.processors import load_processor
from ..machine.waiting import main_process_first
from .arguments import DataArguments, ModelArguments, SimATrainingArguments
from .callbacks import SaysBelowStart
from .checkpoints.folders import belongs_to, check_output_dir, checkpoint_to_resume, last_good_sentence, remove_run
from .checkpoints.progress import classes_of
from .curves import draw_curves
from .models import BuiltModel, build_model, calibrated
from .publication import finish_folder
from .splits import train_images, train_view
from .trainer import SimATrainer


logger = logging.get_logger(__name__)


@dataclass
class Task:
    """What is to be trained on what.

    Attributes:
        data: the splits and the names of the classes.
        built: the model, and where it comes from.
        processor: the image processor that is saved with the model.
        train: images for `SimATrainer`.
        validation: the same for evaluation; None where nothing is held out.
        hub_dataset: name of the data on the Hub, if that is where they are from.
    """

    data: ImageData
    built: BuiltModel
    processor: Any
    train: TrainImages | StreamedImages
    validation: EvalImages | None
    hub_dataset: str | None = None


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Defaults of arguments, and examples line by line."""


def parse(*kinds: type, arguments: list[str] | None = None, prog: str | None = None, examples: str = "") -> tuple:
    """Read the command line into dataclasses: `[CONFIG.json] [--name value ...]`, the command line having the last word.

    Args:
        kinds: the dataclasses.
        arguments: without the program's name; None: those of the process.
        prog: what the help calls the command; None: the script's name.
        examples: end of the help.

    Raises:
        ValueError: the JSON file has a field that no dataclass has.
        SystemExit: as argparse, for a wrong command line.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    parser = HfArgumentParser(kinds, prog=prog, epilog=examples.replace("\n", "\n  "), formatter_class=_Help)
    if arguments and arguments[0].endswith(".json"):
        path = Path(arguments[0])
        if not path.is_file():
            raise ValueError(f"There is no file {path} of arguments.")
        try:
            defaults = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}.") from error
        if not isinstance(defaults, dict):
            raise ValueError(
                f"{path} must hold an object with one entry for each argument, but it is a {type(defaults).__name__}."
            )
        known = {field.name for kind in kinds for field in fields(kind)}
        foreign = sorted(set(defaults) - known)
        if foreign:
            raise ValueError(f"{path} sets {', '.join(foreign)}, which this script does not know.")
        parser.set_defaults(**defaults)
        arguments = arguments[1:]
    return parser.parse_args_into_dataclasses(args=arguments)


@contextlib.contextmanager
def failures_as_sentences(script: str | None, output_dir: str | None = None) -> Iterator[None]:
    """Turn what a user can mend into one sentence and exit code 1; Ctrl-C into where to go on, and 130; let faults through."""
    try:
        yield
    except KeyboardInterrupt:
        where = f" {last_good_sentence(output_dir)}" if output_dir else ""
        print(f"\n{script}: interrupted.{where}", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        sentence = sentence_of(error)
        if sentence is None:
            with_hint(error)
        if sentence is None or traceback_wanted():
            raise
        print(f"{script}: {sentence}", file=sys.stderr)
        sys.exit(1)


def prepare(
    model_args: ModelArguments, data_args: DataArguments, args: SimATrainingArguments
) -> tuple[Task, Path | None]:
    """Load the data, build the model, and find the checkpoint to go on from, before anything is changed.

    Returns:
        The task, and the checkpoint or None.

    Raises:
        DataError, CheckpointError, UnsupportedModelError, ValueError, OSError: as the parts.
    """
    logging.disable_progress_bar()  # of saving and loading weights; training keeps its own
    checkpoint = checkpoint_to_resume(args.output_dir, args.resume_from_checkpoint)
    with main_process_first() as told:
        read = told.get("classes") or (classes_of(checkpoint) if checkpoint else None)
        data = load_data(data_args, model_args.token, read)
        told["classes"] = data.labels, data.num_train
    set_seed(args.seed)
    built = build_model(model_args, data.labels, args.drop_path)
    source = built.processor and load_processor(
        built.processor,
        revision=model_args.revision or "main",
        token=model_args.token,
        trust_remote_code=model_args.trust_remote_code,
    )
    processor = processor_for(source, built.image_size, model_args.eval_crop_pct)
    check_apart(args.output_dir, data_args)
    check_output_dir(args.output_dir, belongs_to(checkpoint, args.output_dir) or args.overwrite_output_dir)
    if args.should_save:
        make_writable(args.output_dir)
    train, validation = images_of(data, data_args, args, processor, built.image_size)
    if model_args.calibrate and checkpoint is None:
        if data_args.streaming:
            raise ValueError(
                "--calibrate needs training images from all over the data set, which a stream has not: leave out one."
            )
        shown = EvalImages(_some(data.train, model_args.calibrate), EvalView(processor))
        calibrated(
            built, _batches(shown, processor), progress=args.should_save and not getattr(args, "disable_tqdm", False)
        )
    if validation is None:
        args.eval_strategy = "no"
    named = data_args.dataset_name
    elsewhere = named in (None, "digits") or Path(named).exists()
    return Task(data, built, processor, train, validation, None if elsewhere else named), checkpoint


def check_apart(output_dir: str, data_args: DataArguments) -> None:
    """Refuse to write a run among the images, where its folders would be classes the next time.

    Raises:
        ValueError: the run's folder is that of the images, or lies in it.
    """
    output = Path(output_dir).resolve()
    for name in ("train_dir", "validation_dir", "dataset_name"):
        given = getattr(data_args, name)
        if given and Path(given).is_dir() and Path(given).resolve() in (output, *output.parents):
            raise ValueError(
                f"--output_dir {output_dir} lies in the folder of images --{name} {given}, where its folders would be taken for classes; "
                "name a folder elsewhere."
            )


def make_writable(folder: str) -> None:
    """Make a folder and write into it, so that a run does not find at its first checkpoint that it cannot.

    Raises:
        OSError: it cannot be made, or not be written into.
    """
    probe = Path(folder) / ".writable"
    probe.parent.mkdir(parents=True, exist_ok=True)
    probe.write_text("", encoding="utf-8")
    probe.unlink()


def load_data(
    data_args: DataArguments, token: str | None = None, read: tuple[list[str], int | None] | None = None
) -> ImageData:
    """The splits that the arguments name, cut down to what they allow; `read` as `load_image_data` takes it.

    Raises:
        DataError: as `load_image_data`.
    """
    files = {"train": data_args.train_files, "validation": data_args.validation_files}
    files = {split: patterns for split, patterns in files.items() if patterns}
    data = load_image_data(
        dataset=data_args.dataset_name,
        train_dir=data_args.train_dir,
        validation_dir=data_args.validation_dir,
        data_files=files or None,
        config_name=data_args.dataset_config_name,
        streaming=data_args.streaming,
        held_out=data_args.held_out,
        max_unreadable=data_args.max_unreadable_images,
        image_column=data_args.image_column,
        label_column=data_args.label_column,
        labels=Path(data_args.labels_file).read_text(encoding="utf-8").splitlines() if data_args.labels_file else None,
        num_images=data_args.num_train_images,
        read=read,
        **({"token": token} if token else {}),
    )
    if data_args.max_train_images and data_args.streaming:
        data.num_train = min(data.num_train or data_args.max_train_images, data_args.max_train_images)
    elif data_args.max_train_images:
        data.train = _some(data.train, data_args.max_train_images)
        data.num_train = len(data.train)
    if data_args.max_validation_images and data.validation is not None:
        data.validation = _some(data.validation, data_args.max_validation_images)
    return data


def _some(images, most: int):
    """At most so many of them; at random, as folders come in the order of their classes."""
    return images if len(images) <= most else images.shuffle(seed=0).select(range(most))


def trainer_arguments(task: Task, data_args: DataArguments) -> dict[str, Any]:
    """What `SimATrainer` is given besides the model and its arguments."""
    image_mean, image_std = normalization(task.processor)
    return {
        "image_mean": image_mean,
        "image_std": image_std,
        "train_dataset": task.train,
        "eval_dataset": task.validation,
        "processing_class": task.processor,
        "max_unreadable": data_args.max_unreadable_images,
    }


def images_of(
    data: ImageData, data_args: DataArguments, args: SimATrainingArguments, processor, image_size: int
) -> tuple[TrainImages | StreamedImages, EvalImages | None]:
    """The images as a trainer takes them: random views for training, the processor's for evaluation."""
    train = train_images(
        data.train,
        args,
        train_view(args, processor, image_size),
        num_images=data.num_train,
        max_unreadable=data.max_unreadable,
        buffer_size=data_args.shuffle_buffer_size,
    )
    validation = None if data.validation is None else EvalImages(data.validation, EvalView(processor))
    return train, validation


def _batches(images: EvalImages, processor, size: int = 64) -> Iterator[torch.Tensor]:
    for start in range(0, len(images), size):
        pixels = torch.stack([images[index]["pixel_values"] for index in range(start, min(start + size, len(images)))])
        yield normalize(pixels, *normalization(processor))


def class_name(model: torch.nn.Module) -> str:
    """What to call a model in a picture: SimADeiT."""
    return type(model).__name__.removesuffix("ForImageClassification")


def draw(history: list[dict], path: Path, title: str) -> None:
    """The curves of a run; a warning where matplotlib is missing, for a picture must not cost a finished run its end."""
    try:
        draw_curves(history, path, title)
    except MissingDependencyError as error:
        logger.warning(f"No curves: {error}")


def train_and_evaluate(trainer: SimATrainer, task: Task, checkpoint: Path | None) -> dict[str, float]:
    """Train, evaluate, and leave in the output folder: the model, its image processor, results, state, and a picture of the curves.

    Returns:
        What `all_results.json` holds; {} if SIGTERM ended the training before its end.
    """
    args = trainer.args
    if args.should_save and args.overwrite_output_dir and not belongs_to(checkpoint, args.output_dir):
        remove_run(args.output_dir)
    if task.validation is not None and task.built.base_model and checkpoint is None:
        args.eval_on_start = True
        trainer.add_callback(SaysBelowStart())
    result = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if trainer.stopped_by_signal:
        if args.should_save:
            print(f"Stopped by SIGTERM after step {trainer.state.global_step}. {last_good_sentence(args.output_dir)}")
        return {}
    metrics = trainer.evaluate() if task.validation is not None else {}
    with trainer.weights_to_save():
        trainer.save_model(_internal_call=True)  # the finished folder is pushed below, as a whole
    trainer.log_metrics("train", result.metrics)
    trainer.save_metrics("train", result.metrics)
    if metrics:
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    trainer.save_state()
    if args.should_save:
        draw(
            trainer.state.log_history,
            Path(args.output_dir) / "curves.png",
            f"{class_name(trainer.model)} on {task.data.source}, {task.built.image_size} px: {trainer.state.num_train_epochs} epochs, "
            f"{trainer.global_batch_size} images a step, seed {args.seed}",
        )
        if not finish_folder(args, trainer.model, task, trainer.global_batch_size):
            card = {"tasks": "image-classification", "dataset": task.data.source, "tags": ["image-classification"]}
            (trainer.push_to_hub if args.push_to_hub else trainer.create_model_card)(**card)
    return {**result.metrics, **metrics}

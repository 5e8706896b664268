"""An evaluation from its options to its report: the core of `sima-hf evaluate`."""

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path

import torch

from ..data.images import EvalImages, collate
from ..data.processors import normalization, processor_for, side_of
from ..data.sources import ImageData, load_folder, load_image_data
from ..data.views import EvalView
from ..errors import DataError
from ..folders.local_paths import shown_place, without_folders
from ..folders.weights_hash import hash_of
from ..loading.by_name import is_sima
from ..loading.processors import load_processor
from ..loading.weights_place import processor_source
from ..machine.description import device_name, versions
from ..machine.devices import DTYPES, best_device, check_device
from ..machine.plotting import pyplot
from ..machine.processes import make_accelerator
from ..machine.waiting import main_process_first
from .classifiers import load_classifier, match_labels
from .confusion import most_confused
from .counting import EvaluationResult, evaluate_model


@dataclass(frozen=True)
class EvaluationOptions:
    """What to evaluate, and on which images; without any source of images, scikit-learn's digits.

    Attributes:
        model_name_or_path: model folder, training checkpoint, or Hub name.
        weights: "ema" or "raw" of a training checkpoint; None: raw.
        dataset, config_name: data set on the Hub, or "digits", and its configuration.
        train_dir: folder of training images by class; what is held out of it is evaluated.
        validation_dir: folder with one sub-folder of images for each class, all evaluated.
        data_files: parquet files or WebDataset shards, all evaluated.
        image_column, label_column: where the usual names do not tell.
        held_out: share held out, where there is no validation split.
        labels_by_index: match classes by index, whatever their names.
        image_size: resolution in pixels; None: the model's own.
        eval_crop_pct: share of the shorter side that is seen; None: the model's own way.
        batch_size: images per device at a time.
        num_workers: processes that decode images, per device.
        device: "cpu", "cuda", ...; None: the best there is.
        dtype: a key of `DTYPES`, of the model's parameters.
        backend: who computes SimA attention, see `sima_hf.ops.backend_report()`; "auto" leaves the choice.
        revision, trust_remote_code: of the model, as `from_pretrained`.
        output_dir: folder that a report is to be written to; here only looked at to find what is missing for that early.
    """

    model_name_or_path: str
    weights: str | None = None
    dataset: str | None = None
    config_name: str | None = None
    train_dir: str | None = None
    validation_dir: str | None = None
    data_files: list[str] | None = None
    image_column: str | None = None
    label_column: str | None = None
    held_out: float = 0.2
    labels_by_index: bool = False
    image_size: int | None = None
    eval_crop_pct: float | None = None
    batch_size: int = 64
    num_workers: int = 0
    device: str | None = None
    dtype: str = "float32"
    backend: str = "auto"
    revision: str | None = None
    trust_remote_code: bool = False
    output_dir: Path | None = None


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        report: for evaluation.json, which others may read, so that folders are named by their last part.
        result: the counts.
        names: of the model's classes.
    """

    report: dict
    result: EvaluationResult
    names: list[str]


def run_evaluation(options: EvaluationOptions) -> Evaluation | None:
    """Load model and images, and count. Several processes of `accelerate launch` or torchrun share the images.

    Returns:
        What was found; None on all processes but the main one.

    Raises:
        ValueError: an option out of its range; DataError and CheckpointError are such, and say what is wrong with data or model.
        MissingDependencyError: a package for this data, for several processes, or for the picture is not installed.
        OSError: files that cannot be read.
    """
    if options.batch_size < 1:
        raise ValueError(f"`batch_size` must be positive, got {options.batch_size}.")
    check_device(options.device)
    if options.output_dir:
        pyplot()  # fail before the evaluation, not after it
    accelerator = make_accelerator(options.device)
    hub = {"trust_remote_code": options.trust_remote_code}
    if options.revision:
        hub["revision"] = options.revision
    model, folder = load_classifier(options.model_name_or_path, options.weights, DTYPES[options.dtype], **hub)
    weights_sha256 = hash_of(folder, options.revision)
    if options.backend != "auto":
        if not is_sima(model):
            raise ValueError(
                f"`backend` chooses who computes SimA attention, but {type(model).__name__} has softmax; leave it out."
            )
        model.set_attn_implementation(f"sima_{options.backend}")
    processor = load_processor(processor_source(folder), **hub)
    processor = processor_for(processor, options.image_size, options.eval_crop_pct)
    mean, std = normalization(processor)
    with main_process_first() if accelerator else contextlib.nullcontext():
        images, labels, source = _load_data(options)
    classes = match_labels(model.config.id2label, labels, options.labels_by_index)
    device = accelerator.device if accelerator else torch.device(options.device or best_device())
    model.to(device)
    batches = torch.utils.data.DataLoader(
        EvalImages(images, EvalView(processor)),
        batch_size=options.batch_size,
        collate_fn=collate,
        num_workers=options.num_workers,
        pin_memory=device.type == "cuda",
    )
    if accelerator:
        batches = accelerator.prepare_data_loader(batches, device_placement=False)
    result = evaluate_model(model, batches, mean=mean, std=std, classes=classes, accelerator=accelerator)
    if accelerator is not None and not accelerator.is_main_process:
        return None
    names = [str(model.config.id2label[index]) for index in range(len(model.config.id2label))]
    report = {
        **measured(result, names),
        "unreadable": [without_folders(one, options.train_dir, options.validation_dir) for one in result.unreadable],
        "settings": {
            "model": shown_place(options.model_name_or_path, here=True),
            "class": type(model).__name__,
            "weights": options.weights or ("raw" if (Path(folder) / "ema").is_dir() else "as saved"),
            "weights_sha256": weights_sha256,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "data": source,
            "image_size": options.image_size or side_of(processor),
            "eval_crop_pct": options.eval_crop_pct,
            "processor": processor.to_dict(),
            "dtype": options.dtype,
            "backend": options.backend,
            "batch_size": options.batch_size,
            "processes": accelerator.num_processes if accelerator else 1,
            "device": device_name(str(device)),
        },
        "versions": versions(),
    }
    return Evaluation(report, result, names)


def _load_data(options: EvaluationOptions) -> tuple:
    """The images to evaluate, the names of their classes, and what they are called, folders by their last part."""
    columns = {"image_column": options.image_column, "label_column": options.label_column}
    _check_one_source(options)
    if options.data_files:
        data = load_image_data(data_files=options.data_files, **columns, held_out=0)
        return data.train, data.labels, ", ".join(shown_place(one, here=True) for one in options.data_files)
    if options.validation_dir and not options.train_dir:
        data = load_folder(options.validation_dir, **columns)
        return data.train, data.labels, shown_place(options.validation_dir, here=True)
    data = load_image_data(
        dataset=options.dataset,
        train_dir=options.train_dir,
        validation_dir=options.validation_dir,
        config_name=options.config_name,
        held_out=options.held_out,
        **columns,
    )
    if data.validation is None:
        raise DataError(f"{data.source} has nothing to evaluate on: hold out some of it with --held-out 0.2.")
    return data.validation, data.labels, _source_and_part(options, data)


def _check_one_source(options: EvaluationOptions) -> None:
    given = [name for name in ("dataset", "validation_dir", "data_files") if getattr(options, name)]
    if len(given) > 1 or (options.train_dir and given not in ([], ["validation_dir"])):
        given = [*(["train_dir"] if options.train_dir else []), *given]
        raise DataError(
            f"Give one source of images, got {' and '.join('--' + name.replace('_', '-') for name in given)}."
        )


def load_splits(options: EvaluationOptions) -> tuple[ImageData, str]:
    """Images to train on and to evaluate on, and what they are called, folders by their last part.

    Raises:
        DataError: several sources, a validation folder alone, nothing to evaluate on, or as `load_image_data`.
    """
    _check_one_source(options)
    if options.validation_dir and not options.train_dir:
        raise DataError(
            f"This protocol needs training images beside those of {options.validation_dir}: give them with --train-dir."
        )
    data = load_image_data(
        dataset=options.dataset,
        train_dir=options.train_dir,
        validation_dir=options.validation_dir,
        data_files=options.data_files,
        config_name=options.config_name,
        held_out=options.held_out,
        image_column=options.image_column,
        label_column=options.label_column,
    )
    if data.validation is None:
        raise DataError(f"{data.source} has nothing to evaluate on: hold out some of it with --held-out 0.2.")
    files = ", ".join(shown_place(one, here=True) for one in options.data_files or ())
    return data, _source_and_part(options, data, files)


def _source_and_part(options: EvaluationOptions, data: ImageData, files: str = "") -> str:
    if options.validation_dir:
        return shown_place(options.validation_dir, here=True)
    part = f"{options.held_out:.0%} held out" if data.held_out else "validation split"
    return f"{files or shown_place(data.source, here=True)}, {part}"


def measured(result: EvaluationResult, names: list[str]) -> dict:
    """The numbers of a report, in an order to be read in."""
    return {
        "accuracy": result.accuracy,
        "top_5_accuracy": result.top_5_accuracy,
        "loss": result.loss if math.isfinite(result.loss) else None,
        "num_images": result.num_images,
        "images_per_second": result.images_per_second,
        "seconds": result.seconds,
        "left_out": result.left_out,
        "not_a_number": result.no_answer,
        "per_class": result.per_class(names),
        "most_confused": most_confused(result.confusion.numpy(), names, 100),
    }

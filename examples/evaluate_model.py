"""Evaluate an image classifier: native SimA, swapped, or with softmax; at any resolution, on one device or many.

    python examples/evaluate_model.py --model_name_or_path demo                                  # on scikit-learn's digits
    python examples/evaluate_model.py --model_name_or_path out/checkpoint-500 --weights ema --validation_dir imagenet/val
    python examples/evaluate_model.py --model_name_or_path org/sima-deit-small --dataset imagenet-1k --image_size 384 --eval_crop_pct 1.0
    accelerate launch --num_processes 8 examples/evaluate_model.py --model_name_or_path out --data_files "val/*.parquet" --output_dir eval

Prints a table and the classes that it knows worst; with --output_dir, leaves all of it in evaluation.json, and the confusion
matrix in confusion.png.
"""

import argparse
import contextlib
import json
import math
import os
import platform
import sys
from pathlib import Path

import torch
import transformers

import sima_hf
from sima_hf.benchmark import device_name, git_revision
from sima_hf.errors import DataError, MissingDependencyError, SimAError
from sima_hf.figures import pyplot
from sima_hf.training.classifiers import WEIGHTS, load_classifier, match_labels
from sima_hf.training.confusion import draw_confusion_figure, most_confused, shortened
from sima_hf.training.data import load_image_data
from sima_hf.training.evaluation import EvaluationResult, evaluate_model, normalization, processor_for
from sima_hf.training.images import EvalImages, collate
from sima_hf.training.processors import load_processor, side_of
from sima_hf.training.views import EvalView


DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
CLASSES_PRINTED = 20


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model_name_or_path", required=True, help="model folder, training checkpoint, or Hub name")
    parser.add_argument("--weights", choices=WEIGHTS, help="of a training checkpoint: averaged or raw; default: raw")
    parser.add_argument("--dataset", help="data set on the Hub; 'digits', the default, is scikit-learn's")
    parser.add_argument("--config_name", help="configuration of that data set")
    parser.add_argument("--train_dir", help="folder of training images by class; what is held out of it is evaluated")
    parser.add_argument("--validation_dir", help="folder with one sub-folder of images per class, all evaluated")
    parser.add_argument("--data_files", nargs="+", help="parquet files or WebDataset shards, all evaluated")
    parser.add_argument("--image_column", help="where the usual names do not tell")
    parser.add_argument("--label_column", help="where the usual names do not tell")
    parser.add_argument(
        "--held_out", type=float, default=0.2, help="share held out, where there is no validation split"
    )
    parser.add_argument("--labels_by_index", action="store_true", help="match classes by index, whatever their names")
    parser.add_argument("--image_size", type=int, help="resolution in pixels; default: the model's own")
    parser.add_argument(
        "--eval_crop_pct", type=float, help="0.875, or 1.0 for the full crop; default: the model's own way"
    )
    parser.add_argument("--batch_size", type=int, default=64, help="images per device at a time")
    parser.add_argument("--num_workers", type=int, default=0, help="processes that decode images, per device")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, mps; default: the best there is")
    parser.add_argument("--dtype", choices=list(DTYPES), default="float32", help="of the model's parameters")
    parser.add_argument("--revision", help="branch, tag or commit on the Hub")
    parser.add_argument("--trust_remote_code", action="store_true", help="run code that comes with a Hub model")
    parser.add_argument("--output_dir", type=Path, help="folder for evaluation.json and confusion.png")
    return parser


def main(arguments: list[str] | None = None) -> None:
    options = parser().parse_args(arguments)
    try:
        run(options)
    except (SimAError, ValueError, OSError) as error:
        sys.exit(f"evaluate_model: {error}")
    except KeyboardInterrupt:
        sys.exit("\nevaluate_model: interrupted.")


def run(options: argparse.Namespace) -> dict:
    """The whole way; returns what is also written to evaluation.json."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    if options.batch_size < 1:
        raise ValueError(f"--batch_size must be 1 or more, but {options.batch_size} came.")
    if options.output_dir:
        pyplot()  # better now than after the evaluation
    accelerator = make_accelerator(options.device)
    main_process = accelerator is None or accelerator.is_main_process
    hub = {"trust_remote_code": options.trust_remote_code}
    if options.revision:
        hub["revision"] = options.revision
    model, folder = load_classifier(options.model_name_or_path, options.weights, DTYPES[options.dtype], **hub)
    processor = load_processor(processor_source(folder), **hub)
    processor = processor_for(processor, options.image_size, options.eval_crop_pct)
    mean, std = normalization(processor)
    with accelerator.main_process_first() if accelerator else contextlib.nullcontext():
        images, labels, source = load_data(options)
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
    if not main_process:
        return {}
    names = [str(model.config.id2label[index]) for index in range(len(model.config.id2label))]
    report = {
        **measured(result, names),
        "settings": {
            "model": options.model_name_or_path,
            "class": type(model).__name__,
            "weights": options.weights or ("raw" if (Path(folder) / "ema").is_dir() else "as saved"),
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "data": source,
            "image_size": options.image_size or side_of(processor),
            "eval_crop_pct": options.eval_crop_pct,
            "processor": processor.to_dict(),
            "dtype": options.dtype,
            "batch_size": options.batch_size,
            "processes": accelerator.num_processes if accelerator else 1,
            "device": device_name(str(device)),
        },
        "versions": {
            "sima_hf": sima_hf.__version__,
            "revision": git_revision(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "python": platform.python_version(),
        },
    }
    print_report(report)
    if options.output_dir:
        write_report(report, result, names, options.output_dir)
    return report


def make_accelerator(device: str | None):
    """An Accelerator under `accelerate launch` or torchrun with several processes, else None."""
    if int(os.environ.get("WORLD_SIZE", 1)) == 1:
        return None
    try:
        from accelerate import Accelerator
    except ImportError as error:
        raise MissingDependencyError("Several processes need accelerate: pip install 'sima-hf[train]'") from error
    # Without an accelerator, Accelerate leaves the processes apart unless it is told that they run on the CPU.
    accelerator = Accelerator(cpu=device == "cpu" or not torch.accelerator.is_available())
    if accelerator.num_processes == 1:
        raise ValueError(
            f"{os.environ['WORLD_SIZE']} processes were started, but Accelerate does not join them on {accelerator.device}; start "
            "one, or say --device cpu."
        )
    return accelerator


def best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def processor_source(folder: str) -> str:
    """Where the image processor is: beside the weights or, for averaged ones, in the checkpoint around them."""
    path = Path(folder)
    inside = path.name == "ema" and not (path / "preprocessor_config.json").is_file()
    return str(path.parent) if inside and (path.parent / "preprocessor_config.json").is_file() else folder


def load_data(options: argparse.Namespace) -> tuple:
    """The images to evaluate, the names of their classes, and what they are called."""
    columns = {"image_column": options.image_column, "label_column": options.label_column}
    given = [name for name in ("dataset", "validation_dir", "data_files") if getattr(options, name)]
    if len(given) > 1 or (options.train_dir and given not in ([], ["validation_dir"])):
        given = [*(["train_dir"] if options.train_dir else []), *given]
        raise DataError(f"Give one source of images, but {' and '.join('--' + name for name in given)} came.")
    if options.data_files or (options.validation_dir and not options.train_dir):
        source = {"data_files": options.data_files} if options.data_files else {"train_dir": options.validation_dir}
        data = load_image_data(**source, **columns, held_out=0)
        return data.train, data.labels, options.validation_dir or ", ".join(options.data_files)
    data = load_image_data(
        dataset=options.dataset,
        train_dir=options.train_dir,
        validation_dir=options.validation_dir,
        config_name=options.config_name,
        held_out=options.held_out,
        **columns,
    )
    if data.validation is None:
        raise DataError(f"{data.source} has nothing to evaluate on: hold out some of it with --held_out 0.2.")
    return data.validation, data.labels, f"{data.source}, validation split"


def measured(result: EvaluationResult, names: list[str]) -> dict:
    """The numbers, in an order to be read in."""
    return {
        "accuracy": result.accuracy,
        "top_5_accuracy": result.top_5_accuracy,
        "loss": result.loss if math.isfinite(result.loss) else None,
        "num_images": result.num_images,
        "images_per_second": result.images_per_second,
        "seconds": result.seconds,
        "left_out": result.left_out,
        "not_a_number": result.no_answer,
        "unreadable": list(result.unreadable),
        "per_class": result.per_class(names),
        "most_confused": most_confused(result.confusion.numpy(), names, 100),
    }


def crop_words(settings: dict) -> str:
    share = settings["eval_crop_pct"]
    return "the model's own" if share is None else "full (1.0)" if share == 1 else f"{share:g}"


def print_report(report: dict) -> None:
    """The table, and the classes with the lowest accuracy."""
    settings = report["settings"]
    loss = "not a number" if report["loss"] is None else f"{report['loss']:.4f}"
    rows = [
        ("model", f"{settings['model']} ({settings['class']})"),
        ("data", settings["data"]),
        ("top-1 accuracy", f"{report['accuracy']:.2%}"),
        ("top-5 accuracy", f"{report['top_5_accuracy']:.2%}"),
        ("loss", loss),
        ("images", f"{report['num_images']:,}"),
        ("images/s", f"{report['images_per_second']:,.1f} on {settings['device']}, loading included"),
        ("parameters", f"{settings['parameters']:,} ({settings['dtype']})"),
        ("resolution", f"{settings['image_size']} px"),
        ("crop", crop_words(settings)),
        ("weights", settings["weights"]),
    ]
    if report["not_a_number"]:
        rows.append(("not a number", f"the logits of {report['not_a_number']:,} images, which count as wrong"))
    if report["left_out"]:
        unreadable = report["unreadable"]
        more = f" and {len(unreadable) - 5} more" if len(unreadable) > 5 else ""
        rows.append(("left out", f"{report['left_out']:,}; unreadable: {', '.join(unreadable[:5]) or 'none'}{more}"))
    width = max(len(name) for name, _ in rows)
    print("\n" + "\n".join(f"  {name:<{width}}  {value}" for name, value in rows))
    worst = report["per_class"][:CLASSES_PRINTED]
    of = (
        f"the {len(worst)} worst of {len(report['per_class'])}"
        if len(worst) < len(report["per_class"])
        else "worst first"
    )
    labels = [shortened(row["label"], 40) for row in worst]
    width = max(len("class"), *map(len, labels))
    print(f"\n  {'class':<{width}}  top-1    correct   ({of})")
    for label, row in zip(labels, worst, strict=True):
        print(f"  {label:<{width}}  {row['accuracy']:7.2%}  {row['correct']:,} of {row['images']:,}")
    print()


def write_report(report: dict, result: EvaluationResult, names: list[str], output_dir: Path) -> None:
    """evaluation.json and confusion.png."""
    output_dir.mkdir(parents=True, exist_ok=True)
    path = output_dir / "evaluation.json"
    path.write_text(json.dumps(report, indent=1, default=str, allow_nan=False) + "\n", encoding="utf-8")
    settings = report["settings"]
    # Data with some of the model's classes: the others would be empty rows and columns.
    used = (result.class_images > 0) | (result.confusion.sum(dim=0) > 0)
    shown = used.nonzero().flatten()
    picture = draw_confusion_figure(
        result.confusion[shown][:, shown].numpy(),
        [names[index] for index in shown.tolist()],
        output_dir / "confusion.png",
        f"{settings['class']} on {settings['data']}: {report['accuracy']:.2%} of {report['num_images']:,} images\n"
        f"{settings['image_size']} px, crop: {crop_words(settings)}, weights: {settings['weights']}, {settings['dtype']}, "
        f"{settings['device']}, torch {torch.__version__}",
    )
    print(f"  {path}\n  {picture}\n")


if __name__ == "__main__":
    main()

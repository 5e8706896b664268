"""What an evaluation leaves: a text to read, evaluation.json, and a picture of the confusions."""

import json
from pathlib import Path

import torch

from ..errors.words import first_few
from .confusion import draw_confusion_figure, shortened
from .run import Evaluation


CLASSES_PRINTED = 20


def report_text(report: dict) -> str:
    """The numbers as a table, and the classes with the lowest accuracy, from `Evaluation.report`."""
    settings = report["settings"]
    protocol = settings.get("protocol")
    loss = "not a number" if report["loss"] is None else f"{report['loss']:.4f}"
    rows = [
        ("model", f"{settings['model']} ({settings['class']})"),
        ("data", settings["data"]),
        ("top-1 accuracy", f"{report['accuracy']:.2%}"),
        ("top-5 accuracy", f"{report['top_5_accuracy']:.2%}"),
        *([] if protocol and report["loss"] is None else [("loss", loss)]),
        *_protocol_rows(report),
        ("images", f"{report['num_images']:,}"),
        ("images/s", f"{report['images_per_second']:,.1f} on {settings['device']}, loading included"),
        ("parameters", f"{settings['parameters']:,} ({settings['dtype']})"),
        ("resolution", f"{settings['image_size']} px"),
        ("crop", _crop_words(settings)),
        ("weights", settings["weights"]),
    ]
    if report["not_a_number"]:
        rows.append(("not a number", f"the logits of {report['not_a_number']:,} images, which count as wrong"))
    if report["left_out"]:
        unreadable = report["unreadable"]
        rows.append(("left out", f"{report['left_out']:,}; unreadable: {first_few(unreadable, 5) or 'none'}"))
    width = max(len(name) for name, _ in rows)
    lines = ["", *(f"  {name:<{width}}  {value}" for name, value in rows)]
    worst = report["per_class"][:CLASSES_PRINTED]
    of = (
        f"the {len(worst)} worst of {len(report['per_class'])}"
        if len(worst) < len(report["per_class"])
        else "worst first"
    )
    labels = [shortened(row["label"], 40) for row in worst]
    width = max(len("class"), *map(len, labels))
    lines += ["", f"  {'class':<{width}}  top-1    correct   ({of})"]
    for label, row in zip(labels, worst, strict=True):
        lines.append(f"  {label:<{width}}  {row['accuracy']:7.2%}  {row['correct']:,} of {row['images']:,}")
    return "\n".join([*lines, ""])


def _protocol_rows(report: dict) -> list[tuple[str, str]]:
    """What there is to say of k-NN or a linear probe; nothing of a model's own classifier."""
    protocol = report["settings"].get("protocol")
    if not protocol:
        return []
    if protocol["name"] == "knn":
        found = (f"{accuracy:.2%} of {k}" for k, accuracy in report["accuracy_by_neighbors"].items())
        how = f"k-NN, temperature {protocol['temperature']:g}; by neighbors: {', '.join(found)}"
    else:
        chosen = ", chosen on a fifth of the training images" if protocol["held_out_accuracy"] else ""
        how = f"linear probe, L2 {protocol['regularization']:g}{chosen}"
    return [
        ("protocol", how),
        ("features", f"{report['settings']['pooling']}, of {protocol['train_images']:,} training images"),
    ]


def write_report(evaluation: Evaluation, output_dir: Path) -> tuple[Path, Path]:
    """Write evaluation.json and confusion.png into a folder, which is made; returns both paths.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        OSError: the folder cannot be written to.
    """
    report, result, names = evaluation.report, evaluation.result, evaluation.names
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
        f"{settings['class']}{_by(settings)} on {settings['data']}: {report['accuracy']:.2%} of {report['num_images']:,} images\n"
        f"{settings['image_size']} px, crop: {_crop_words(settings)}, weights: {settings['weights']}, {settings['dtype']}, "
        f"{settings['device']}, torch {torch.__version__}",
    )
    return path, picture


def _by(settings: dict) -> str:
    names = {"knn": " (k-NN)", "linear": " (linear probe)"}
    return names[settings["protocol"]["name"]] if "protocol" in settings else ""


def _crop_words(settings: dict) -> str:
    share = settings["eval_crop_pct"]
    return "the model's own" if share is None else "full (1.0)" if share == 1 else f"{share:g}"

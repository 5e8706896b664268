"""The picture of a training run, drawn from the folder it left: curves, confusion, predictions, and where it looked."""

from pathlib import Path

import numpy as np
import torch
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from sima_hf import SimAForImageClassification
from sima_hf.evaluation.confusion import count_confusions, draw_confusion
from sima_hf.machine.plotting import pyplot
from sima_hf.training import SimATrainer


IMAGES_SHOWN = 10
BLUE, ORANGE, RED = "#3465a4", "#e07b1a", "#c0392b"


def draw_report(trainer: SimATrainer, source: str, images: list, true: list[int], predicted: list[int]) -> Path:
    """Draw `report.png` into the folder of a finished run.

    Args:
        trainer: has trained a native SimA classifier.
        source: what the data is called.
        images, true, predicted: the held-out images, their classes, and what the saved model says.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = pyplot()
    args, folder = trainer.args, Path(trainer.args.output_dir)
    labels = list(trainer.model.config.id2label.values())
    shown = pick_images(true, predicted, len(labels))
    pictures, maps = look_again(folder, [images[index] for index in shown])

    figure = plt.figure(figsize=(13, 8.8), layout="constrained")
    grid = figure.add_gridspec(3, 1, height_ratios=[3.2, 1, 1])
    top = grid[0].subgridspec(1, 2, width_ratios=[1.5, 1])
    draw_curves(figure.add_subplot(top[0]), trainer.state.log_history, len(true))
    confusion = count_confusions(true, predicted, len(labels))
    title = "Held-out images (mistakes in red)"
    draw_confusion(figure.add_subplot(top[1]), confusion, labels, title)
    axes = [grid[row].subgridspec(1, IMAGES_SHOWN).subplots(squeeze=False)[0] for row in (1, 2)]
    for axis in [*axes[0], *axes[1]]:
        axis.set_axis_off()
    for column, (index, picture, looked) in enumerate(zip(shown, pictures, maps, strict=True)):
        name, right = labels[predicted[index]], predicted[index] == true[index]
        axes[0][column].imshow(picture, extent=(0, 1, 0, 1))
        title = name if right else f"{name}\n(is {labels[true[index]]})"
        axes[0][column].set_title(title, fontsize=9, color="black" if right else RED)
        axes[1][column].imshow(picture.mean(axis=-1), cmap="gray", extent=(0, 1, 0, 1))
        weights = looked / looked.max()
        axes[1][column].imshow(weights, cmap="hot", alpha=0.8 * weights, extent=(0, 1, 0, 1), interpolation="bilinear")
    label_row(axes[0][0], "predicted")
    label_row(axes[1][0], "where the class\ntoken looked")
    accuracy = float((np.array(predicted) == np.array(true)).mean())
    figure.suptitle(
        f"SimA on {source}: {accuracy:.2%} of {len(true)} held-out images\n"
        f"{trainer.model.num_parameters():,} parameters, {args.num_train_epochs:g} epochs of {len(trainer.train_dataset)} images on "
        f"{args.device} ({torch.get_num_threads()} threads), seed {args.seed}, torch {torch.__version__}",
        fontsize=12,
    )
    path = folder / "report.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def pick_images(true: list[int], predicted: list[int], classes: int) -> list[int]:
    """Every mistake first, up to half of the room, then one right answer of class after class."""
    predicted, true = np.array(predicted), np.array(true)
    wrong = np.flatnonzero(predicted != true)[: IMAGES_SHOWN // 2].tolist()
    right = [np.flatnonzero((true == label) & (predicted == true)).tolist() for label in range(classes)]
    turns = [indices[turn] for turn in range(IMAGES_SHOWN) for indices in right if turn < len(indices)]
    return (wrong + turns)[:IMAGES_SHOWN]


def look_again(folder: Path, images: list) -> tuple[np.ndarray, np.ndarray]:
    """What the saved model sees of some images, and where its class token looks.

    Returns:
        Pixels `(B, H, W, 3)` in 0..1, as cut and scaled by the image processor, and for each the absolute weights of the
        last class attention on the patches, `(B, h, w)`, averaged over the heads.
    """
    model = SimAForImageClassification.from_pretrained(folder).eval()
    processor = AutoImageProcessor.from_pretrained(folder)
    pixel_values = processor(images, return_tensors="pt").pixel_values
    with torch.no_grad():
        attentions = model(pixel_values, output_attentions=True).attentions[-1]
    grid = [-(-size // model.config.patch_size) for size in pixel_values.shape[-2:]]
    weights = attentions[:, :, 0, 1:].abs().mean(dim=1).unflatten(-1, grid)
    mean, std = (torch.tensor(numbers)[:, None, None] for numbers in (processor.image_mean, processor.image_std))
    pixels = (pixel_values * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
    return pixels.numpy(), weights.numpy()


def draw_curves(axis, history: list[dict], images: int) -> None:
    losses = [(entry["epoch"], entry["loss"]) for entry in history if "loss" in entry]
    scores = [(entry["epoch"], 100 * entry["eval_accuracy"]) for entry in history if "eval_accuracy" in entry]
    axis.set_xlabel("epoch")
    lines = []
    if losses:
        lines += axis.plot(*zip(*losses, strict=True), color=BLUE, label="training loss")
        axis.set_yscale("log")
    axis.set_ylabel("training loss", color=BLUE)
    right = axis.twinx()
    if scores:
        lines += right.plot(*zip(*scores, strict=True), color=ORANGE, label="accuracy")
        right.set_ylim(max(0, min(score for _, score in scores[len(scores) // 4 :]) - 5), 100.5)
    right.set_ylabel(f"accuracy on {images} held-out images, %", color=ORANGE)
    axis.set_title("Training", fontsize=11)
    axis.grid(alpha=0.3)
    axis.legend(handles=lines, loc="center right")


def label_row(axis, text: str) -> None:
    axis.text(-0.15, 0.5, text, transform=axis.transAxes, rotation=90, ha="center", va="center", fontsize=9)

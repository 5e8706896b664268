"""Pictures of which classes a classifier takes for which; only mistakes have a color, so that they can be seen."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import DataError
from ..machine.plotting import pyplot


NUMBERED = 20  # classes up to which each cell has its count
NAMED = 50  # classes up to which each row has its name
SQUARES = 100  # rows and columns of the picture at most; more classes share one
LISTED = 20  # confusions in words


def count_confusions(true: Sequence[int], predicted: Sequence[int], num_classes: int) -> np.ndarray:
    """Images by true class (rows) and predicted class (columns): int64 `(K, K)`."""
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (np.asarray(true), np.asarray(predicted)), 1)
    return confusion


def most_confused(confusion: np.ndarray, names: Sequence[str], most: int = LISTED) -> list[dict]:
    """The commonest mistakes, as `{"true", "predicted", "count", "images"}`; `images` is how many of the true class there are.

    Among equally common ones the larger share of the class comes first.

    Args:
        confusion: counts `(K, K)`, true classes in rows.
        names: of the K classes.
        most: how many at most.
    """
    images = confusion.sum(axis=1)
    mistakes = [(row, column) for row, column in zip(*np.nonzero(confusion), strict=True) if row != column]
    mistakes.sort(key=lambda cell: (-confusion[cell], images[cell[0]], cell))
    return [
        {
            "true": names[row],
            "predicted": names[column],
            "count": int(confusion[row, column]),
            "images": int(images[row]),
        }
        for row, column in mistakes[:most]
    ]


def draw_confusion(axis, confusion: np.ndarray, names: Sequence[str], title: str = "") -> None:
    """Counts of true against predicted classes on a matplotlib axis; mistakes in red, right answers without color.

    Up to 20 classes have their counts written out, up to 50 their names; of more than 100 classes several neighbors share a
    square, which counts the mistakes among them.

    Args:
        axis: where to draw.
        confusion: counts `(K, K)`, true classes in rows.
        names: of the K classes.
        title: of the axis.

    Raises:
        DataError: another number of names than of classes.
    """
    count = len(confusion)
    if len(names) != count:
        raise DataError(f"A confusion matrix of {count} classes needs as many names, got {len(names)}.")
    mistakes = np.where(np.eye(count, dtype=bool), 0, confusion)
    together = -(-count // SQUARES)  # classes in one row of the picture
    starts = np.arange(0, count, together)
    shown = np.add.reduceat(np.add.reduceat(mistakes, starts, axis=0), starts, axis=1)
    # Where nothing is written into the squares, single mistakes must show beside frequent ones: a root does that.
    scale = 1.0 if count <= NUMBERED else 0.5
    edges = (-0.5, together * len(starts) - 0.5)
    darkest = max(4, shown.max())  # so that a single mistake is not as dark as can be
    picture = axis.imshow(shown**scale, cmap="Reds", vmin=0, vmax=darkest**scale, extent=(*edges, *edges[::-1]))
    if count <= NAMED:
        short = [shortened(name) for name in names]
        size = 10 if count <= NUMBERED else 7
        upright = count * max(map(len, short)) > 60
        axis.set_xticks(range(count), short, rotation=90 if upright else 0, fontsize=size)
        axis.set_yticks(range(count), short, fontsize=size)
    if count <= NUMBERED:
        for row, column in zip(*np.nonzero(confusion), strict=True):
            color = "white" if mistakes[row, column] > darkest / 2 else "black"
            axis.text(column, row, f"{confusion[row, column]}", ha="center", va="center", fontsize=8, color=color)
    else:
        _draw_scale(axis, picture, darkest, together)
    axis.set_xlabel("predicted")
    axis.set_ylabel("true")
    axis.set_title(title, fontsize=11)


def _draw_scale(axis, picture, most: int, together: int) -> None:
    """A color bar with round counts."""
    ticks = sorted({0, *(number for power in range(12) for number in (10**power, 3 * 10**power) if number <= most)})
    label = "mistakes" if together == 1 else f"mistakes in {together} x {together} classes"
    bar = axis.figure.colorbar(picture, cax=axis.inset_axes([1.02, 0.2, 0.025, 0.6]))
    bar.set_ticks([tick**0.5 for tick in ticks], labels=[f"{tick:,}" for tick in ticks])
    bar.set_label(label, fontsize=9)


def shortened(name: str, width: int = 22) -> str:
    """A class name for a picture: the first of several synonyms, cut at `width` characters."""
    first = str(name).split(",")[0].strip()
    return first if len(first) <= width else f"{first[: width - 1].rstrip()}…"


def draw_confusion_figure(confusion: np.ndarray, names: Sequence[str], path: str | Path, title: str) -> Path:
    """Write a PNG of the confusion matrix, with the commonest mistakes in words beside it.

    Args:
        confusion: counts `(K, K)`, true classes in rows.
        names: of the K classes.
        path: the PNG to write.
        title: which model, which images, at which settings.

    Raises:
        DataError: another number of names than of classes.
        MissingDependencyError: matplotlib is not installed.
    """
    plt = pyplot()
    confusion = np.asarray(confusion)
    figure = plt.figure(figsize=(12.5, 8), layout="constrained")
    grid = figure.add_gridspec(1, 2, width_ratios=[1.75, 1])
    draw_confusion(figure.add_subplot(grid[0]), confusion, names, "Images by class (mistakes in red)")
    words = figure.add_subplot(grid[1])
    words.set_axis_off()
    words.set_title("Most frequent mistakes", fontsize=11, loc="left")
    rows = most_confused(confusion, names)
    for place, row in enumerate(rows):
        y = 0.98 - place / (LISTED + 1)
        words.text(0, y, f"{row['count']:,} of {row['images']:,}", fontsize=9, va="top", color="#777777")
        words.text(0.22, y, f"{shortened(row['true'])} → {shortened(row['predicted'])}", fontsize=9, va="top")
    if not rows:
        words.text(0, 0.98, "none", fontsize=9, va="top")
    figure.suptitle(title, fontsize=11)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, bbox_inches="tight")  # the layout is blind to what a square picture leaves
    plt.close(figure)
    return path

"""The picture of a training run: loss, learning rate and accuracy over epochs, from the history that it logged."""

import math
from pathlib import Path

from ..errors import DataError
from ..machine.plotting import pyplot


BLUE, ORANGE, GREEN, GREY, RED = "#3465a4", "#e07b1a", "#4e9a06", "#8a8a8a", "#c0392b"

# Panel -> key in the history, label, color. With averaged weights Trainer logs theirs as eval_... and the raw ones apart.
LOSSES = (
    ("loss", "training", BLUE),
    ("eval_loss", "validation", ORANGE),
    ("eval_raw_loss", "validation, raw", GREEN),
)
ACCURACIES = (
    ("eval_accuracy", "validation", ORANGE),
    ("eval_raw_accuracy", "validation, raw", GREEN),
)
MANY = 60  # points from which on a line has no markers, and a noisy loss gets a mean


def draw_curves(history: list[dict], path: str | Path, title: str = "Training") -> Path:
    """Draw what a run logged.

    The training loss, and the validation loss if there is one, stand over the learning rate; the validation accuracy, of the
    averaged and of the raw weights, beside them. What is not a finite number breaks its line and is marked by a red cross.

    Args:
        history: records with some of the keys `step`, `epoch`, `loss`, `learning_rate`, `eval_loss`, `eval_accuracy`, and
            `eval_raw_...` of the last two.
        path: the PNG to write.
        title: what was trained, on what, with which settings; lines may be broken by newlines.

    Returns:
        The path of the PNG.

    Raises:
        DataError: there is nothing to draw.
        MissingDependencyError: matplotlib is not installed.
    """
    unit = "epoch" if all("epoch" in record for record in history if _is_drawn(record)) else "step"
    lines = {key: points(history, key, unit) for key, _, _ in (*LOSSES, *ACCURACIES, ("learning_rate", "", ""))}
    if not any(lines.values()):
        raise DataError(
            "The history has nothing to draw: it needs records with a number under loss, learning_rate, eval_loss or "
            f"eval_accuracy, and one under epoch or step, but it has {len(history)} records without."
        )
    plt = pyplot()
    evaluated = any(lines[key] for key, _, _ in ACCURACIES)
    figure = plt.figure(figsize=(12, 5.6) if evaluated else (7.5, 5.6), layout="constrained")
    grid = figure.add_gridspec(2, 2 if evaluated else 1, height_ratios=[3, 1])
    loss = figure.add_subplot(grid[0, 0])
    rate = figure.add_subplot(grid[1, 0], sharex=loss)
    _draw_losses(loss, lines)
    _draw_line(rate, lines["learning_rate"], GREY, "")
    rate.set_ylabel("learning rate")
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 3))
    rate.set_ylim(bottom=0)
    rate.set_xlabel(unit)
    loss.tick_params(labelbottom=False)
    axes = [loss, rate]
    if evaluated:
        axes.append(figure.add_subplot(grid[:, 1], sharex=loss))
        _draw_accuracies(axes[-1], lines)
        axes[-1].set_xlabel(unit)
    places = [x for line in lines.values() for x, _ in line]
    room = 0.03 * (max(places) - min(places)) or 0.5
    loss.set_xlim(min(places) - room, max(places) + room)
    if all(x.is_integer() for x in places):
        loss.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes:
        axis.grid(alpha=0.3)
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[1]:  # over the panel, where no line can be under it
            axis.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False, fontsize=9, borderaxespad=0.2)
    figure.suptitle(f"{title}\n{summary(history, lines, unit)}", fontsize=11)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _is_drawn(record: dict) -> bool:
    return any(key in record for key, _, _ in (*LOSSES, *ACCURACIES, ("learning_rate", "", "")))


def points(records: list[dict], key: str, unit: str) -> list[tuple[float, float]]:
    """`(epoch or step, value)` in order; of several at the same place the last, as after going on from a checkpoint."""
    found = {}
    for record in records:
        if isinstance(record.get(key), (int, float)) and isinstance(record.get(unit), (int, float)):
            found[float(record[unit])] = float(record[key])
    return sorted(found.items())


def summary(records: list[dict], lines: dict[str, list[tuple[float, float]]], unit: str) -> str:
    """How long the run was, and its best and last accuracy."""
    steps = [record["step"] for record in records if isinstance(record.get("step"), int)]
    last = max(x for line in lines.values() for x, _ in line)
    parts = [_count(last, unit)]
    if unit == "epoch" and steps:
        parts[0] += f", {_count(max(steps), 'step')}"
    for key, label in _labels(ACCURACIES, lines).items():
        finite = [point for point in lines[key] if math.isfinite(point[1])]
        if finite:
            x, best = max(finite, key=lambda point: point[1])
            whose = "accuracy" if label == "validation" else f"{label.removeprefix('validation, ')} weights"
            parts.append(f"{whose} {100 * finite[-1][1]:.2f} % (best {100 * best:.2f} % at {unit} {x:.10g})")
    return "; ".join(parts)


def _count(number: float, unit: str) -> str:
    return f"{number:,.10g} {unit}{'' if number == 1 else 's'}"


def _labels(kinds: tuple, lines: dict) -> dict[str, str]:
    """Key -> label of what there is; the plain one is that of averaged weights where raw ones stand beside it."""
    found = {key: label for key, label, _ in kinds if lines[key]}
    plain = next((key for key in found if key in ("eval_loss", "eval_accuracy")), None)
    if plain and any(key.startswith("eval_raw_") for key in found):
        found[plain] = "validation, averaged"
    return found


def _draw_losses(axis, lines: dict) -> None:
    labels = _labels(LOSSES, lines)
    for key, _, color in LOSSES:
        if key in labels:
            noisy = key == "loss" and len(lines[key]) > MANY
            _draw_line(axis, lines[key], color, "" if noisy else labels[key], alpha=0.3 if noisy else 1.0)
            if noisy:
                _draw_line(axis, running_mean(lines[key]), color, f"{labels[key]}, running mean")
    finite = [y for key in labels for _, y in lines[key] if math.isfinite(y)]
    # A logarithm shows how a loss still falls when it is small, and needs more than a decade to be readable.
    if finite and min(finite) > 0 and max(finite) / min(finite) > 10:
        axis.set_yscale("log")
        axis.yaxis.get_major_locator().set_params(subs=(1, 2, 5) if max(finite) / min(finite) < 1000 else (1,))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("")
    axis.set_ylabel("loss")


def _draw_accuracies(axis, lines: dict) -> None:
    labels = _labels(ACCURACIES, lines)
    later = []
    for key, _, color in ACCURACIES:
        if key in labels:
            percent = [(x, 100 * y) for x, y in lines[key]]
            _draw_line(axis, percent, color, labels[key])
            later += [y for _, y in percent[len(percent) // 4 :] if math.isfinite(y)]
    axis.set_ylabel("accuracy, %")
    if later:  # the first quarter may leave the picture, so that the differences in the end can be seen
        room = max(0.08 * (max(later) - min(later)), 0.5)
        axis.set_ylim(max(-0.5, min(later) - room), min(100.5, max(later) + room))


def _draw_line(axis, line: list[tuple[float, float]], color: str, label: str, alpha: float = 1.0) -> None:
    """A line with a gap and a red cross, at the panel's foot, for each value that is not finite."""
    if not line:
        return
    xs = [x for x, _ in line]
    ys = [y if math.isfinite(y) else math.nan for _, y in line]
    marker = {"marker": "o", "markersize": 3.5} if len(line) < MANY else {}
    axis.plot(xs, ys, color=color, label=label or "_", alpha=alpha, linewidth=1.6, **marker)
    gaps = [x for x, y in line if not math.isfinite(y)]
    if gaps:
        known = "not a finite number" in axis.get_legend_handles_labels()[1]
        axis.plot(
            gaps,
            [0.03] * len(gaps),
            "x",
            color=RED,
            label="_" if known else "not a finite number",
            transform=axis.get_xaxis_transform(),
            clip_on=False,
        )


def running_mean(line: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Each value replaced by the mean of the finite ones among it and its neighbors, 2 % of the line to either side."""
    reach = max(1, len(line) // 50)
    found = []
    for index, (x, y) in enumerate(line):
        near = [value for _, value in line[max(0, index - reach) : index + reach + 1] if math.isfinite(value)]
        found.append((x, sum(near) / len(near) if near and math.isfinite(y) else math.nan))
    return found

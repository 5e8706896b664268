"""What the benchmark of models leaves: a table for the terminal, and a picture."""

from pathlib import Path

from .model import ModelRow
from .tables import by_size, time_axis


COLORS = {"softmax": "#8a8a8a", "literal": "#3465a4", "sima": "#e07b1a", "none": "#555555"}


def table(rows: list[ModelRow]) -> str:
    """The rows as text, one line per size."""
    names = list(dict.fromkeys(row.contestant for row in rows))
    lines = [
        f"{'mode':>8} {'batch':>5} {'pixels':>6} "
        + " ".join(f"{name:>12}" for name in names)
        + "   sima, times faster (more is better)"
    ]
    for (mode, batch, pixels), here in by_size([vars(row) for row in rows], "mode", "batch", "pixels").items():
        times = " ".join(f"{here[name]['median_ms']:>9,.1f} ms" for name in names)
        lines.append(f"{mode:>8} {batch:>5} {pixels:>6} {times}   {1 / here['sima']['ratio_to_baseline']:>35.2f}")
    return "\n".join(lines)


def draw(rows: list[ModelRow], png_path: Path) -> None:
    """Time against the size of the images, log-log; of one batch size, 1 if it was measured.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    batch = 1 if any(row.batch == 1 for row in rows) else rows[0].batch
    one = rows[0]
    title = (
        f"{one.model}{', compiled' if one.compiled else ''}, batch {batch}, {one.dtype}, {one.device}, torch {one.torch}\n"
        "medians, contestants in turn"
    )
    with time_axis(png_path, "pixels along a side", (row.pixels for row in rows), title) as axis:
        for mode, style in (("forward", "-"), ("train", "--")):
            for contestant in dict.fromkeys(row.contestant for row in rows):
                own = [row for row in rows if (row.mode, row.contestant, row.batch) == (mode, contestant, batch)]
                if own:
                    attention = "no attention" if contestant == "none" else own[0].attention
                    label = f"{attention}, {'training step' if mode == 'train' else mode}"
                    points = [row.pixels for row in own], [row.median_ms for row in own]
                    axis.plot(*points, style, marker="o", color=COLORS[contestant], label=label)

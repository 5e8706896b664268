"""The picture and the tables of the calibration's evidence, both from its results file alone."""

import statistics
from pathlib import Path

from digits_results import conditions, count_seeds, figure_title, read, runs_of

from sima_hf.bench.tables import markdown, replace_between
from sima_hf.machine.plotting import pyplot


TITLES = {
    "vit_4": "ViT, 4 blocks",
    "vit_12": "ViT, 12 blocks",
    "dinov2_4": "DINOv2, 4 blocks",
    "swin_2_2": "Swin, 2 + 2 blocks",
}
LINES = {
    "labels_from_swapped": ("fine-tuned from the bare swap", "#3465a4", ":"),
    "labels_from_calibrated": ("fine-tuned from calibrated", "#3465a4", "-"),
    "teacher_from_swapped": ("distilled from the bare swap", "#e07b1a", ":"),
    "teacher_from_calibrated": ("distilled from calibrated", "#e07b1a", "-"),
}


def mean(runs: list[dict], *keys: str) -> float:
    """Percent, over the seeds, of what stands under nested keys."""
    values = []
    for run in runs:
        for key in keys:
            run = run[key]
        values.append(run)
    return 100 * statistics.mean(values)


def share(runs: list[dict], *keys: str) -> float:
    """Percent of each seed's original that is kept, over the seeds."""
    return statistics.mean(100 * mean([run], *keys) / mean([run], "original") for run in runs)


def draw_figure(path: Path) -> None:
    """`calibration_digits.png` beside the results: accuracy against images of calibration, and against epochs after it."""
    plt = pyplot()
    results = read(path)
    models = list(results["models"])
    figure, axes = plt.subplots(2, len(models), figsize=(3.4 * len(models), 6.4), layout="constrained", squeeze=False)
    for column, model in enumerate(models):
        runs = runs_of(results, model)
        above, below = axes[0, column], axes[1, column]
        for axis in (above, below):
            axis.axhline(mean(runs, "original"), color="#8a8a8a", linewidth=1, label="original, softmax")
            axis.axhline(mean(runs, "swapped"), color="#8a8a8a", linewidth=1, linestyle=":", label="after the swap")
            axis.set_ylim(0, 101)
            axis.grid(alpha=0.3)
        _line(above, runs, "calibrated", "calibrated", "#4e9a06", "-")
        above.set_title(TITLES[model], fontsize=11)
        above.set_xlabel("images of calibration, unlabeled")
        for key, (label, color, style) in LINES.items():
            _line(below, runs, key, label, color, style)
        below.set_xlabel("epochs after it")
    for row in axes:
        row[0].set_ylabel("accuracy on test images, %")
        row[-1].legend(fontsize=8, loc="lower right")
    figure.suptitle(figure_title(results, "Softmax ViTs swapped to SimA:"), fontsize=10)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)


def _line(axis, runs: list[dict], key: str, label: str, color: str, style: str) -> None:
    places = list(runs[0][key])
    values = {place: [100 * run[key][place] for run in runs] for place in places}
    x = [int(place) for place in places]
    axis.plot(x, [statistics.mean(values[p]) for p in places], style, marker="o", color=color, label=label)
    axis.fill_between(x, [min(values[p]) for p in places], [max(values[p]) for p in places], color=color, alpha=0.15)
    axis.set_xscale("log", base=2 if max(x) > 100 else 10)
    axis.set_xticks(x, [f"{place:,}" for place in x])
    axis.minorticks_off()


def markdown_table(path: Path) -> str:
    """The results as docs/calibration.md has them: percent of right answers, and in brackets the share of the original's."""
    results = read(path)
    images, epochs = (list(results["runs"][0][key])[-1] for key in ("calibrated", "teacher_from_calibrated"))
    few = list(results["runs"][0]["teacher_from_calibrated"])[1]
    header = ["", "original", "swapped", f"calibrated, {int(images):,} images", f"+ {few} epochs of distillation"]
    header += [
        f"+ {epochs} epochs of it",
        f"or + {epochs} epochs with labels",
        f"{epochs} epochs with labels, not calibrated",
    ]
    rows = []
    for model in results["models"]:
        runs = runs_of(results, model)
        cells = [f"{mean(runs, 'original'):.1f} %", f"{mean(runs, 'swapped'):.1f} %"]
        for keys in (
            ("calibrated", images),
            ("teacher_from_calibrated", few),
            ("teacher_from_calibrated", epochs),
            ("labels_from_calibrated", epochs),
            ("labels_from_swapped", epochs),
        ):
            cells.append(f"{mean(runs, *keys):.1f} % ({share(runs, *keys):.1f})")
        rows.append([TITLES[model], *cells])
    return markdown(header, rows) + (
        f"\n\nMeans of {count_seeds(results)} seeds on {results['data']}; in brackets percent of the original's accuracy. "
        f"{conditions(results)}; everything measured, with settings, in "
        f"[{path.name}]({path.as_posix()})."
    )


def update_page(page: Path, path: Path) -> None:
    """Replace what stands between the calibration marks of the page.

    Raises:
        ValueError: the marks are not there.
    """
    replace_between(page, "calibration", markdown_table(path))

"""The picture, the CSV and the tables of the evidence on conversion, from its results files alone."""

import csv
import json
from pathlib import Path

from sima_hf.bench.tables import markdown, replace_between
from sima_hf.machine.plotting import pyplot


TITLES = {
    "dinov2_small": "DINOv2-small, Fashion-MNIST, linear probe",
    "fashion_vit": "ViT, 12 blocks, Fashion-MNIST",
    "fashion_swin": "Swin, 2 + 2 blocks, Fashion-MNIST",
    "vit_12": "ViT, 12 blocks, digits",
    "swin_2_2": "Swin, 2 + 2 blocks, digits",
}
STYLES = {
    "calibrated": ("calibrated, no training", "#4e9a06", "-"),
    "calibrated and distilled": ("then distilled, no labels", "#e07b1a", "-"),
    "distilled": ("distilled from the bare swap", "#e07b1a", ":"),
}


def read(path: Path) -> dict:
    """The results of one teacher."""
    return json.loads(path.read_text(encoding="utf-8"))


def _rows(results: dict, how: str) -> list[dict]:
    return [row for row in results["rows"] if row["how"] == how]


def write_csv(paths: list[Path], output: Path) -> None:
    """All rows of all teachers, without the reports."""
    rows = [
        {"teacher": results["teacher"], **{name: value for name, value in row.items() if name != "report"}}
        for results in map(read, paths)
        for row in results["rows"]
    ]
    with output.open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def draw_figure(paths: list[Path], output: Path) -> None:
    """What is kept of each teacher's accuracy against images."""
    plt = pyplot()
    figure, axes = plt.subplots(1, len(paths), figsize=(3.6 * len(paths), 3.8), layout="constrained", squeeze=False)
    for axis, results in zip(axes[0], map(read, paths), strict=True):
        swapped = 100 * _rows(results, "swapped")[0]["kept"]
        axis.axhline(100, color="#8a8a8a", linewidth=1, label="original, softmax")
        axis.axhline(swapped, color="#8a8a8a", linewidth=1, linestyle=":", label="after the swap")
        ticks = set()
        for how, (label, color, style) in STYLES.items():
            points = [(row["images"], 100 * row["kept"]) for row in _rows(results, how)]
            if points:
                axis.plot(*zip(*points, strict=True), style, marker="o", color=color, label=label)
                ticks |= {images for images, _ in points}
        axis.set_xscale("log", base=2)
        ticks = [
            one for one in sorted(ticks) if not any(one < other < 1.1 * one for other in ticks)
        ]  # or they overlap
        axis.set_xticks(ticks, [f"{images:,}" for images in ticks])
        axis.minorticks_off()
        axis.set_ylim(0, 104)
        axis.grid(alpha=0.3)
        axis.set_title(TITLES[results["teacher"]], fontsize=10)
        axis.set_xlabel("images without labels")
    axes[0, 0].set_ylabel("accuracy kept, % of the original's")
    fullest = max(axes[0], key=lambda axis: len(axis.lines))
    fullest.legend(fontsize=8, loc="center left", bbox_to_anchor=(0, 0.35))
    figure.suptitle(
        f"Softmax ViTs swapped to SimA: what is kept on test images, one seed; {conditions(results)}", fontsize=10
    )
    figure.savefig(output, dpi=110)
    plt.close(figure)


def conditions(results: dict) -> str:
    """Machine and versions."""
    return f"{results['device']}, torch {results['torch']}, transformers {results['transformers']}"


def _table(paths: list[Path]) -> str:
    header = ["", "original", "kept: swapped"]
    header += ["calibrated, 128", "512", "2,048 images", "on half of the classes: those, the others"]
    header += ["then distilled", "distilled, not calibrated", "agreement", "cosine"]
    rows = []
    for results in map(read, paths):
        found = {(row["how"], row["images"]): row for row in results["rows"]}
        calibrated = _rows(results, "calibrated")
        cells = [TITLES[results["teacher"]], percent(results["rows"][0]["accuracy"])]
        cells.append(percent(_rows(results, "swapped")[0]["kept"]))
        cells += [
            percent(found[key]["kept"]) if (key := ("calibrated", images)) in found else ""
            for images in (128, 512, 2048)
        ]
        shifted = _rows(results, "calibrated on classes 0 to 4")
        cells.append(
            f"{percent(shifted[0]['kept_classes_0_to_4'])}, {percent(shifted[0]['kept_classes_5_to_9'])}"
            if shifted
            else ""
        )
        for how in ("calibrated and distilled", "distilled"):
            last = _rows(results, how)[-1:]
            cells.append(f"{percent(last[0]['kept'])} ({last[0]['images']:,})" if last else "")
        best = (_rows(results, "calibrated and distilled") or calibrated)[-1]
        rows.append([*cells, f"{best['agreement']:.3f}", f"{best['cosine']:.3f}"])
    return markdown(header, rows)


def percent(share: float) -> str:
    """As the tables have it."""
    return f"{100 * share:.1f} %"


def update_pages(paths: list[Path], page: Path | None, readme: Path | None) -> None:
    """Replace what stands between the conversion marks of the page, and of the README.

    Raises:
        ValueError: the marks are not there.
    """
    machine = conditions(read(paths[0]))
    if page is not None:
        sentence = (
            "\n\nPercent of the original's accuracy on test images, one seed; images in brackets; agreement with the original, "
            "and cosine of the features, of the distilled model where there is one. No test image chose anything. "
            f"{machine}; everything measured, with seconds, settings and reports, in "
            "[conversion.csv](benchmarks/results/conversion.csv) and the JSON files beside it."
        )
        replace_between(page, "conversion", _table(paths) + sentence)
    if readme is not None:
        sentence = f"\n\nThe original's accuracy, and the percent of it that is kept, on test images, one seed. {machine}. [All of it](docs/calibration.md)"
        replace_between(readme, "readme-conversion", _short_table(paths) + sentence)


def _short_table(paths: list[Path]) -> str:
    rows = []
    for results in map(read, paths):
        cells = [TITLES[results["teacher"]], percent(results["rows"][0]["accuracy"])]
        for how in ("swapped", "calibrated", "calibrated and distilled"):
            last = _rows(results, how)[-1:]
            images = f" ({last[0]['images']:,} images)" if last and last[0]["images"] else ""
            cells.append(f"{percent(last[0]['kept'])}{images}" if last else "")
        rows.append(cells)
    return markdown(["", "original", "kept: swapped", "calibrated", "then distilled"], rows)

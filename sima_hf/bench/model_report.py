"""What the benchmark of models leaves: CSV, table, picture, and the tables of the docs and the README from the CSVs.

python -m sima_hf.bench.model_report --results benchmarks/results --page docs/benchmarks.md --readme README.md
"""

import argparse
from pathlib import Path

from ..machine.plotting import pyplot
from .attention_report import read_csv, replace_between
from .model import ModelRow


COLORS = {"softmax": "#8a8a8a", "literal": "#3465a4", "sima": "#e07b1a", "none": "#555555"}
# Kind of run -> CSV, in the README's order.
SHOWN = {
    "forward": "model_deit-small_forward_cpu_float32.csv",
    "forward, compiled": "model_deit-small_forward_compiled_cpu_float32.csv",
    "training step": "model_deit-small_train_cpu_float32.csv",
}
MEMORY = "memory_deit-small_cpu_float32.csv"
NATIVE = "model_sima_small_12_p16_forward_cpu_float32.csv"


def table(rows: list[ModelRow]) -> str:
    """The rows as text, one line per size."""
    names = list(dict.fromkeys(row.contestant for row in rows))
    lines = [
        f"{'mode':>8} {'batch':>5} {'pixels':>6} "
        + " ".join(f"{name:>12}" for name in names)
        + "   sima, times faster (more is better)"
    ]
    for mode, batch, pixels in dict.fromkeys((row.mode, row.batch, row.pixels) for row in rows):
        here = {row.contestant: row for row in rows if (row.mode, row.batch, row.pixels) == (mode, batch, pixels)}
        times = " ".join(f"{here[name].median_ms:>9,.1f} ms" for name in names)
        lines.append(f"{mode:>8} {batch:>5} {pixels:>6} {times}   {1 / here['sima'].ratio_to_baseline:>35.2f}")
    return "\n".join(lines)


def draw(rows: list[ModelRow], png_path: Path) -> None:
    """Time against the size of the images, log-log; of one batch size, 1 if it was measured.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = pyplot()
    batch = 1 if any(row.batch == 1 for row in rows) else rows[0].batch
    figure, axis = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
    for mode, style in (("forward", "-"), ("train", "--")):
        for contestant in dict.fromkeys(row.contestant for row in rows):
            own = [row for row in rows if (row.mode, row.contestant, row.batch) == (mode, contestant, batch)]
            if own:
                attention = "no attention" if contestant == "none" else own[0].attention
                label = f"{attention}, {'training step' if mode == 'train' else mode}"
                points = [row.pixels for row in own], [row.median_ms for row in own]
                axis.plot(*points, style, marker="o", color=COLORS[contestant], label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    ticks = sorted({row.pixels for row in rows})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xlabel("pixels along a side")
    axis.set_ylabel("time, ms")
    axis.grid(alpha=0.3)
    axis.legend()
    one = rows[0]
    axis.set_title(
        f"{one.model}{', compiled' if one.compiled else ''}, batch {batch}, {one.dtype}, {one.device}, torch {one.torch}\nmedians, contestants in turn",
        fontsize=10,
    )
    figure.savefig(png_path, dpi=120)
    plt.close(figure)


def markdown_table(results: Path) -> str:
    """The table of whole models, from the CSVs of `make bench`."""
    lines = [
        "| DeiT-S | pixels | batch | softmax | SimA | no attention | times faster |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for kind, name in SHOWN.items():
        rows = read_csv(results / name)
        for batch, pixels in dict.fromkeys((row["batch"], row["pixels"]) for row in rows):
            here = {row["contestant"]: row for row in rows if (row["batch"], row["pixels"]) == (batch, pixels)}
            times = " | ".join(
                f"{float(here[contestant]['median_ms']):,.0f} ms" for contestant in ("softmax", "sima", "none")
            )
            lines.append(
                f"| {kind} | {pixels} | {batch} | {times} | {1 / float(here['sima']['ratio_to_baseline']):.2f} |"
            )
    one = rows[0]
    peaks = {row["contestant"]: row for row in read_csv(results / MEMORY)}
    held = [int(peaks[name]["peak_resident_bytes"]) / 2**30 for name in ("softmax", "sima")]
    (native,) = (row for row in read_csv(results / NATIVE) if row["contestant"] == "sima")
    lines.append(
        f"\nMedians on {one['device']}, {one['dtype']}, torch {one['torch']}, transformers {one['transformers']}, random weights; compiled: "
        f"torch.compile with frozen weights. One image of {peaks['sima']['pixels']} x {peaks['sima']['pixels']} pixels takes "
        f"{held[1]:.1f} GiB at most with SimA, {held[0]:.1f} GiB with softmax, Python and weights included. The paper's own "
        f"sima_small_12_p16 runs {1 / float(native['ratio_to_baseline']):.2f} times as fast at {native['pixels']} pixels as with its formula "
        f"written out. [CSVs]({results.as_posix()})"
    )
    return "\n".join(lines)


def short_table(results: Path) -> str:
    """The README's four rows of it: the compiled forward of one image."""
    rows = [row for row in read_csv(results / SHOWN["forward, compiled"]) if row["batch"] == "1"]
    lines = ["| pixels | softmax | SimA | times faster |", "|--:|--:|--:|--:|"]
    for pixels in dict.fromkeys(row["pixels"] for row in rows):
        here = {row["contestant"]: row for row in rows if row["pixels"] == pixels}
        softmax, sima = (f"{float(here[name]['median_ms']):,.0f} ms" for name in ("softmax", "sima"))
        lines.append(f"| {pixels} | {softmax} | {sima} | {1 / float(here['sima']['ratio_to_baseline']):.2f} |")
    one = rows[0]
    lines.append(
        f"\nOne image, torch.compile with frozen weights, {one['dtype']}, {one['device']}, torch {one['torch']}. [All of it](docs/benchmarks.md)"
    )
    return "\n".join(lines)


def main() -> None:
    """Bring the tables up to date."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--results", type=Path, required=True, help="folder with the CSVs")
    parser.add_argument("--page", type=Path, required=True, help="page with the whole table")
    parser.add_argument("--readme", type=Path, help="README with the short one")
    arguments = parser.parse_args()
    replace_between(arguments.page, "bench-models", markdown_table(arguments.results))
    if arguments.readme:
        replace_between(arguments.readme, "readme-models", short_table(arguments.results))


if __name__ == "__main__":
    main()

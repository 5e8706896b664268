"""Bring the tables of whole models in the docs and the README up to date, from the CSVs of `make bench`.

python benchmarks/model_tables.py --results benchmarks/results --page docs/benchmarks.md --readme README.md
"""

import argparse
from pathlib import Path

from sima_hf.bench.tables import by_size, markdown, read_csv, replace_between


# Kind of run -> CSV, in the README's order.
SHOWN = {
    "forward": "model_deit-small_forward_cpu_float32.csv",
    "forward, compiled": "model_deit-small_forward_compiled_cpu_float32.csv",
    "training step": "model_deit-small_train_cpu_float32.csv",
}
MEMORY = "memory_deit-small_cpu_float32.csv"
NATIVE = "model_sima_small_12_p16_forward_cpu_float32.csv"


def markdown_table(results: Path) -> str:
    """The table of whole models, from the CSVs of `make bench`."""
    header, cells = ["DeiT-S", "pixels", "batch", "softmax", "SimA", "no attention", "times faster"], []
    for kind, name in SHOWN.items():
        rows = read_csv(results / name)
        for (batch, pixels), here in by_size(rows, "batch", "pixels").items():
            cells.append([kind, pixels, batch, *_times(here, "softmax", "sima", "none"), _times_faster(here)])
    one = rows[0]
    peaks = {row["contestant"]: row for row in read_csv(results / MEMORY)}
    held = [int(peaks[name]["peak_resident_bytes"]) / 2**30 for name in ("softmax", "sima")]
    (native,) = (row for row in read_csv(results / NATIVE) if row["contestant"] == "sima")
    return markdown(header, cells) + (
        f"\n\nMedians on {one['device']}, {one['dtype']}, torch {one['torch']}, transformers {one['transformers']}, random weights; compiled: "
        f"torch.compile with frozen weights. One image of {peaks['sima']['pixels']} x {peaks['sima']['pixels']} pixels takes "
        f"{held[1]:.1f} GiB at most with SimA, {held[0]:.1f} GiB with softmax, Python and weights included. The paper's own "
        f"sima_small_12_p16 runs {1 / float(native['ratio_to_baseline']):.2f} times as fast at {native['pixels']} pixels as with its formula "
        f"written out. [CSVs]({results.as_posix()})"
    )


def short_table(results: Path) -> str:
    """The README's four rows of it: the compiled forward of one image."""
    rows = [row for row in read_csv(results / SHOWN["forward, compiled"]) if row["batch"] == "1"]
    cells = []
    for (pixels,), here in by_size(rows, "pixels").items():
        cells.append([pixels, *_times(here, "softmax", "sima"), _times_faster(here)])
    one = rows[0]
    return markdown(["pixels", "softmax", "SimA", "times faster"], cells, left=0) + (
        f"\n\nOne image, torch.compile with frozen weights, {one['dtype']}, {one['device']}, torch {one['torch']}. [All of it](docs/benchmarks.md)"
    )


def _times(here: dict, *contestants: str) -> list[str]:
    return [f"{float(here[contestant]['median_ms']):,.0f} ms" for contestant in contestants]


def _times_faster(here: dict) -> str:
    return f"{1 / float(here['sima']['ratio_to_baseline']):.2f}"


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

"""What the benchmark of exported files leaves: a table for the terminal, one for a page, a line for the README, and a picture."""

from collections.abc import Sequence
from pathlib import Path

from .exported import ExportRow
from .tables import by_size, markdown, read_csv, time_axis


COLORS = {
    ("onnxruntime", "softmax"): "#8a8a8a",
    ("onnxruntime", "sima"): "#e07b1a",
    ("openvino", "softmax"): "#9db8d9",
    ("openvino", "sima"): "#1f4e8c",
}
NAMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
STYLES = ("-", "--", ":", "-.")


def table(rows: list[ExportRow]) -> str:
    """The rows as text, one line per runtime, number of threads and size."""
    lines = [
        f"{'runtime':>12} {'dtype':>8} {'threads':>7} {'pixels':>6} {'softmax':>12} {'sima':>12} {'file, MB':>15} {'peak, MiB':>15}"
        "   sima, times faster (more is better)"
    ]
    for key, here in _sizes([vars(row) for row in rows]).items():
        runtime, dtype, threads, pixels = key
        times = " ".join(f"{here[name]['median_ms']:>9,.1f} ms" for name in ("softmax", "sima"))
        sizes = f"{_pair(here, 'file_bytes', 1e6):>15} {_pair(here, 'peak_resident_bytes', 2**20):>15}"
        lines.append(f"{runtime:>12} {dtype:>8} {threads:>7} {pixels:>6} {times} {sizes}   {_faster(here)}")
    return "\n".join(lines)


def markdown_table(csvs: Sequence[Path]) -> str:
    """The table of a page and the picture beside it, from the CSVs of `sima-hf bench export`, one for each dtype."""
    rows = [row for csv in csvs for row in read_csv(csv)]
    header = [
        "runtime",
        "dtype",
        "threads",
        "pixels",
        "softmax",
        "SimA",
        "files, MB",
        "peak memory, MiB",
        "times faster",
    ]
    cells = []
    for (runtime, dtype, threads, pixels), here in _sizes(rows).items():
        times = [f"{float(here[name]['median_ms']):,.1f} ms" for name in ("softmax", "sima")]
        sizes = [_pair(here, "file_bytes", 1e6), _pair(here, "peak_resident_bytes", 2**20)]
        cells.append([NAMES[runtime], dtype, threads, f"{int(pixels):,}", *times, *sizes, _faster(here)])
    one = rows[0]
    versions = dict(sorted((NAMES[row["runtime"]], row["runtime_version"]) for row in rows))
    picture = csvs[0].with_suffix(".png")
    return f"![Time of exported files against the size of the image]({picture.as_posix()})\n\n" + (
        markdown(header, cells, left=2) + "\n\n"
        f"Medians for one image on {one['device']}; {one['model']}, {', '.join(f'{name} {of}' for name, of in versions.items())}, "
        f"torch {one['torch']}, transformers {one['transformers']}. Files and memory: softmax / SimA; the memory is that of a process "
        "that has the runtime alone. Fused: the runtime computes softmax within larger pieces of its own. "
        f"{_int8_line(rows)}"
        f"{', '.join(f'[{csv.name}]({csv.as_posix()})' for csv in csvs)}"
    )


def _int8_line(rows: list[dict]) -> str:
    """How long SimA takes in int8 against float32, where both were measured; of medians of two runs."""
    own: dict[tuple, dict[str, float]] = {}
    for row in rows:
        if row["contestant"] == "sima":
            key = row["runtime"], row["threads"], row["pixels"]
            own.setdefault(key, {})[row["dtype"]] = float(row["median_ms"])
    ratios = [times["int8"] / times["float32"] for times in own.values() if len(times) == 2]
    if not ratios:
        return ""
    return f"SimA in int8 takes {min(ratios):.2f} to {max(ratios):.2f} times as long as in float32 (two runs). "


def short_line(csvs: Sequence[Path]) -> str:
    """The README's line: with the fewest threads, how many times faster each runtime is at each size, in each dtype."""
    rows = [row for csv in csvs for row in read_csv(csv)]
    fewest = min((row["threads"] for row in rows), key=int)
    found: dict[tuple, list[str]] = {}
    for (runtime, dtype, threads, pixels), here in _sizes(rows).items():
        if threads == fewest:
            found.setdefault((dtype, runtime), []).append(f"{_ratio(here):.2f} at {int(pixels):,}")
    each = "; ".join(
        f"{NAMES[runtime]}, {dtype}: {', '.join(found[dtype, runtime])} px" for dtype, runtime in sorted(found)
    )
    return (
        f"Exported to a file, times faster than softmax with {fewest} thread{'' if fewest == '1' else 's'}: {each}. "
        f"{_int8_line(rows)}[All of it](docs/export.md#measured)"
    )


def draw(rows: list[ExportRow], png_path: Path) -> None:
    """Time against the size of the images, log-log: a color for each file, a style for each number of threads.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    one = rows[0]
    title = f"{one.model}, exported, one image, {one.dtype}, {one.device}\nmedians, contestants in turn"
    with time_axis(png_path, "pixels along a side", (row.pixels for row in rows), title) as axis:
        for style, threads in zip(STYLES, sorted({row.threads for row in rows}), strict=False):
            for key in dict.fromkeys((row.runtime, row.contestant) for row in rows):
                own = [row for row in rows if (row.runtime, row.contestant, row.threads) == (*key, threads)]
                label = f"{NAMES[key[0]]}, {key[1]}, {threads} thread{'' if threads == 1 else 's'}"
                points = [row.pixels for row in own], [row.median_ms for row in own]
                axis.plot(*points, style, marker="o", color=COLORS[key], label=label)


def _sizes(rows: list[dict]) -> dict[tuple, dict[str, dict]]:
    """The pair of contestants by runtime, dtype, threads and pixels, in that order."""
    found = by_size(rows, "runtime", "dtype", "threads", "pixels")
    return dict(sorted(found.items(), key=lambda item: (*item[0][:2], int(item[0][2]), int(item[0][3]))))


def _ratio(here: dict) -> float:
    return 1 / float(here["sima"]["ratio_to_softmax"])


def _faster(here: dict) -> str:
    """How many times faster SimA is, and where the runtime fuses softmax, that it does, and that it wins if so."""
    fused = str(here["softmax"]["fused_softmax"]) == "True"
    ratio = _ratio(here)
    who = "fused softmax wins" if fused and ratio < 1 else "softmax wins" if ratio < 1 else "softmax is fused"
    return f"{ratio:.2f}" + (f" ({who})" if fused or ratio < 1 else "")


def _pair(here: dict, name: str, unit: float) -> str:
    """Of softmax and of SimA, in units; empty where it was not measured."""
    values = [here[contestant][name] for contestant in ("softmax", "sima")]
    return "" if None in values or "" in values else " / ".join(f"{float(value) / unit:,.0f}" for value in values)

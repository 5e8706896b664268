"""What the attention benchmark leaves: a picture and a table, for the terminal and for a page, from its CSV."""

from pathlib import Path

from .tables import by_size, markdown, read_csv, time_axis


# Contestant -> label and color in the picture.
SHOWN = {
    "softmax": ("softmax (scaled_dot_product_attention)", "#8a8a8a"),
    "literal": ("SimA, the paper's formula as written", "#3465a4"),
    "sima_eager": ("SimA, plain torch", "#d8a15a"),
    "sima_eager_compiled": ("SimA, plain torch, compiled", "#73a946"),
    "sima": ("SimA, fused", "#e07b1a"),
}
NAMES = ("softmax", "literal", "sima_eager", "sima_eager_compiled", "sima", "sima_compiled")


def draw(csv_path: Path, png_path: Path) -> None:
    """Time against tokens, log-log, from the CSV; of one batch size, 1 if it was measured.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    rows = read_csv(csv_path)
    batch = "1" if any(row["batch"] == "1" for row in rows) else rows[0]["batch"]
    rows = [row for row in rows if row["batch"] == batch]
    one = rows[0]
    mode = "forward and backward" if one["mode"] == "train" else "forward"
    title = (
        f"Attention {mode}: batch {batch}, {one['heads']} heads of {one['channels']}, {one['dtype']}, {one['device']}, "
        f"torch {one['torch']}\nmedians, contestants in turn; numbers: times faster than softmax"
    )
    with time_axis(png_path, "tokens", (int(row["tokens"]) for row in rows), title) as axis:
        for contestant, (label, color) in SHOWN.items():
            own = [row for row in rows if row["contestant"] == contestant]
            tokens = [int(row["tokens"]) for row in own]
            milliseconds = [float(row["median_us"]) / 1000 for row in own]
            if own:
                axis.plot(tokens, milliseconds, marker="o", markersize=4, color=color, label=label)
            if contestant == "sima":
                _write_factors(axis, own, tokens, milliseconds, color)
                floors = [float(row["floor_us"]) / 1000 for row in own]
                axis.plot(tokens, floors, ":", color="#555555", label="floor: bytes and operations at measured rates")


def _write_factors(axis, rows: list[dict[str, str]], tokens: list[int], milliseconds: list[float], color: str) -> None:
    for row, x, y in zip(rows, tokens, milliseconds, strict=True):
        factor = 1 / float(row["ratio_to_softmax"])
        text = f"{factor:.0f}x" if factor >= 10 else f"{factor:.1f}x"
        place = {"xytext": (5, -17), "textcoords": "offset points"}
        axis.annotate(text, (x, y), **place, color=color, fontsize=9, backgroundcolor="white")


def table(csv_path: Path) -> str:
    """The CSV as text, one line per size: medians in microseconds, ratios to softmax, the floor, peak memory."""
    rows = read_csv(csv_path)
    names = [name for name in NAMES if name in {row["contestant"] for row in rows}]
    header = " ".join(f"{name:>19}" for name in names)
    lines = [
        f"{'batch':>5} {'tokens':>6}  {header} {'floor':>10}   {'time sima/softmax (less is better)':>34} {'peak MiB, softmax and sima':>27}"
    ]
    for (batch, tokens), here in by_size(rows, "batch", "tokens").items():
        times = " ".join(f"{float(here[name]['median_us']):>16,.0f} us" for name in names)
        floor, ratio = float(here["sima"]["floor_us"]), float(here["sima"]["ratio_to_softmax"])
        peaks = " ".join(f"{int(here[name]['peak_bytes']) / 2**20:>13,.2f}" for name in ("softmax", "sima"))
        lines.append(f"{batch:>5} {tokens:>6}  {times} {floor:>7,.0f} us   {ratio:>34.3f} {peaks}")
    return "\n".join(lines)


def markdown_table(csv_path: Path) -> str:
    """The CSV as the README's table, with its conditions below; where softmax is quicker, the factor is under 1."""
    rows = read_csv(csv_path)
    header = [
        "batch",
        "tokens",
        "softmax",
        "literal formula",
        "plain torch",
        "plain, compiled",
        "fused",
        "fused, compiled",
    ]
    cells = []
    for (batch, tokens), here in by_size(rows, "batch", "tokens").items():
        times = (f"{float(here[name]['median_us']) / 1000:,.2f}" if name in here else "" for name in NAMES)
        floor, ratio = float(here["sima"]["floor_us"]) / 1000, float(here["sima"]["ratio_to_softmax"])
        cells.append([batch, f"{int(tokens):,}", *times, f"{floor:,.2f}", f"{1 / ratio:.1f}"])
    one = rows[0]
    return markdown([*header, "floor", "fused: times faster than softmax"], cells, left=0) + (
        f"\n\nMedians in milliseconds on {one['device']}, {one['dtype']}, torch {one['torch']}, sima_hf {one['sima_hf']}; all figures "
        f"with quartiles, peak memory and what the floor is made of in [{csv_path.name}]({csv_path.as_posix()})."
    )

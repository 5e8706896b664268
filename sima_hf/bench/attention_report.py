"""What the attention benchmark leaves: CSV, picture, table, and the README's table from the CSV."""

import csv
import re
from pathlib import Path

from ..machine.plotting import pyplot


# Contestant -> label and color in the picture.
SHOWN = {
    "softmax": ("softmax (scaled_dot_product_attention)", "#8a8a8a"),
    "literal": ("SimA, the paper's formula as written", "#3465a4"),
    "sima_eager": ("SimA, plain torch", "#d8a15a"),
    "sima_eager_compiled": ("SimA, plain torch, compiled", "#73a946"),
    "sima": ("SimA, fused", "#e07b1a"),
}
NAMES = ("softmax", "literal", "sima_eager", "sima_eager_compiled", "sima", "sima_compiled")


def write_csv(rows: list, path: Path) -> None:
    """One line per row, columns as in the rows' dataclass."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(type(rows[0]).__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that `write_csv` wrote, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(csv_path: Path, png_path: Path) -> None:
    """Time against tokens, log-log, from the CSV; of one batch size, 1 if it was measured.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = pyplot()
    rows = read_csv(csv_path)
    batch = "1" if any(row["batch"] == "1" for row in rows) else rows[0]["batch"]
    rows = [row for row in rows if row["batch"] == batch]
    figure, axis = plt.subplots(figsize=(8.2, 5), layout="constrained")
    for contestant, (label, color) in SHOWN.items():
        own = [row for row in rows if row["contestant"] == contestant]
        if not own:
            continue
        tokens = [int(row["tokens"]) for row in own]
        milliseconds = [float(row["median_us"]) / 1000 for row in own]
        axis.plot(tokens, milliseconds, marker="o", markersize=4, color=color, label=label)
        if contestant == "sima":
            for row, x, y in zip(own, tokens, milliseconds, strict=True):
                factor = 1 / float(row["ratio_to_softmax"])
                text = f"{factor:.0f}x" if factor >= 10 else f"{factor:.1f}x"
                axis.annotate(
                    text,
                    (x, y),
                    xytext=(5, -17),
                    textcoords="offset points",
                    color=color,
                    fontsize=9,
                    backgroundcolor="white",
                )
            floors = [float(row["floor_us"]) / 1000 for row in own]
            axis.plot(tokens, floors, ":", color="#555555", label="floor: bytes and operations at measured rates")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.margins(x=0.08, y=0.1)
    ticks = sorted({int(row["tokens"]) for row in rows})
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xlabel("tokens")
    axis.set_ylabel("time, ms")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9)
    one = rows[0]
    mode = "forward and backward" if one["mode"] == "train" else "forward"
    axis.set_title(
        f"Attention {mode}: batch {batch}, {one['heads']} heads of {one['channels']}, {one['dtype']}, {one['device']}, "
        f"torch {one['torch']}\nmedians, contestants in turn; numbers: times faster than softmax",
        fontsize=10,
    )
    figure.savefig(png_path, dpi=120)
    plt.close(figure)


def _by_size(rows: list[dict[str, str]]) -> dict[tuple[int, int], dict[str, dict[str, str]]]:
    found: dict = {}
    for row in rows:
        found.setdefault((int(row["batch"]), int(row["tokens"])), {})[row["contestant"]] = row
    return found


def table(csv_path: Path) -> str:
    """The CSV as text, one line per size: medians in microseconds, ratios to softmax, the floor, peak memory."""
    rows = read_csv(csv_path)
    names = [name for name in NAMES if name in {row["contestant"] for row in rows}]
    header = " ".join(f"{name:>19}" for name in names)
    lines = [
        f"{'batch':>5} {'tokens':>6}  {header} {'floor':>10}   {'time sima/softmax (less is better)':>34} {'peak MiB, softmax and sima':>27}"
    ]
    for (batch, tokens), here in _by_size(rows).items():
        times = " ".join(f"{float(here[name]['median_us']):>16,.0f} us" for name in names)
        floor, ratio = float(here["sima"]["floor_us"]), float(here["sima"]["ratio_to_softmax"])
        peaks = " ".join(f"{int(here[name]['peak_bytes']) / 2**20:>13,.2f}" for name in ("softmax", "sima"))
        lines.append(f"{batch:>5} {tokens:>6}  {times} {floor:>7,.0f} us   {ratio:>34.3f} {peaks}")
    return "\n".join(lines)


def markdown_table(csv_path: Path) -> str:
    """The CSV as the README's table, with its conditions below; where softmax is quicker, the factor is under 1."""
    rows = read_csv(csv_path)
    lines = [
        "| batch | tokens | softmax | literal formula | plain torch | plain, compiled | fused | fused, compiled | floor | fused: times faster than softmax |"
    ]
    lines.append("|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|")
    for (batch, tokens), here in _by_size(rows).items():
        times = " | ".join(f"{float(here[name]['median_us']) / 1000:,.2f}" if name in here else "" for name in NAMES)
        floor, ratio = float(here["sima"]["floor_us"]) / 1000, float(here["sima"]["ratio_to_softmax"])
        lines.append(f"| {batch} | {tokens:,} | {times} | {floor:,.2f} | {1 / ratio:.1f} |")
    one = rows[0]
    lines.append(
        f"\nMedians in milliseconds on {one['device']}, {one['dtype']}, torch {one['torch']}, sima_hf {one['sima_hf']}; all figures "
        f"with quartiles, peak memory and what the floor is made of in [{csv_path.name}]({csv_path.as_posix()})."
    )
    return "\n".join(lines)


def links_from(page: Path, text: str) -> str:
    """Text whose links are from the root of the checkout, for a page whose path is from there too."""
    up = "" if page.is_absolute() else "../" * len(page.parent.parts)
    return re.sub(r"\]\((?!https?://|/|#)", f"]({up}", text)


def replace_between(page: Path, mark: str, text: str) -> None:
    """Put `text` between the lines `<!-- mark:start -->` and `<!-- mark:end -->` of a page.

    Args:
        page: README or a page of the docs.
        mark: name of the block.
        text: Markdown, with links from the root of the checkout.

    Raises:
        ValueError: the marks are not there.
    """
    start, end = f"<!-- {mark}:start -->\n", f"<!-- {mark}:end -->"
    old = page.read_text(encoding="utf-8")
    if start not in old or end not in old:
        raise ValueError(f"{page} has no lines {start.strip()} and {end}; put them where the table belongs.")
    before, after = old.split(start)[0], old.split(end)[1]
    page.write_text(f"{before}{start}{links_from(page, text)}\n{end}{after}", encoding="utf-8")

"""Time of the attention itself: SimA against the literal formula and softmax, interleaved in one run.

    python -m sima_hf.benchmark --output_dir examples/results        # or: make bench

Results are checked against each other before anything is timed. The contestants take turns, so that a machine that is
slow for a while is slow for all of them, and ratios are medians over turns.
"""

import argparse
import csv
import functools
import platform
import random
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from .errors import MissingDependencyError
from .ops import sima_attention
from .version import __version__


HEADS, CHANNELS = 6, 64  # DeiT-S
SIZES = ((64, 49), (1, 197), (8, 197), (1, 577), (1, 1024), (1, 4096), (1, 16384))  # (batch, tokens)


@dataclass(frozen=True)
class Row:
    """One contestant at one size; times in microseconds, ratios of its time to the named contestant's."""

    contestant: str
    batch: int
    tokens: int
    heads: int
    channels: int
    dtype: str
    turns: int
    median_us: float
    lower_quartile_us: float
    upper_quartile_us: float
    ratio_to_softmax: float
    ratio_to_literal: float
    device: str
    threads: int
    torch: str
    sima_hf: str
    revision: str


def literal_formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The original code's two lines: normalise query and key in memory, then multiply in the cheaper order."""
    query, key = F.normalize(query, p=1.0, dim=-2), F.normalize(key, p=1.0, dim=-2)
    if query.shape[-2] < query.shape[-1]:
        return (query @ key.transpose(-2, -1)) @ value
    return query @ (key.transpose(-2, -1) @ value)


def products_alone(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """The two matrix products without any norm: what torch's matrix multiplication leaves to be gained, no attention."""
    return query @ (key.transpose(-2, -1) @ value)


CONTESTANTS: dict[str, Callable[..., torch.Tensor]] = {
    "softmax": F.scaled_dot_product_attention,
    "literal": literal_formula,
    "sima": sima_attention,
    "products": products_alone,
}


def strided_inputs(batch: int, tokens: int, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """query, key and value `(B,H,N,D)` as Transformers has them: views of contiguous `(B,N,H,D)`."""
    shape = (batch, tokens, HEADS, CHANNELS)
    return [torch.randn(shape, dtype=dtype, device=device).transpose(1, 2) for _ in range(3)]


def check_agreement(tensors: list[torch.Tensor]) -> None:
    """Raise RuntimeError unless SimA and the literal formula give the same numbers here."""
    expected = literal_formula(*(tensor.double() for tensor in tensors))
    error = ((sima_attention(*tensors).double() - expected).norm() / expected.norm()).item()
    allowed = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}[tensors[0].dtype]
    if error > allowed:
        raise RuntimeError(
            f"SimA differs from the literal formula by {error:.1e}; nothing is timed until that is mended."
        )


def take_turns(
    calls: dict[str, Callable[[], object]], seconds: float, wait: Callable[[], None]
) -> dict[str, list[float]]:
    """Seconds of every call in every turn, for about `seconds`, at least 7 and at most 1,000 turns, after two unmeasured.

    Every turn has an order of its own, because a call also pays for the state of the memory that the one before it left.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    order = list(calls.items())
    shuffle = random.Random(0).shuffle
    start = time.perf_counter()
    for turn in range(1002):
        if turn >= 9 and time.perf_counter() - start > seconds:
            break
        shuffle(order)
        for name, call in order:
            begin = time.perf_counter()
            call()
            wait()
            if turn >= 2:
                times[name].append(time.perf_counter() - begin)
    return times


def measure(
    sizes: tuple[tuple[int, int], ...] = SIZES,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: float = 6.0,
) -> list[Row]:
    """Time all contestants at all `(batch, tokens)` sizes, without gradients, for about `seconds` a size.

    Raises:
        RuntimeError: the results do not agree.
    """
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    about = {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sima_hf": __version__,
        "revision": git_revision(),
    }
    rows = []
    with torch.no_grad():
        for batch, tokens in tqdm(sizes, desc="attention", unit="size"):
            torch.manual_seed(0)
            tensors = strided_inputs(batch, tokens, dtype, device)
            check_agreement(tensors)
            calls = {name: functools.partial(function, *tensors) for name, function in CONTESTANTS.items()}
            times = take_turns(calls, seconds, wait)
            for name, own in times.items():
                lower, median, upper = statistics.quantiles(own, n=4)
                rows.append(
                    Row(
                        contestant=name,
                        batch=batch,
                        tokens=tokens,
                        heads=HEADS,
                        channels=CHANNELS,
                        dtype=str(dtype).removeprefix("torch."),
                        turns=len(own),
                        median_us=round(median * 1e6, 1),
                        lower_quartile_us=round(lower * 1e6, 1),
                        upper_quartile_us=round(upper * 1e6, 1),
                        ratio_to_softmax=paired_ratio(own, times["softmax"]),
                        ratio_to_literal=paired_ratio(own, times["literal"]),
                        **about,
                    )
                )
    return rows


def paired_ratio(own: list[float], other: list[float]) -> float:
    """Median over the turns of own time over the other's in the same turn."""
    return round(statistics.median(a / b for a, b in zip(own, other, strict=True)), 4)


def device_name(device: str) -> str:
    """The GPU's or the processor's name, as the machine gives it."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"


def git_revision() -> str:
    """Short hash of the checkout, with a plus where the package differs from it; empty outside of one."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        )
        diff = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "."], cwd=here, check=False)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return head.stdout.strip() + ("+" if diff.returncode else "")


def write_csv(rows: list[Row], path: Path) -> None:
    """One line per row, columns as in `Row`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(Row.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a CSV that `write_csv` wrote, as text."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def draw(csv_path: Path, png_path: Path) -> None:
    """Time against tokens, log-log, from the CSV; batch 1 only.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingDependencyError("The picture needs matplotlib: pip install 'sima-hf[plot]'") from error
    rows = [row for row in read_csv(csv_path) if row["batch"] == "1"]
    names = {
        "softmax": ("softmax (scaled_dot_product_attention)", "#8a8a8a"),
        "literal": ("SimA, the paper's formula as written", "#3465a4"),
        "sima": ("SimA, sima_hf", "#e07b1a"),
        "products": ("its two matrix products alone", "#d8c3a5"),
    }
    figure, axis = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
    for contestant, (label, color) in names.items():
        own = [row for row in rows if row["contestant"] == contestant]
        tokens = [int(row["tokens"]) for row in own]
        milliseconds = [float(row["median_us"]) / 1000 for row in own]
        style = ":" if contestant == "products" else "-"
        axis.plot(tokens, milliseconds, style, marker="o", color=color, label=label)
        if contestant == "sima":
            for row, x, y in zip(own, tokens, milliseconds, strict=True):
                factor = 1 / float(row["ratio_to_softmax"])
                text = f"{factor:.0f}x" if factor >= 10 else f"{factor:.1f}x"
                axis.annotate(text, (x, y), xytext=(6, -16), textcoords="offset points", color=color, fontsize=9)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.margins(x=0.08, y=0.1)
    ticks = sorted({int(row["tokens"]) for row in rows})
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xlabel("tokens")
    axis.set_ylabel("time, ms")
    axis.grid(alpha=0.3)
    axis.legend()
    one = rows[0]
    axis.set_title(
        f"Attention forward: batch 1, {one['heads']} heads of {one['channels']}, {one['dtype']}, {one['device']}, "
        f"torch {one['torch']}\nmedians, contestants in turn; numbers: times faster than softmax",
        fontsize=10,
    )
    figure.savefig(png_path, dpi=120)
    plt.close(figure)


def table(rows: list[Row]) -> str:
    """The rows as text, one line per size."""
    header = f"{'batch':>5} {'tokens':>6}  " + " ".join(f"{name:>12}" for name in CONTESTANTS)
    lines = [f"{header}   {'sima/softmax':>12} {'sima/literal':>12} {'products/literal':>16}"]
    for batch, tokens in dict.fromkeys((row.batch, row.tokens) for row in rows):
        here = {row.contestant: row for row in rows if (row.batch, row.tokens) == (batch, tokens)}
        times = " ".join(f"{here[name].median_us:>9,.0f} us" for name in CONTESTANTS)
        ratios = f"{here['sima'].ratio_to_softmax:>12.3f} {here['sima'].ratio_to_literal:>12.3f}"
        lines.append(f"{batch:>5} {tokens:>6}  {times}   {ratios} {here['products'].ratio_to_literal:>16.3f}")
    return "\n".join(lines)


def markdown_table(csv_path: Path) -> str:
    """The CSV as the README's table, with its conditions below."""
    rows = read_csv(csv_path)
    lines = ["| batch | tokens | softmax | literal formula | sima_hf | times faster than softmax | than the formula |"]
    lines.append("|--:|--:|--:|--:|--:|--:|--:|")
    for batch, tokens in dict.fromkeys((row["batch"], row["tokens"]) for row in rows):
        here = {row["contestant"]: row for row in rows if (row["batch"], row["tokens"]) == (batch, tokens)}
        times = " | ".join(
            f"{float(here[name]['median_us']) / 1000:,.2f} ms" for name in ("softmax", "literal", "sima")
        )
        ratios = [1 / float(here["sima"][name]) for name in ("ratio_to_softmax", "ratio_to_literal")]
        lines.append(f"| {batch} | {int(tokens):,} | {times} | {ratios[0]:.1f} | {ratios[1]:.1f} |")
    one = rows[0]
    lines.append(
        f"\nMedians on {one['device']}, torch {one['torch']}, sima_hf {one['sima_hf']}; all figures with quartiles in "
        f"[{csv_path.name}]({csv_path.as_posix()})."
    )
    return "\n".join(lines)


def update_readme(readme: Path, csv_path: Path) -> None:
    """Replace what stands between the README's bench marks by the CSV's table.

    Raises:
        ValueError: the marks are not there.
    """
    start, end = "<!-- bench:start -->\n", "<!-- bench:end -->"
    text = readme.read_text(encoding="utf-8")
    if start not in text or end not in text:
        raise ValueError(f"{readme} has no lines {start.strip()} and {end}; put them where the table belongs.")
    before, after = text.split(start)[0], text.split(end)[1]
    readme.write_text(f"{before}{start}{markdown_table(csv_path)}\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Measure on this machine, print the table, write `attention_<device>.csv` and `.png`."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--output_dir", type=Path, default=Path(), help="folder for the CSV and the PNG")
    parser.add_argument("--dtype", default="float32", choices=("float32", "float16", "bfloat16"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seconds", type=float, default=6.0, help="time for each size")
    parser.add_argument("--readme", type=Path, help="README whose table is to be brought up to date as well")
    arguments = parser.parse_args()
    rows = measure(dtype=getattr(torch, arguments.dtype), device=arguments.device, seconds=arguments.seconds)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    path = arguments.output_dir / f"attention_{arguments.device.partition(':')[0]}_{arguments.dtype}.csv"
    write_csv(rows, path)
    draw(path, path.with_suffix(".png"))
    if arguments.readme:
        update_readme(arguments.readme, path)
    print(table(rows))
    print(f"{rows[0].device}, torch {rows[0].torch}: {path} and {path.with_suffix('.png')}")


if __name__ == "__main__":
    main()

"""Rows of a measurement as CSV, as a picture, and as a table between marks in a page."""

import contextlib
import csv
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from ..machine.plotting import pyplot


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


def by_size(rows: list, *names: str) -> dict[tuple, dict[str, dict]]:
    """The rows of each size, which the columns `names` tell, by contestant."""
    found: dict = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in names), {})[row["contestant"]] = row
    return found


@contextlib.contextmanager
def time_axis(png_path: Path, xlabel: str, sizes: Iterable[int], title: str) -> Iterator:
    """A matplotlib axis of milliseconds against sizes, both logarithmic; it is written to a PNG at the end.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(8.2, 5), layout="constrained")
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.margins(x=0.08, y=0.1)
    ticks = sorted(set(sizes))
    axis.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axis.set_xlabel(xlabel)
    axis.set_ylabel("time, ms")
    axis.grid(alpha=0.3)
    axis.set_title(title, fontsize=10)
    yield axis
    axis.legend(fontsize=9)
    figure.savefig(png_path, dpi=120)
    plt.close(figure)


def markdown(header: Iterable[str], rows: Iterable[Iterable], left: int = 1) -> str:
    """A table in Markdown; its first `left` columns are aligned left, all others right."""
    header = list(header)
    rules = ["---"] * left + ["--:"] * (len(header) - left)
    names, *lines = (f"| {' | '.join(map(str, cells))} |" for cells in (header, *rows))
    return "\n".join([names.replace("|  |", "| |"), f"|{'|'.join(rules)}|", *lines])


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

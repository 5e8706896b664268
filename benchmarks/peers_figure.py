"""The table and the picture of compare_attentions.py, from its results files alone."""

import json
import statistics
from pathlib import Path

from peer_models import CONTESTANTS, FUSED

from sima_hf.bench.tables import markdown, replace_between
from sima_hf.machine.plotting import pyplot


DATA = ("fashion_mnist", "digits")
SHOWN_TOKENS = 1024  # for operations, and for the picture
COLORS = {"softmax": "#c0392b", "exp": "#e07b1a", "none": "#4e9a06"}


def read(folder: Path) -> dict[str, dict]:
    """What there is of "fashion_mnist", "digits" and "time"."""
    paths = {name: folder / f"peers_{name}.json" for name in (*DATA, "time")}
    return {name: json.loads(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.is_file()}


def cells(results: dict, data: str, step: str, attention: str) -> list[dict]:
    """Those of a step, by seed; of runs only those at the rate that is best by now."""
    found = [cell for cell in results.get(data, {"cells": []})["cells"] if cell["attention"] == attention]
    best = best_rate([cell for cell in found if cell["step"] == "choice"])
    return [cell for cell in found if cell["step"] == step and (step != "run" or cell["rate"] == best)]


def best_rate(choices: list[dict]) -> float | None:
    """The learning rate of the choice that did best, None of none."""
    return max(choices, key=lambda cell: cell["accuracy"])["rate"] if choices else None


def costs(results: dict, attention: str) -> dict[int, dict]:
    """Number of tokens -> row."""
    found = results.get("time", {"rows": []})["rows"]
    return {row["tokens"]: row for row in found if row["attention"] == attention}


def spread(values: list[float]) -> str:
    """Mean and range, in percent."""
    if not values:
        return ""
    low, mean, high = (100 * value for value in (min(values), statistics.mean(values), max(values)))
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def markdown_table(results: dict) -> str:
    """One row for each attention."""
    sizes = results.get("time", {"settings": {"tokens": []}})["settings"]["tokens"]
    shown = [data for data in DATA if data in results]
    titles = [results[data]["words"] for data in shown]
    header = ["attention", "left of softmax", *(f"{title}, %" for title in titles), "parameters, likewise"]
    header += [f"Mop, {SHOWN_TOKENS:,} tokens", *(f"ms, {size:,}" for size in sizes)]
    header += [f"MiB, {max(sizes):,}" if sizes else "MiB", "conversion keeps, %: " + ", ".join(titles)]
    rows = []
    for name, contestant in CONTESTANTS.items():
        runs = {data: cells(results, data, "run", name) for data in shown}
        if not any(runs.values()) and not costs(results, name):
            continue
        accuracies = [spread([run["accuracy"] for run in runs[data]]) for data in shown]
        # A model of each data set has sizes of its own.
        parameters = "; ".join(f"{runs[data][0]['parameters']:,}" if runs[data] else "-" for data in shown)
        kept = [
            f"{100 * statistics.mean(cell['calibrated'] for cell in found):.1f}" if found else "-"
            for found in (cells(results, data, "conversion", name) for data in shown)
        ]
        kept = ", ".join(kept) if set(kept) != {"-"} else ""
        rows.append(
            [contestant.title, contestant.remaining, *accuracies, parameters, *_costs(results, name, sizes), kept]
        )
        if name == "sima" and costs(results, FUSED):
            rows.append(["SimA, fused kernel", contestant.remaining, "", "", "", *_costs(results, FUSED, sizes), ""])
    return markdown(header, rows, left=2)


def _costs(results: dict, name: str, sizes: list[int]) -> list[str]:
    found = costs(results, name)
    if not found:
        return [""] * (len(sizes) + 2)
    shown = found.get(SHOWN_TOKENS, {}).get("operations")
    times = [f"{found[size]['median_ms']:.2f}" for size in sizes]
    return ["" if shown is None else f"{shown / 1e6:,.0f}", *times, f"{found[max(sizes)]['peak_bytes'] / 2**20:,.1f}"]


def conditions(results: dict) -> str:
    """How it was measured, in sentences."""
    sentences = []
    for data in DATA:
        if data in results:
            facts, settings = results[data], results[data]["settings"]
            images = (
                f"{settings['train_images']:,} training images"
                if "train_images" in settings
                else "all training images"
            )
            sentences.append(
                f"{facts['words']}: a ViT of {settings['depth']} blocks of {settings['width']} channels, "
                f"{(settings['image_size'] // settings['patch_size']) ** 2 + 1} tokens, {images}, "
                f"{settings['epochs']} epochs, conversion with {settings['conversion_images']:,} images without labels."
            )
    sentences.append(
        "Mean and range over two seeds on test images; learning rates were chosen on held-out training images."
    )
    if "time" in results:
        facts = results["time"]
        sentences.append(
            f"Operations, milliseconds and MiB: attention alone, softmax by torch's fused kernel and all others in plain torch, "
            f"{facts['heads']} heads of {facts['channels']} channels, one image, forward, float32, medians of turns; {facts['device']}, torch {facts['torch']}."
        )
    return " ".join(sentences)


def draw_figure(folder: Path, output: Path) -> None:
    """Accuracy on Fashion-MNIST against milliseconds at 1,024 tokens; nothing while one of the two is missing."""
    results = read(folder)
    points = {
        name: ([100 * run["accuracy"] for run in cells(results, DATA[0], "run", name)], costs(results, name))
        for name in CONTESTANTS
    }
    points = {
        name: (found, rows[SHOWN_TOKENS]["median_ms"])
        for name, (found, rows) in points.items()
        if found and SHOWN_TOKENS in rows
    }
    if not points:
        return
    plt = pyplot()
    figure, axis = plt.subplots(figsize=(8.2, 5), layout="constrained")
    labeled, placed = set(), []
    means = {name: statistics.mean(found) for name, (found, _) in points.items()}
    step = 0.035 * max(max(means.values()) - min(means.values()), 1)
    for name in sorted(points, key=means.get):
        (found, milliseconds), mean, contestant = points[name], means[name], CONTESTANTS[name]
        label = None if contestant.remaining in labeled else f"left of softmax: {contestant.remaining}"
        labeled.add(contestant.remaining)
        spans = [mean - min(found)], [max(found) - mean]
        color = COLORS[contestant.remaining]
        axis.errorbar([milliseconds], [mean], spans, fmt="o", color=color, capsize=3, label=label)
        height = mean
        while any(0.5 < x / milliseconds < 2 and abs(y - height) < step for x, y in placed):
            height += step / 4  # no name upon another
        placed.append((milliseconds, height))
        axis.annotate(contestant.title, (milliseconds, height), (6, 2), textcoords="offset points", fontsize=7)
    axis.set_xscale("log")
    axis.margins(x=0.15)
    axis.set_xlabel(f"milliseconds of the attention alone at {SHOWN_TOKENS:,} tokens, plain torch")
    axis.set_ylabel(f"accuracy on {results[DATA[0]]['words']}, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8)
    axis.set_title(
        f"The same small ViT with each attention: mean and range over seeds; {results['time']['device']}", fontsize=10
    )
    figure.savefig(output, dpi=110)
    plt.close(figure)


def update_page(folder: Path, page: Path) -> None:
    """Replace what stands between the marks "peers" of the page.

    Raises:
        ValueError: the marks are not there.
    """
    results = read(folder)
    links = ", ".join(f"[peers_{name}.json](benchmarks/results/peers_{name}.json)" for name in results)
    picture = folder / "peers.png"
    shown = "\n\n![Accuracy against milliseconds](benchmarks/results/peers.png)" if picture.is_file() else ""
    replace_between(
        page, "peers", f"{markdown_table(results)}\n\n{conditions(results)} Everything measured: {links}.{shown}"
    )

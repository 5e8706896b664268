"""The table and the picture of self_supervision.py, from its results file alone."""

import json
import statistics
from pathlib import Path

from sima_hf.bench.tables import markdown, replace_between
from sima_hf.machine.plotting import pyplot


RESULTS = "self_supervision.json"
TITLES = {"softmax": "softmax", "sima": "SimA"}
COLORS = {"softmax": "#c0392b", "sima": "#3465a4"}
MEASURES = {"knn": "k-NN", "linear": "linear probe"}


def found(results: dict, step: str, attention: str | None = None) -> list[dict]:
    """Cells of a step, by seed."""
    return [cell for cell in results["cells"] if cell["step"] == step and cell.get("attention") == attention]


def spread(values: list[float]) -> str:
    """Mean and, of several, range, in percent."""
    if not values:
        return ""
    mean = f"{100 * statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def markdown_table(results: dict) -> str:
    """One row for each kind of features."""
    rows = [("pixels", found(results, "pixels"))]
    for attention, title in TITLES.items():
        rows.append((f"random weights, {title}", found(results, "random", attention)))
    for attention, title in TITLES.items():
        rows.append((f"DINO, {title}", found(results, "run", attention)))
    body = []
    for title, cells in rows:
        rates = sorted({f"{cell['rate']:g}" for cell in cells if "rate" in cell})
        body.append(
            [title, ", ".join(rates), *(spread([cell[name] for cell in cells if name in cell]) for name in MEASURES)]
        )
    return markdown(["features", "learning rate", *(f"{title}, %" for title in MEASURES.values())], body, left=1)


def conditions(results: dict, name: str) -> str:
    """How it was measured, in sentences."""
    settings, encoder = results["settings"], results["encoder"]
    tokens = (encoder["image_size"] // encoder["patch_size"]) ** 2 + 1
    rates = ", ".join(f"{rate:g}" for rate in settings["rates"])
    runs = [cell for cell in results["cells"] if cell["step"] == "run"]
    minutes = (
        f" a run took {statistics.mean(cell['processor_seconds'] for cell in runs) / 60:.1f} minutes of a processor,"
        if runs
        else ""
    )
    return (
        f"Fashion-MNIST, accuracy on {settings['test_images']:,} test images by the labels of the {settings['train_images']:,} training "
        f"images that were pre-trained on; mean and range of two seeds. A ViT of {encoder['num_hidden_layers']} blocks of "
        f"{encoder['hidden_size']} channels, {tokens} tokens, {encoder['parameters']:,} parameters; {settings['epochs']['run']:g} epochs of "
        f"{settings['recipe']['per_device_train_batch_size']} images a step;{minutes} evaluation included. Learning rates were chosen from "
        f"{rates} by k-NN on {settings['held_out_images']:,} held-out training images after {settings['epochs']['choice']:g} epoch. "
        f"{results['device']}, torch {results['torch']}, transformers {results['transformers']}; all settings "
        f"in [{name}](benchmarks/results/{name})."
    )


def draw_figure(path: Path, output: Path) -> None:
    """Accuracies as bars with a point for each seed, and the loss of the runs."""
    results = json.loads(path.read_text(encoding="utf-8"))
    plt = pyplot()
    figure, (bars, losses) = plt.subplots(1, 2, figsize=(11, 4.4), layout="constrained")
    kinds = [("pixels", None), *((step, attention) for step in ("random", "run") for attention in TITLES)]
    names = {"pixels": "pixels", "random": "random\n", "run": "DINO\n"}
    for place, (step, attention) in enumerate(kinds):
        cells = found(results, step, attention)
        for shift, (measure, title) in enumerate(MEASURES.items()):
            values = [100 * cell[measure] for cell in cells if measure in cell]
            if values:
                x = place + 0.36 * (shift - 0.5)
                color = COLORS.get(attention, "#8a8a8a")
                bars.bar(x, statistics.mean(values), 0.34, color=color, alpha=(0.9, 0.5)[shift])
                bars.plot([x] * len(values), values, "k.", markersize=5)
                if place == 1:
                    bars.annotate(title, (x, 3), ha="center", rotation=90, fontsize=8, color="white")
    bars.set_xticks(
        range(len(kinds)), [names[step] + TITLES.get(attention, "") for step, attention in kinds], fontsize=8
    )
    bars.set_ylabel("accuracy on test images, %")
    for attention, title in TITLES.items():
        for number, cell in enumerate(found(results, "run", attention)):
            steps = [entry["step"] for entry in cell["history"]]
            for key, style in (("loss", "-"), ("teacher_entropy", ":")):
                label = f"{title}, {key.replace('_', ' ')}" if number == 0 else None
                losses.plot(
                    steps, [entry[key] for entry in cell["history"]], style, color=COLORS[attention], label=label
                )
    losses.set_xlabel("step")
    losses.set_ylabel("nats")
    if losses.lines:
        losses.legend(fontsize=8)
    for axis in (bars, losses):
        axis.grid(alpha=0.3)
    figure.suptitle(f"DINO on Fashion-MNIST, one shape and one budget; {results['device']}", fontsize=10)
    figure.savefig(output, dpi=110)
    plt.close(figure)


def update_page(path: Path, page: Path) -> None:
    """Replace what stands between the marks "self-supervision" of the page.

    Raises:
        ValueError: the marks are not there.
    """
    results = json.loads(path.read_text(encoding="utf-8"))
    picture = path.with_suffix(".png").name
    shown = f"![Accuracies and losses](benchmarks/results/{picture})"
    replace_between(
        page, "self-supervision", f"{markdown_table(results)}\n\n{conditions(results, path.name)}\n\n{shown}"
    )

"""The picture and the tables of the comparison on digits, all from its results file alone."""

import statistics
from pathlib import Path

from digits_results import conditions, count_seeds, figure_title, read, runs_of

from sima_hf.bench.tables import markdown, replace_between
from sima_hf.machine.plotting import pyplot


THRESHOLD = 0.95
TITLES = {
    "vit_softmax": ("ViT", "softmax, 4 heads"),
    "vit_none": ("ViT", "SimA, gain none, 4 heads"),
    "vit_tokens": ("ViT", "SimA, gain tokens, 4 heads"),
    "vit_tokens_one_head": ("ViT", "SimA, gain tokens, 1 head"),
    "native_none": ("SimA's own", "gain none"),
    "native_tokens": ("SimA's own", "gain tokens"),
    "cvt_softmax": ("CvT", "softmax"),
    "cvt_none": ("CvT", "SimA, gain none"),
    "cvt_tokens": ("CvT", "SimA, gain tokens"),
}
COLORS = {"softmax": "#555753", "none": "#e07b1a", "tokens": "#3465a4"}
LABELS = {"softmax": "softmax", "none": "SimA, gain none", "tokens": "SimA, gain tokens"}
KINDS = {
    "unit_normal": ("unit-normal input", ":"),
    "untrained_vit": ("untrained ViT", "-"),
    "trained_vit": ("trained ViT", "--"),
}


def accuracies(results: dict, model: str) -> list[float]:
    """Percent, by seed, with the last weights."""
    return [100 * run["accuracy"] for run in runs_of(results, model)]


def by_tokens(results: dict) -> dict[str, list[dict]]:
    """Scale and exponent of each attention against tokens, by kind of input and by seed."""
    trained = [run["scales_by_tokens"] for run in runs_of(results, "vit_softmax")]
    return {**results["scales_by_tokens"], **({"trained_vit": trained} if trained else {})}


def draw_figure(path: Path) -> None:
    """`comparison_digits.png` beside the results: accuracy against epochs for each family, and scale against tokens."""
    plt = pyplot()
    results = read(path)
    figure, axes = plt.subplots(2, 2, figsize=(10.5, 8), layout="constrained")
    for axis, family in zip(axes.flat, ("ViT", "CvT", "SimA's own"), strict=False):
        _curves(axis, results, family)
    _scales(axes[1, 1], results)
    figure.suptitle(figure_title(results, "Trained from scratch on"), fontsize=10)
    figure.savefig(path.with_suffix(".png"), dpi=110)
    plt.close(figure)


def _curves(axis, results: dict, family: str) -> None:
    shown = [model for model, (of_family, _) in TITLES.items() if of_family == family and runs_of(results, model)]
    for model in shown:
        curves = [[100 * at for at in run["curve"]] for run in runs_of(results, model)]
        epochs = range(1, len(curves[0]) + 1)
        color = COLORS[results["contestants"][model][1]]
        style = "--" if model.endswith("one_head") else "-"
        means = [statistics.mean(at) for at in zip(*curves, strict=True)]
        axis.plot(epochs, means, style, color=color, label=f"{TITLES[model][1]}: {means[-1]:.1f} %")
        if style == "-":
            least, most = ([function(at) for at in zip(*curves, strict=True)] for function in (min, max))
            axis.fill_between(epochs, least, most, color=color, alpha=0.15, linewidth=0)
    axis.axhline(100 * results["threshold"], color="#8a8a8a", linewidth=1, linestyle=":")
    axis.set_ylim(50, 100)
    axis.set_title(f"{family} from scratch", fontsize=11)
    axis.set_xlabel("epochs")
    axis.set_ylabel(f"accuracy on {results['measured_on']}, %")
    axis.grid(alpha=0.3)
    if shown:
        axis.legend(fontsize=8, loc="lower right")


def _scales(axis, results: dict) -> None:
    for kind, (title, style) in KINDS.items():
        found = by_tokens(results).get(kind)
        for attention in COLORS if found else ():
            scales = [one[attention]["scale"] for one in found]
            tokens = list(scales[0])
            means = [statistics.geometric_mean(one[place] for one in scales) for place in tokens]
            label = f"{LABELS[attention]}, {title}: N^{_exponent(found, attention):.2f}".replace(
                "-", "\N{MINUS SIGN}", 0
            )
            axis.plot(
                [int(place) for place in tokens],
                means,
                style,
                marker="o",
                markersize=3.5,
                color=COLORS[attention],
                label=label,
            )
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    axis.set_xticks(results["tokens"], [f"{tokens:,}" for tokens in results["tokens"]])
    axis.minorticks_off()
    axis.set_title("Scale of the attention's output", fontsize=11)
    axis.set_xlabel("tokens N")
    axis.set_ylabel("RMS of output / RMS of values")
    axis.grid(alpha=0.3)
    axis.set_ylim(bottom=1e-7)  # room for the legend below the lines
    axis.legend(fontsize=7, loc="lower left")


def _exponent(found: list[dict], attention: str) -> float:
    return statistics.mean(one[attention]["exponent"] for one in found)


def _epochs(results: dict, model: str) -> str:
    found = [run["epochs_to_threshold"] for run in runs_of(results, model)]
    return ", ".join("not reached" if epochs is None else str(epochs) for epochs in found)


def markdown_table(path: Path) -> str:
    """The results as docs/results.md has them."""
    results = read(path)
    epochs, threshold = results["recipe"]["epochs"], f"{100 * results['threshold']:.0f} %"
    header = ["model", "attention", "parameters", f"accuracy after {epochs} epochs", "least to most"]
    rows = []
    for model, (family, attention) in TITLES.items():
        found = accuracies(results, model)
        if found:
            cells = [
                family,
                attention,
                f"{runs_of(results, model)[0]['parameters']:,}",
                f"{statistics.mean(found):.1f} %",
            ]
            cells += [f"{min(found):.1f} to {max(found):.1f}", _epochs(results, model)]
            rows.append(cells)
    return markdown([*header, f"epochs to {threshold}, by seed"], rows, left=2) + (
        f"\n\nMeans of {count_seeds(results)} seeds on {results['data']}; the same epochs, batches, augmentation and schedule for all, learning rates "
        f"set by held-out training images for the ViT (one seed), 2e-3 untried against others for the rest. {conditions(results)}; "
        f"everything measured, with settings, in [{path.name}]({path.as_posix()})."
    )


def scales_table(path: Path) -> str:
    """Scales of the ViT's attention as docs/results.md has them: against tokens, and in its blocks before and after training."""
    results = read(path)
    kinds = by_tokens(results)
    names = [KINDS[kind][0] for kind in kinds]
    tokens = results["tokens"]
    header = ["output of attention, values having 1"]
    header += [f"{name}: {n:,} tokens" for name in names for n in (tokens[0], tokens[-1])]
    rows = []
    for attention in COLORS:
        cells = []
        for found in kinds.values():
            for place in (str(tokens[0]), str(tokens[-1])):
                cells.append(f"{statistics.geometric_mean(one[attention]['scale'][place] for one in found):.2g}")
        cells += [f"N^{_exponent(found, attention):.2f}" for found in kinds.values()]
        rows.append([LABELS[attention], *cells])
    by_tokens_table = markdown([*header, *(f"{name}: grows as" for name in names)], rows)
    lines = [
        "| ViT, 65 tokens, weights drawn with | attention | its output at the start | branch / stream at the start | after training | "
        "W_v W_o grew | accuracy |",
        "|--:|---|--:|--:|--:|--:|--:|",
    ]
    for model in ("vit_softmax", "vit_none", "vit_tokens"):
        runs = runs_of(results, model)
        if not runs:
            continue
        family, attention, changes = results["contestants"][model]
        init = changes.get("initializer_range", results["families"][family]["initializer_range"])
        start, after = "scales_at_start", "scales_after"
        cells = [
            f"{init}",
            LABELS[attention],
            f"{_mean(runs, start, 'attention'):.2g}",
            f"{_share(runs, start):.1%}",
            f"{_share(runs, after):.1%}",
            f"{_mean(runs, after, 'weights') / _mean(runs, start, 'weights'):.1f}-fold",
            f"{statistics.mean(accuracies(results, model)):.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([by_tokens_table, "", *lines])


def _mean(runs: list[dict], when: str, what: str) -> float:
    """Geometric mean over seeds and blocks."""
    return statistics.geometric_mean(block[what] for run in runs for block in run[when])


def _share(runs: list[dict], when: str) -> float:
    return _mean(runs, when, "branch") / _mean(runs, when, "stream")


def update_readme(readme: Path, path: Path) -> None:
    """Replace what stands between the README's comparison marks; ValueError where they are not."""
    replace_between(readme, "comparison", markdown_table(path))


def update_scales(text: Path, path: Path) -> None:
    """Replace what stands between the text's comparison-scales marks; ValueError where they are not."""
    replace_between(text, "comparison-scales", scales_table(path))

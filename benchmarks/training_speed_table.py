"""For `measure_training_speed.py`: a row for each measurement, and the README's table from the CSV."""

import math
import statistics
from dataclasses import dataclass, fields
from pathlib import Path

from sima_hf.bench.tables import markdown, read_csv, replace_between


FED, REPEATED, STEP = "training from the loader", "training on a repeated batch", "training step"
# Everything else is what data costs: shown as a multiple of the step.
TRAINING = (FED, REPEATED, STEP)
PARTS = ("RandAugment", "normalizing", "random erasing", "mixing")


@dataclass(frozen=True)
class Row:
    """One contestant: medians and quartiles over the rounds, and what they depend on.

    `times_the_step`: its rate over that of the fastest of the models' training steps, `step_model`, in the same round.
    `waiting_share`: of the time of all steps, what `next(loader)` took, where a loader feeds the steps.
    `repeats`: views of each image that is decoded. `batches`: in one measurement. `batch_ms`: of a batch, from the median rate.
    `threads`: of torch in this process; loaders' workers have one each. `taken_by_others`: share of all processors' time that other
    processes had meanwhile, which should be next to nothing.
    """

    what: str
    model: str
    workers: int | None
    repeats: int | None
    batch: int
    batches: int
    image_size: int
    dtype: str
    compiled: bool
    images_per_second: float
    lower_quartile: float
    upper_quartile: float
    batch_ms: float
    times_the_step: float
    step_model: str
    waiting_share: float | None
    waiting_lower_quartile: float | None
    waiting_upper_quartile: float | None
    rounds: int
    images: int
    image_bytes: int
    taken_by_others: float | None
    device: str
    device_name: str
    threads: int
    torch: str
    transformers: str
    pillow: str
    kornia: str
    sima_hf: str
    revision: str


def summed_up(contestants: list, samples: list[list], settings: dict) -> list[Row]:
    """A row for each contestant from its samples, one for each round."""
    rates = [[one.images / one.seconds for one in own] for own in samples]
    steps = [place for place, contestant in enumerate(contestants) if contestant.about["what"] == STEP]
    fastest = max(steps, key=lambda place: statistics.median(rates[place]))
    names = {field.name for field in fields(Row)}
    rows = []
    for contestant, own, rate in zip(contestants, samples, rates, strict=True):
        about = {"model": "", "workers": None, "repeats": None, **settings, **contestant.about}
        if contestant.about["what"] not in TRAINING:
            about |= {
                "dtype": "float32" if contestant.about["what"] in ("augmenting", *PARTS) else "uint8",
                "compiled": False,
            }
        lower, median, upper = (_digits(value) for value in statistics.quantiles(rate, n=4, method="inclusive"))
        waiting = [None] * 3
        if contestant.about["what"] == FED:
            shares = [one.waited / one.seconds for one in own]
            waiting = [round(share, 5) for share in statistics.quantiles(shares, n=4, method="inclusive")]
        ratio = statistics.median(a / b for a, b in zip(rate, rates[fastest], strict=True))
        about |= {
            "images_per_second": median,
            "lower_quartile": lower,
            "upper_quartile": upper,
            "batch_ms": _digits(1000 * about["batch"] / median),
            "times_the_step": _digits(ratio),
            "step_model": contestants[fastest].about["model"],
            "waiting_share": waiting[1],
            "waiting_lower_quartile": waiting[0],
            "waiting_upper_quartile": waiting[2],
            "rounds": len(own),
        }
        rows.append(Row(**{name: about[name] for name in names}))
    return rows


def _digits(value: float, digits: int = 5) -> float:
    """Rounded to so many digits that count."""
    return round(value, digits - 1 - math.floor(math.log10(value))) if value else 0.0


def markdown_table(csv_path: Path) -> str:
    """The CSV as the README's table, and below it how long training waits for data, and the conditions."""
    rows = read_csv(csv_path)
    header = [
        "",
        "batch",
        "workers",
        "views of an image",
        "images per second",
        "quartiles",
        "ms per batch",
        "times the step",
    ]
    cells = []
    for row in rows:
        name = f"{row['what']}, {row['model']}" if row["model"] else row["what"]
        name = f"of it {name}" if row["what"] in PARTS else name
        rate, lower, upper = (_shown(row[key]) for key in ("images_per_second", "lower_quartile", "upper_quartile"))
        ratio = "" if row["what"] in TRAINING else _shown(row["times_the_step"])
        about = [row["batch"], row["workers"], row["repeats"]]
        cells.append([name, *about, rate, f"{lower} to {upper}", _shown(row["batch_ms"]), ratio])
    return "\n\n".join([markdown(header, cells), verdict(rows), conditions_sentence(rows, csv_path)])


def verdict(rows: list[dict[str, str]]) -> str:
    """How long training waits for data, from the rows of a CSV."""
    (fed,), (repeated,) = ([row for row in rows if row["what"] == what] for what in (FED, REPEATED))
    slower = float(repeated["images_per_second"]) / float(fed["images_per_second"]) - 1
    return (
        f"Fed by a loader of {fed['workers']} workers, {fed['model']} waits for data {_percent(fed['waiting_share'])} of the time "
        f"(quartiles {_percent(fed['waiting_lower_quartile'])} and {_percent(fed['waiting_upper_quartile'])}); a step takes "
        f'{_percent(abs(slower))} {"longer" if slower >= 0 else "less"} than on a repeated batch. Both augment on the device. "Times the '
        f"step\": over the rate of the fastest training step, {fed['step_model']}'s."
    )


def conditions_sentence(rows: list[dict[str, str]], csv_path: Path) -> str:
    """What the figures of a CSV depend on."""
    step = next(row for row in rows if row["what"] == STEP)
    compiled = "compiled" if step["compiled"] == "True" else "not compiled"
    others = ""
    if step["taken_by_others"]:
        others = f", other processes taking {_percent(step['taken_by_others'])} of the processors"
    return (
        f"Medians over {step['rounds']} rounds in which all take turns, on {step['device_name']}{others}: {step['image_size']} px, steps in "
        f"{step['dtype']}, {compiled}; {step['images']} JPEGs of 500 x 375 pixels and {int(step['image_bytes']) / 1000:.0f} kB, cut from "
        f"scikit-learn's two photographs, in memory (the system's cache of files); torch {step['torch']}, Pillow {step['pillow']}, "
        f"kornia {step['kornia']}. [{csv_path.name}]({csv_path.as_posix()})"
    )


def _shown(text: str) -> str:
    value = float(text)
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _percent(text: str | float) -> str:
    return f"{100 * float(text):.1f} %"


def update_readme(readme: Path, csv_path: Path) -> None:
    """Put the table between the marks.

    Raises:
        ValueError: the marks are not there.
    """
    replace_between(readme, "training-speed", markdown_table(csv_path))

"""Time and memory of whole models: one with softmax against the same one with SimA, interleaved in one run.

    sima-hf bench model deit-small --against sdpa        # random weights; or any folder or Hub name

Both have the same parameters. Before anything is timed it is certified that the swapped one runs no softmax.
"""

import copy
import csv
import functools
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm

from .benchmark import device_name, git_revision, paired_ratio, take_turns
from .errors import MissingDependencyError
from .patching import certify, patch_model
from .version import __version__


# Names that need no download: sizes of published models, with random weights.
_DEIT = {"intermediate_size": 1536, "hidden_size": 384, "num_attention_heads": 6, "num_labels": 1000}
MODELS = {
    "deit-tiny": {**_DEIT, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "deit-small": _DEIT,
    "deit-base": {**_DEIT, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
SIZES = ((1, 224), (8, 224), (1, 384), (1, 512), (1, 1024))  # (batch, pixels)
CONTESTANTS = ("softmax", "sima")


@dataclass(frozen=True)
class ModelRow:
    """One contestant at one size: milliseconds of a forward or of a training step, and its time over softmax's."""

    model: str
    contestant: str
    attention: str
    mode: str
    compiled: bool
    batch: int
    pixels: int
    dtype: str
    turns: int
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    ratio_to_softmax: float
    device: str
    threads: int
    torch: str
    transformers: str
    sima_hf: str
    revision: str


def build(name: str, against: str = "sdpa", dtype: torch.dtype = torch.float32, device: str = "cpu") -> dict:
    """The contestants: "softmax", the model with that attention, and "sima", the same one swapped, with the same weights.

    Args:
        name: a key of `MODELS`, or a folder or Hub name of a model that `patch_model` takes.
        against: "sdpa" or "eager".

    Raises:
        UnsupportedModelError, OSError: the model cannot be swapped, or cannot be loaded.
        RuntimeError: the swapped one still runs softmax where it was swapped.
    """
    torch.manual_seed(0)
    if name in MODELS:
        model = transformers.DeiTForImageClassification(transformers.DeiTConfig(**MODELS[name]))
    else:
        from .patching.load import load_saved_class

        model = load_saved_class(name)
    model = model.to(device=device, dtype=dtype).eval()
    swapped = patch_model(copy.deepcopy(model))
    model.set_attn_implementation(against)
    report = certify(swapped, _images(1, 224, dtype, device))
    if report.in_swapped:
        raise RuntimeError(f"The swapped model still runs softmax, so nothing is timed:\n{report}")
    return {"softmax": model, "sima": swapped}


def _images(batch: int, pixels: int, dtype: torch.dtype, device: str) -> dict:
    images = torch.randn(batch, 3, pixels, pixels, dtype=dtype, device=device)
    return {"pixel_values": images, "interpolate_pos_encoding": True}


def _step(model: torch.nn.Module, inputs: dict) -> None:
    """Forward, backward and a plain update."""
    model(**inputs).logits.float().logsumexp(-1).mean().backward()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter -= 1e-6 * parameter.grad
                parameter.grad = None


def _forward(model: torch.nn.Module, inputs: dict) -> None:
    with torch.no_grad():
        model(**inputs)


MODES = {"forward": _forward, "train": _step}


def measure_model(
    name: str = "deit-small",
    against: str = "sdpa",
    sizes: tuple[tuple[int, int], ...] = SIZES,
    mode: str = "forward",
    compiled: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: float = 20.0,
) -> list[ModelRow]:
    """Time both contestants at all `(batch, pixels)` sizes, in turn, for about `seconds` a size."""
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {', '.join(map(repr, MODES))}, but {mode!r} came.")
    contestants = build(name, against, dtype, device)
    for model in contestants.values():
        model.train(mode == "train")
    run = {contestant: torch.compile(model) if compiled else model for contestant, model in contestants.items()}
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    rows = []
    for batch, pixels in tqdm(sizes, desc=f"{name}, {mode}", unit="size"):
        inputs = _images(batch, pixels, dtype, device)
        calls = {contestant: functools.partial(MODES[mode], model, inputs) for contestant, model in run.items()}
        times = take_turns(calls, seconds, wait)
        for contestant, own in times.items():
            lower, median, upper = statistics.quantiles(own, n=4)
            rows.append(
                ModelRow(
                    model=name,
                    contestant=contestant,
                    attention=against if contestant == "softmax" else "sima",
                    mode=mode,
                    compiled=compiled,
                    batch=batch,
                    pixels=pixels,
                    dtype=str(dtype).removeprefix("torch."),
                    turns=len(own),
                    median_ms=round(median * 1e3, 2),
                    lower_quartile_ms=round(lower * 1e3, 2),
                    upper_quartile_ms=round(upper * 1e3, 2),
                    ratio_to_softmax=paired_ratio(own, times["softmax"]),
                    device=device_name(device),
                    threads=torch.get_num_threads(),
                    torch=torch.__version__,
                    transformers=transformers.__version__,
                    sima_hf=__version__,
                    revision=git_revision(),
                )
            )
    return rows


def peak_memory(name: str, contestant: str, pixels: int, against: str = "sdpa") -> int:
    """Bytes at most resident while one image of `pixels` squared goes through a contestant, in a process of its own (Linux)."""
    code = (
        "import sys; from sima_hf.benchmark_model import _forward, _images, build; import torch; "
        "name, contestant, pixels, against = sys.argv[1:]; model = build(name, against)[contestant]; "
        "_forward(model, _images(1, int(pixels), torch.float32, 'cpu')); "
        # Not getrusage: its maximum begins with what the parent process held.
        "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, name, contestant, str(pixels), against],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{name} with {contestant} did not run at {pixels} pixels: {done.stderr.strip()[-300:]}")
    return int(done.stdout.split()[-1]) * 1024


def write_csv(rows: list[ModelRow], path: Path) -> None:
    """One line per row, columns as in `ModelRow`."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(ModelRow.__dataclass_fields__), lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)


def table(rows: list[ModelRow]) -> str:
    """The rows as text, one line per size."""
    lines = [f"{'mode':>8} {'batch':>5} {'pixels':>6} {'softmax':>12} {'sima':>12}   times faster"]
    for mode, batch, pixels in dict.fromkeys((row.mode, row.batch, row.pixels) for row in rows):
        here = {row.contestant: row for row in rows if (row.mode, row.batch, row.pixels) == (mode, batch, pixels)}
        times = " ".join(f"{here[name].median_ms:>9,.1f} ms" for name in CONTESTANTS)
        lines.append(f"{mode:>8} {batch:>5} {pixels:>6} {times}   {1 / here['sima'].ratio_to_softmax:>12.2f}")
    return "\n".join(lines)


def draw(rows: list[ModelRow], png_path: Path) -> None:
    """Time of one image against its size, log-log.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib

        matplotlib.use("Agg")
        from matplotlib import pyplot as plt
    except ImportError as error:
        raise MissingDependencyError("The picture needs matplotlib: pip install 'sima-hf[plot]'") from error
    figure, axis = plt.subplots(figsize=(8.2, 4.6), layout="constrained")
    colors = {"softmax": "#8a8a8a", "sima": "#e07b1a"}
    for mode, style in (("forward", "-"), ("train", "--")):
        for contestant in CONTESTANTS:
            own = [row for row in rows if (row.mode, row.contestant, row.batch) == (mode, contestant, 1)]
            if own:
                label = f"{own[0].attention}, {'training step' if mode == 'train' else mode}"
                points = [row.pixels for row in own], [row.median_ms for row in own]
                axis.plot(*points, style, marker="o", color=colors[contestant], label=label)
    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    ticks = sorted({row.pixels for row in rows})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xlabel("pixels along a side")
    axis.set_ylabel("time, ms")
    axis.grid(alpha=0.3)
    axis.legend()
    one = rows[0]
    axis.set_title(
        f"{one.model}, batch 1, {one.dtype}, {one.device}, torch {one.torch}\nmedians, contestants in turn",
        fontsize=10,
    )
    figure.savefig(png_path, dpi=120)
    plt.close(figure)

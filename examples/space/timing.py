"""Time of a forward against resolution, measured while somebody waits: contestants in turns, medians, a budget of seconds."""

import inspect
import statistics
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import transformers
from loaded_models import channels, image_size
from transformers import PreTrainedModel

import sima_hf
from sima_hf.machine.description import device_name


FACTORS = (1, 1.5, 2, 3, 4, 6, 8)  # of the model's own image size
MAX_TOKENS = 4200
NO_PATCH = 16
ROUNDS = (3, 30)  # at least and at most, after one unmeasured


@dataclass(frozen=True)
class Point:
    """Median seconds of a forward of one image, by contestant, at one size."""

    pixels: int
    tokens: int
    seconds: dict[str, float]
    rounds: int


@dataclass(frozen=True)
class Progress:
    """Where a measurement stands.

    Attributes:
        points: measured so far.
        share: of the sizes, 0 to 1.
        text: what is being done, or how it ended.
        done: whether it has ended.
    """

    points: tuple[Point, ...]
    share: float
    text: str
    done: bool = False


def sizes_of(model: PreTrainedModel) -> list[tuple[int, int]]:
    """`(pixels, patches)` to measure at: multiples of the patch, from the model's own size up to some 4,000 patches.

    A config without patch size counts as one of 16 pixels.
    """
    config = getattr(model.config, "vision_config", model.config)
    patch = getattr(config, "patch_size", None) or NO_PATCH
    patch = patch if isinstance(patch, int) else max(patch)
    own = image_size(model)
    pixels = sorted({max(1, round(own * factor / patch)) * patch for factor in FACTORS})
    found = [(side, (side // patch) ** 2) for side in pixels]
    return [one for one in found if one[1] <= MAX_TOKENS] or found[:1]


def measure(contestants: Mapping[str, PreTrainedModel], seconds: float = 20.0) -> Iterator[Progress]:
    """Measure all contestants size after size; says where it is after every round and ends by saying that it is done.

    Contestants take turns within a round, so that a machine that is slow for a while is slow for all. Larger sizes are left
    out when what they would take, reckoned with the square of the patches, is more than is left of `seconds`.
    """
    model = next(iter(contestants.values()))
    sizes, points, start = sizes_of(model), [], time.perf_counter()
    last = 0.0  # seconds of a round at the size before
    for index, (pixels, tokens) in enumerate(sizes):
        left = seconds - (time.perf_counter() - start)
        expected = last * (tokens / sizes[index - 1][1]) ** 2 if index else 0.0
        if expected * (ROUNDS[0] + 1) > left:
            yield Progress(
                tuple(points), 1.0, f"{pixels} px and more are left out: they take longer than {seconds:.0f} s.", True
            )
            return
        doing = f"{pixels} x {pixels} px, {tokens:,} patches"
        yield Progress(tuple(points), index / len(sizes), f"{doing}: warming up")
        images = torch.randn(1, channels(model), pixels, pixels, device=model.device, dtype=model.dtype)
        taken: dict[str, list[float]] = {name: [] for name in contestants}
        try:
            _round(contestants, images)
            begin = time.perf_counter()
            for turn in range(ROUNDS[1]):
                for name, spent in _round(contestants, images).items():
                    taken[name].append(spent)
                last = (time.perf_counter() - begin) / (turn + 1)
                yield Progress(tuple(points), index / len(sizes), f"{doing}: round {turn + 1}")
                if turn + 1 >= ROUNDS[0] and time.perf_counter() - begin > left / (len(sizes) - index):
                    break
        except (ValueError, RuntimeError) as error:  # a size that the model does not take, or no memory for it
            yield Progress(tuple(points), 1.0, f"Stopped at {pixels} px: {str(error).splitlines()[0]}", True)
            return
        points.append(Point(pixels, tokens, {k: statistics.median(v) for k, v in taken.items()}, turn + 1))
    spent = time.perf_counter() - start
    yield Progress(tuple(points), 1.0, f"Done in {spent:.0f} s, {_range(points)} rounds a size.", True)


def _range(points: list[Point]) -> str:
    low, high = min(p.rounds for p in points), max(p.rounds for p in points)
    return str(low) if low == high else f"{low} to {high}"


def _round(contestants: Mapping[str, PreTrainedModel], images: torch.Tensor) -> dict[str, float]:
    """Seconds of one forward each."""
    taken = {}
    for name, model in contestants.items():
        begin = time.perf_counter()
        _forward(model, images)
        taken[name] = time.perf_counter() - begin
    return taken


def _forward(model: PreTrainedModel, images: torch.Tensor) -> None:
    with torch.no_grad():
        if "interpolate_pos_encoding" in inspect.signature(model.forward).parameters:
            model(pixel_values=images, interpolate_pos_encoding=True)
        else:
            model(pixel_values=images)
    if images.is_cuda:
        torch.cuda.synchronize()


def conditions(model: PreTrainedModel) -> str:
    """Hardware, threads, dtype, batch and versions, as the figure's title has them."""
    dtype = str(model.dtype).removeprefix("torch.")
    return (
        f"{device_name(str(model.device))}, {dtype}, batch 1, torch {torch.__version__}, transformers {transformers.__version__}, "
        f"sima_hf {sima_hf.__version__}"
    )

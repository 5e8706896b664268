"""Time of the attention itself: SimA against the literal formula and softmax, interleaved in one run.

    sima-hf bench attention --output-dir results        # or, for the files in benchmarks/results: make bench

Results are checked against each other before anything is timed. The contestants take turns, so that a machine that is
slow for a while is slow for all of them, and ratios are medians over turns.
"""

import functools
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.nn import functional as F
from tqdm.auto import tqdm

from ..machine.description import device_name, git_revision
from ..ops import sima_attention
from ..ops.backends import served_by
from ..version import __version__
from .floor import attention_work, multiply_add_ceiling, peak_allocated


HEADS, CHANNELS = 6, 64  # DeiT-S
SIZES = ((64, 49), (1, 197), (8, 197), (1, 577), (1, 1024), (1, 4096), (1, 16384))  # (batch, tokens)
MODES = ("forward", "train")


@dataclass(frozen=True)
class Row:
    """One contestant at one size; times in microseconds, ratios of its time to the named contestant's.

    `floor_us` is what the operation needs at least here: a copy of as many bytes as it has to read and write, or its
    multiply-adds at the highest rate that torch reaches on this machine (`ceiling_gflops`), whichever takes longer.
    `peak_bytes`: what torch allocated at most at one time during a call, inputs apart.
    """

    contestant: str
    mode: str
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
    floor_us: float
    ceiling_gflops: float
    peak_bytes: int
    backend: str
    device: str
    threads: int
    torch: str
    sima_hf: str
    revision: str


def literal_formula(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """`(B,H,N,D)` from three of that shape by the original code's two lines: normalize in memory, multiply in the cheaper order."""
    query, key = F.normalize(query, p=1.0, dim=-2), F.normalize(key, p=1.0, dim=-2)
    if query.shape[-2] < query.shape[-1]:
        return (query @ key.transpose(-2, -1)) @ value
    return query @ (key.transpose(-2, -1) @ value)


# "sima" is what sima_attention picks by itself, "sima_eager" the plain operations; each also through torch.compile.
CONTESTANTS: dict[str, Callable[..., torch.Tensor]] = {
    "softmax": F.scaled_dot_product_attention,
    "literal": literal_formula,
    "sima": sima_attention,
    "sima_eager": functools.partial(sima_attention, backend="eager"),
}
COMPILED = {"sima_compiled": "sima", "sima_eager_compiled": "sima_eager"}


def strided_inputs(batch: int, tokens: int, dtype: torch.dtype, device: str) -> list[torch.Tensor]:
    """query, key and value `(B,H,N,D)` as Transformers has them: views of contiguous `(B,N,H,D)`."""
    shape = (batch, tokens, HEADS, CHANNELS)
    return [torch.randn(shape, dtype=dtype, device=device).transpose(1, 2) for _ in range(3)]


def check_agreement(tensors: list[torch.Tensor], functions: dict[str, Callable], mode: str) -> None:
    """Raise RuntimeError unless all that is SimA gives the literal formula's numbers in float64; in training, its gradients too.

    Args:
        tensors: query, key and value `(B,H,N,D)`, float32, float16 or bfloat16.
        functions: contestant -> function of the three; "softmax" and "literal" are skipped.
        mode: "forward" or "train".
    """
    weights = torch.randn_like(tensors[0])

    def results(function, given):
        with torch.set_grad_enabled(mode == "train"):
            leaves = [x.detach().requires_grad_(mode == "train") for x in given]
            out = function(*leaves)
            gradients = torch.autograd.grad(out, leaves, weights.to(out.dtype)) if mode == "train" else ()
            return [x.detach().double() for x in (out, *gradients)]

    expected = results(literal_formula, [x.double() for x in tensors])
    allowed = {torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 2e-2}[tensors[0].dtype]
    for name in (name for name in functions if name not in ("softmax", "literal")):
        for found, right in zip(results(functions[name], tensors), expected, strict=True):
            error = ((found - right).norm() / right.norm()).item()
            if not error <= allowed:
                raise RuntimeError(f"{name} differs from the literal formula by {error:.1e}; so nothing is timed.")


def in_mode(function: Callable, tensors: list[torch.Tensor], mode: str) -> Callable[[], None]:
    """A call without arguments for query, key and value `(B,H,N,D)`: the forward without gradients, or forward and backward."""
    if mode == "forward":

        def forward():
            with torch.no_grad():
                function(*tensors)

        return forward
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    gradient = torch.randn_like(tensors[0])

    def train():
        torch.autograd.grad(function(*leaves), leaves, gradient)

    return train


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
    mode: str = "forward",
    compiled: bool = True,
) -> list[Row]:
    """Time all contestants at all `(batch, tokens)` sizes for about `seconds` a size; `compiled` adds SimA through torch.compile.

    Raises:
        ValueError: `mode` is neither "forward" nor "train".
        RuntimeError: the results do not agree.
    """
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {', '.join(map(repr, MODES))}, got {mode!r}.")
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    ceiling = multiply_add_ceiling(dtype, device)
    about = {"mode": mode, "ceiling_gflops": round(ceiling / 1e9, 1), **conditions(device)}
    rows = []
    for batch, tokens in tqdm(sizes, desc=f"attention, {mode}, {dtype}", unit="size"):
        torch.manual_seed(0)
        tensors = strided_inputs(batch, tokens, dtype, device)
        functions = dict(CONTESTANTS)
        if compiled:
            torch._dynamo.reset()
            functions |= {new: torch.compile(CONTESTANTS[name], dynamic=False) for new, name in COMPILED.items()}
        check_agreement(tensors, functions, mode)
        calls = {name: in_mode(function, tensors, mode) for name, function in functions.items()}
        moved, additions = attention_work(tensors[0], mode)
        source = torch.empty(moved // 2, dtype=torch.uint8, device=device)
        target = torch.empty_like(source)
        times = take_turns({**calls, "copy": lambda: target.copy_(source)}, seconds, wait)  # noqa: B023
        floor = max(statistics.median(times.pop("copy")), 2 * additions / ceiling)
        for name, own in times.items():
            rows.append(
                Row(
                    contestant=name,
                    batch=batch,
                    tokens=tokens,
                    heads=HEADS,
                    channels=CHANNELS,
                    dtype=str(dtype).removeprefix("torch."),
                    **spread(own, "us"),
                    ratio_to_softmax=paired_ratio(own, times["softmax"]),
                    ratio_to_literal=paired_ratio(own, times["literal"]),
                    floor_us=round(floor * 1e6, 1),
                    peak_bytes=peak_allocated(calls[name], device),
                    backend=served_by("auto", tensors[0]) if name == "sima" else "",
                    **about,
                )
            )
    return rows


def spread(seconds: list[float], unit: str) -> dict:
    """Number, median and quartiles of times, in "us" or "ms", under the names of the rows' fields."""
    scale, digits = {"us": (1e6, 1), "ms": (1e3, 2)}[unit]
    lower, median, upper = (round(time * scale, digits) for time in statistics.quantiles(seconds, n=4))
    return {
        "turns": len(seconds),
        f"median_{unit}": median,
        f"lower_quartile_{unit}": lower,
        f"upper_quartile_{unit}": upper,
    }


def conditions(device: str) -> dict:
    """What a figure depends on besides its settings: the machine, threads, versions, the checkout."""
    return {
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "sima_hf": __version__,
        "revision": git_revision(),
    }


def paired_ratio(own: list[float], other: list[float]) -> float:
    """Median over the turns of own time over the other's in the same turn."""
    return round(statistics.median(a / b for a, b in zip(own, other, strict=True)), 4)

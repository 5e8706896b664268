"""Time and memory of whole models: one with softmax against the same one with SimA, interleaved in one run.

    sima-hf bench model deit-small --against sdpa        # random weights; or any folder or Hub name
    sima-hf bench model sima_small_12_p16                # the paper's own model, against its formula taken literally

All have the same parameters. Before anything is timed it is certified that the swapped one runs no softmax, and its answer compared
with that of the reference. A third contestant,
where the host allows it, has no attention at all (its output is q + k + v): what no attention can be quicker than.
"""

import copy
import functools
import inspect
import subprocess
import sys
from dataclasses import dataclass

import torch
import torch._dynamo.config
import torch._inductor.config
import transformers
from tqdm.auto import tqdm

from ..loading.by_name import load_model
from ..models.sima.configuration_sima import SIMA_VARIANTS, SimAConfig
from ..models.sima.modeling_sima import SimAForImageClassification
from ..patching import certify, patch_model
from .attention import conditions, literal_formula, paired_ratio, spread, take_turns
from .runtimes import peak_kib


# Names that need no download: sizes of published models, with random weights.
_DEIT = {"intermediate_size": 1536, "hidden_size": 384, "num_attention_heads": 6, "num_labels": 1000}
MODELS = {
    "deit-tiny": {**_DEIT, "hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768},
    "deit-small": _DEIT,
    "deit-base": {**_DEIT, "hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 3072},
}
SIZES = ((1, 224), (8, 224), (1, 384), (1, 512), (1, 1024))  # (batch, pixels)


@dataclass(frozen=True)
class ModelRow:
    """One contestant at one size: milliseconds of a forward or of a training step, and its time over the baseline's."""

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
    baseline: str
    ratio_to_baseline: float
    device: str
    threads: int
    torch: str
    transformers: str
    sima_hf: str
    revision: str


def build(
    name: str, against: str = "sdpa", dtype: torch.dtype = torch.float32, device: str = "cpu"
) -> dict[str, torch.nn.Module]:
    """The contestants, with the same weights, the baseline first.

    For a model with softmax: "softmax", "sima", the same one swapped, and "none", without attention, where it can be had. For one of
    the native variants: "literal", with the paper's formula as written, and "sima".

    Args:
        name: a key of `MODELS`, a native variant, or a folder or Hub name of a model that `patch_model` takes.
        against: "sdpa" or "eager".
        dtype, device: in what and where all of them compute.

    Raises:
        UnsupportedModelError, CheckpointError: the model cannot be swapped, or cannot be loaded.
        RuntimeError: the swapped one still runs softmax where it was swapped, or gives other numbers than the reference.
    """
    torch.manual_seed(0)
    for attention, function in (("sima_literal", _literal), ("no_attention", _no_attention)):
        transformers.AttentionInterface.register(attention, function)
    if name in SIMA_VARIANTS:
        model = SimAForImageClassification(SimAConfig.from_variant(name)).to(device=device, dtype=dtype).eval()
        literal = copy.deepcopy(model)
        literal.set_attn_implementation("sima_literal")
        check_model(literal, model, {"pixel_values": _images(1, 224, dtype, device)["pixel_values"]})
        return {"literal": literal, "sima": model}
    model = load(name).to(device=device, dtype=dtype)
    swapped = patch_model(copy.deepcopy(model))
    model.load_state_dict(swapped.state_dict())  # of fresh weights, the swap draws what is zero
    without = copy.deepcopy(model)
    model.set_attn_implementation(against)
    images = _images(1, 224, dtype, device)
    report = certify(swapped, images)
    if report.in_swapped:
        raise RuntimeError(f"The swapped model still runs softmax, so nothing is timed:\n{report}")
    check_model(patch_model(copy.deepcopy(swapped), backend="reference"), swapped, images)
    without.set_attn_implementation("no_attention")
    # A host with attention code of its own takes the name and computes softmax all the same.
    others = {"none": without} if certify(without, images).softmax_free else {}
    return {"softmax": model, "sima": swapped, **others}


def load(name: str) -> torch.nn.Module:
    """The model with softmax: one of `MODELS` with random weights, or a folder or Hub name; ready for inference.

    Raises:
        CheckpointError: it cannot be loaded, or its weights do not fit its config; missing ones, which take as long, are a warning.
    """
    if name not in MODELS:
        return load_model(name, whole=False)
    torch.manual_seed(0)
    return transformers.DeiTForImageClassification(transformers.DeiTConfig(**MODELS[name])).eval()


def check_model(reference: torch.nn.Module, model: torch.nn.Module, inputs: dict) -> None:
    """Raise RuntimeError unless two models with the same weights give the same first output, in float32.

    With the gain "tokens", for without it attention hardly shows in the output of an untrained model.
    """
    inputs = {name: x.float() if isinstance(x, torch.Tensor) else x for name, x in inputs.items()}
    right, found = copy.deepcopy(reference).float(), copy.deepcopy(model).float()
    with torch.no_grad():
        for one in (right, found):
            if hasattr(one.config, "attention_gain"):
                one.config.attention_gain = "tokens"
        right, found = right(**inputs)[0], found(**inputs)[0]
    error = ((found - right).norm() / right.norm()).item()
    if not error <= 1e-4:
        raise RuntimeError(f"{type(model).__name__} differs from its reference by {error:.1e}; so nothing is timed.")


def _literal(module, query, key, value, attention_mask, gain="none", **kwargs):
    out = literal_formula(query, key, value)
    return (out * key.shape[2] if gain == "tokens" else out).transpose(1, 2).contiguous(), None


def _no_attention(module, query, key, value, attention_mask, **kwargs):
    return (query + key + value).transpose(1, 2).contiguous(), None  # so that all three projections learn


def _images(batch: int, pixels: int, dtype: torch.dtype, device: str) -> dict:
    images = torch.randn(batch, 3, pixels, pixels, dtype=dtype, device=device)
    return {"pixel_values": images, "interpolate_pos_encoding": True}


def _taken(model: torch.nn.Module, inputs: dict) -> dict:
    """Those inputs that the model has a name for: SimA's own takes any image size without being told."""
    return {name: x for name, x in inputs.items() if name in inspect.signature(model.forward).parameters}


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
    seconds: float = 10.0,
) -> list[ModelRow]:
    """Time the contestants at all `(batch, pixels)` sizes, in turn, for about `seconds` a size.

    `compiled`: all through torch.compile, in inference with frozen weights (Inductor's `freezing`), as one would ship them, and with
    dynamic shapes: for those, Inductor's linear layers go through oneDNN, else through MKL, half as fast on some processors.

    Raises:
        ValueError: unknown mode. What `build` raises: no such model, or one that gives wrong numbers.
    """
    if mode not in MODES:
        raise ValueError(f"`mode` must be one of {', '.join(map(repr, MODES))}, got {mode!r}.")
    contestants = build(name, against, dtype, device)
    for model in contestants.values():
        model.train(mode == "train")
    run = {
        contestant: torch.compile(model, dynamic=True) if compiled else model
        for contestant, model in contestants.items()
    }
    # As a setting of the whole process: as an option of one torch.compile it leaves the weights unfrozen (torch 2.13).
    frozen = torch._inductor.config.patch(freezing=compiled and mode == "forward")
    baseline = next(iter(contestants))
    wait = torch.cuda.synchronize if device.startswith("cuda") else lambda: None
    rows, about = [], conditions(device)
    for batch, pixels in tqdm(sizes, desc=f"{name}, {mode}", unit="size"):
        inputs = _taken(contestants[baseline], _images(batch, pixels, dtype, device))
        calls = {contestant: functools.partial(MODES[mode], model, inputs) for contestant, model in run.items()}
        # Dynamo counts recompilations of Transformers' wrappers for all models together.
        with frozen, torch._dynamo.config.patch(recompile_limit=64):
            times = take_turns(calls, seconds, wait)
        for contestant, own in times.items():
            rows.append(
                ModelRow(
                    model=name,
                    contestant=contestant,
                    attention=against if contestant == "softmax" else contestant,
                    mode=mode,
                    compiled=compiled,
                    batch=batch,
                    pixels=pixels,
                    dtype=str(dtype).removeprefix("torch."),
                    **spread(own, "ms"),
                    baseline=baseline,
                    ratio_to_baseline=paired_ratio(own, times[baseline]),
                    transformers=transformers.__version__,
                    **about,
                )
            )
    return rows


def peak_memory(name: str, contestant: str, pixels: int, against: str = "sdpa") -> int:
    """Bytes at most resident while one image of `pixels` squared goes through a contestant, in a process of its own (Linux).

    Raises:
        ValueError: the model cannot be loaded or swapped, or does not take such an image; the text says why.
        RuntimeError: that process died; the text has the end of what it wrote.
    """
    code = "import sys; from sima_hf.bench.model import _print_peak; _print_peak(*sys.argv[1:])"
    done = subprocess.run(
        [sys.executable, "-c", code, name, contestant, str(pixels), against],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == _REFUSED:
        raise ValueError(f"{name} with {contestant} did not run at {pixels} pixels: {done.stdout.splitlines()[-1]}")
    if done.returncode:
        raise RuntimeError(f"{name} with {contestant} did not run at {pixels} pixels: {done.stderr.strip()[-300:]}")
    return int(done.stdout.split()[-1]) * 1024


_REFUSED = 3  # exit code of the process that measures, when the last line of its stdout says why it cannot


def _print_peak(name: str, contestant: str, pixels: str, against: str) -> None:
    """What the process of `peak_memory` does: print the most KiB that it ever held."""
    try:
        model = load(name)
        if contestant == "sima":
            patch_model(model)
        else:
            model.set_attn_implementation(against)
        _forward(model, _taken(model, _images(1, int(pixels), torch.float32, "cpu")))
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        print(" ".join(str(error).split()) or type(error).__name__)
        sys.exit(_REFUSED)
    print(peak_kib())


@dataclass(frozen=True)
class MemoryRow:
    """The most memory that a process held while one image went through a contestant, Python and torch included."""

    model: str
    contestant: str
    attention: str
    batch: int
    pixels: int
    dtype: str
    peak_resident_bytes: int
    device: str
    threads: int
    torch: str
    transformers: str
    sima_hf: str
    revision: str


def measure_memory(name: str = "deit-small", against: str = "sdpa", pixels: int = 2048) -> list[MemoryRow]:
    """Peak memory of one image through softmax and through SimA, each in a process of its own (CPU, Linux).

    Raises:
        ValueError, RuntimeError: as `peak_memory`.
    """
    if pixels < 1:
        raise ValueError(f"An image must have 1 pixel a side or more, got {pixels}.")
    about = {"transformers": transformers.__version__, **conditions("cpu")}
    contestants = tqdm(("softmax", "sima"), desc=f"memory of {name}, {pixels} px")
    return [
        MemoryRow(
            model=name,
            contestant=contestant,
            attention=against if contestant == "softmax" else "sima",
            batch=1,
            pixels=pixels,
            dtype="float32",
            peak_resident_bytes=peak_memory(name, contestant, pixels, against),
            **about,
        )
        for contestant in contestants
    ]

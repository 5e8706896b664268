"""Time and memory of exported files: a model with softmax against the same one with SimA, on the runtime that the files are for.

    sima-hf bench export deit-small          # random weights; or any folder or Hub name

For each size of image all are exported for that one shape, so that a runtime can optimize as much as it ever does. What a file
computes is compared with the model before anything is timed.
"""

import copy
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
import transformers
from tqdm.auto import tqdm

from ..data.calibration_images import CalibrationImages
from ..data.processors import processor_for
from ..errors import ExportError, MissingDependencyError
from ..exporting.agreement import difference
from ..exporting.export import Exported, export
from ..exporting.formats import FORMATS, find_format
from ..folders.file_names import EXPORT
from ..machine.description import device_name
from ..models.sima.configuration_sima import SIMA_VARIANTS
from ..patching import patch_model
from . import runtimes
from .attention import conditions, paired_ratio, spread, take_turns
from .model import _images, _taken, check_model, load


PIXELS = (224, 384, 512, 1024)
THREADS = (1, 2)
# Format -> package that runs it. ExecuTorch's brings torchao and wants an environment of its own.
RUNTIME_OF = {"onnx": "onnxruntime", "openvino": "openvino"}
DTYPES = ("float32", "int8")
# Largest difference of an int8 file, which `export` has measured on images: enough to tell that it is this model.
OFF_IN_INT8 = 0.5


@dataclass(frozen=True)
class ExportRow:
    """One file on its runtime, with one number of threads.

    `ratio_to_softmax`: its time over that of the softmax twin's file, same runtime; `error`: of its output against the model's, relative
    to the largest; `fused_softmax`: the file has softmax, and the runtime computes it within larger pieces.
    """

    model: str
    contestant: str
    runtime: str
    runtime_version: str
    fused_softmax: bool
    dtype: str
    batch: int
    pixels: int
    threads: int
    turns: int
    median_ms: float
    lower_quartile_ms: float
    upper_quartile_ms: float
    ratio_to_softmax: float
    error: float
    file_bytes: int
    peak_resident_bytes: int | None
    device: str
    torch: str
    transformers: str
    sima_hf: str
    revision: str


@dataclass(frozen=True)
class _File:
    """An exported model, and what its runtime is told."""

    made: Exported
    runtime: str
    options: dict

    @property
    def path(self) -> Path:
        return self.made.folder / self.made.file

    def size(self) -> int:
        """Bytes of graph and weights."""
        found = FORMATS[self.made.format]
        names = (name for name in (found.file, found.weights) if name)
        return sum(path.stat().st_size for name in names if (path := self.made.folder / name).is_file())


def measure_exported(
    name: str = "deit-small",
    pixels: Sequence[int] = PIXELS,
    threads: Sequence[int] = THREADS,
    formats: Sequence[str] = (),
    dtype: str = "float32",
    seconds: float = 10.0,
    calibration_images: str | Path | None = None,
) -> list[ExportRow]:
    """Export softmax and SimA, and time all files in turn, for about `seconds` a size and number of threads; one image at a time.

    Args:
        name: as `sima_hf.bench.model.load`; not a native variant, which has no softmax.
        pixels: sides of the image.
        threads: numbers of threads that the runtimes may use.
        formats: "onnx", "openvino"; by default all whose runtime is installed.
        dtype: "float32", or "int8" for `export(quantize="int8")`.
        calibration_images: for that.

    Raises:
        ValueError: a wrong argument, or a model that cannot be loaded or swapped.
        MissingDependencyError: no runtime is there, or not the one asked for.
        ExportError: a model cannot be exported, or not so.
        RuntimeError: outputs do not agree, so nothing is timed.
    """
    _check(name, pixels, threads, formats, dtype)
    formats = list(formats) or [one for one, package in RUNTIME_OF.items() if find_spec(package)]
    if not formats:
        raise MissingDependencyError(
            "Exported files need a runtime: pip install 'sima-hf[onnx]' or pip install 'sima-hf[openvino]'"
        )
    for one in formats:
        find_format(one)
    rows, about = [], {"transformers": transformers.__version__, **conditions("cpu")}
    models = _twins(name, min(pixels))
    for side in tqdm(pixels, desc=f"{name}, exported, {dtype}", unit="size"):
        images = _images(1, side, torch.float32, "cpu") if dtype == "float32" else _photo(calibration_images, side)
        inputs = _taken(models["softmax"], images)
        with torch.no_grad():
            expected = {contestant: model(**inputs)[0] for contestant, model in models.items()}
        with tempfile.TemporaryDirectory() as folder:
            files = {
                (RUNTIME_OF[one], contestant): _export(
                    model, Path(folder, f"{one}-{contestant}"), one, inputs, dtype, calibration_images
                )
                for one in formats
                for contestant, model in models.items()
            }
            for count in threads:
                rows += _time(files, inputs["pixel_values"], expected, count, seconds, name, dtype, about)
    return rows


def _check(name: str, pixels: Sequence[int], threads: Sequence[int], formats: Sequence[str], dtype: str) -> None:
    if name in SIMA_VARIANTS:
        raise ValueError(
            f"{name} has no softmax to compare with; name a model that can be swapped, such as deit-small."
        )
    for option, values in (("pixels", pixels), ("threads", threads)):
        if not values or min(values) < 1:
            raise ValueError(f"`{option}` must be 1 or more, got {list(values)}.")
    for one in formats:
        if one not in RUNTIME_OF:
            raise ValueError(f"`formats` must be of {', '.join(map(repr, RUNTIME_OF))}, got {one!r}.")
    if dtype not in DTYPES:
        raise ValueError(f"`dtype` must be one of {', '.join(map(repr, DTYPES))}, got {dtype!r}.")


def _twins(name: str, side: int) -> dict[str, torch.nn.Module]:
    """The model with softmax and with SimA, with the same weights; the latter computes what the reference does."""
    model = load(name).float()
    swapped = patch_model(copy.deepcopy(model))
    model.load_state_dict(swapped.state_dict())  # of fresh weights, the swap draws what is zero
    images = _taken(model, _images(1, side, torch.float32, "cpu"))
    check_model(patch_model(copy.deepcopy(swapped), backend="reference"), swapped, images)
    return {"softmax": model, "sima": swapped}


def _photo(folder: str | Path | None, side: int) -> dict:
    """One of the images that the ranges are read off: int8 is right for such alone."""
    if folder is None:
        raise ValueError("`calibration_images` must be a folder of images with dtype 'int8', got None.")
    drawn = CalibrationImages(folder, processor_for(None, side), count=1, progress=False)
    return {**next(iter(drawn)), "interpolate_pos_encoding": True}


def _export(model, folder: Path, form: str, inputs: dict, dtype: str, calibration_images) -> _File:
    options = {}
    if dtype != "float32":
        processor = processor_for(None, inputs["pixel_values"].shape[-1])
        # Of fresh weights the classes are close to ties: which one is first says nothing of the file. `OFF_IN_INT8` is asked instead.
        images = {"calibration_images": calibration_images, "min_agreement": 0.0}
        options = {"quantize": dtype, "processor": processor, **images}
    made = export(model, folder, form, dynamic="none", inputs=inputs, **options)
    record = json.loads((folder / EXPORT).read_text(encoding="utf-8"))
    return _File(made, RUNTIME_OF[form], record["run_with"])


def _time(files: dict, images: torch.Tensor, expected: dict, threads: int, seconds: float, name, dtype, about) -> list:
    """Rows of all files, which take turns, once their outputs are right."""
    calls, errors, fused = {}, {}, {}
    given = {"pixel_values": images.numpy()}
    for (runtime, contestant), file in files.items():
        run, nodes_of = (
            functools.partial(function, file.path, threads, file.options) for function in runtimes.RUNTIMES[runtime]
        )
        call = functools.partial(run(), given)
        error = difference(torch.from_numpy(call().copy()), expected[contestant])
        if not error <= (file.made.agreement.tolerance if dtype == "float32" else OFF_IN_INT8):
            raise RuntimeError(
                f"{contestant} on {runtime} with {threads} threads differs from the model by {error:.1e}; so nothing is timed."
            )
        key = runtime, contestant
        calls[key], errors[key] = call, error
        fused[key] = bool(file.made.certificate.softmax) and not nodes_of()["Softmax"]
    pixels = images.shape[-1]
    peaks = {key: peak_memory(file.path, key[0], pixels, threads, file.options) for key, file in files.items()}
    times = take_turns(calls, seconds, lambda: None)
    return [
        ExportRow(
            model=name,
            contestant=contestant,
            runtime=runtime,
            runtime_version=version(runtime),
            fused_softmax=fused[runtime, contestant],
            dtype=dtype,
            batch=1,
            pixels=pixels,
            **spread(own, "ms"),
            ratio_to_softmax=paired_ratio(own, times[runtime, "softmax"]),
            error=float(f"{errors[runtime, contestant]:.1e}"),
            file_bytes=files[runtime, contestant].size(),
            peak_resident_bytes=peaks[runtime, contestant],
            # torch's threads are not the runtime's
            **{**about, "device": device_name("cpu").rpartition(", ")[0], "threads": threads},
        )
        for (runtime, contestant), own in times.items()
    ]


def peak_memory(file: Path, runtime: str, pixels: int, threads: int, options: dict) -> int | None:
    """Bytes at most resident while one image goes through a file, in a process of its own that has the runtime alone; None but on Linux.

    Raises:
        ExportError: that process died; the text has the end of what it wrote.
    """
    # By way of runpy, for a script's own folder comes first in its path: other files there have names of packages.
    code = "import runpy, sys; runpy.run_path(sys.argv.pop(1), run_name='__main__')"
    values = (runtimes.__file__, runtime, file, pixels, threads, json.dumps(options))
    done = subprocess.run([sys.executable, "-c", code, *map(str, values)], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExportError(
            f"{file.name} did not run on {runtime} at {pixels} pixels: {' '.join(done.stderr.split())[-300:]}"
        )
    peak = done.stdout.split()[-1]
    return None if peak == "None" else int(peak) * 1024

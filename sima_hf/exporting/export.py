"""From a model to a folder that a runtime reads: exported by Transformers, run, compared, certified, and only then left there."""

import contextlib
import copy
import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..errors import ExportError
from ..errors.words import first_few
from ..folders.atomic_folder import check_free, whole_folder
from ..loading.by_name import find_processor, load_model
from ..models.sima.configuration_sima import SimAConfig
from ..models.sima.image_processing_sima import SimAImageProcessor
from ..patching import certify, describe
from ..patching.attentions.mechanisms import declared, title_of
from ..patching.certificate import Certificate, is_under
from .agreement import TOLERANCES, Agreement, compare
from .calibration_pixels import check_calibration_images, read_calibration_images
from .formats import DYNAMIC, DYNAMO, Format, exporter_of, find_format, load_exported
from .graph_certificate import GraphCertificate, certify_graph
from .graphs import is_graph, read_graph
from .inputs import ExportInputs
from .library_noise import first_line, quiet
from .quantize import SCHEMES, Quantization, QuantizationError, measured
from .quantize import quantize as quantize_program
from .record import is_classifier, write_record
from .tidy import tidy


logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Exported:
    """A folder that was written.

    Attributes:
        folder, file: where, and the name of the graph in it.
        format, model: "onnx", ...; the model's class.
        dynamic: what may differ between two runs: "none", "batch" or "resolution".
        fixed_because: why that is less than was asked for; None where it is not.
        certificate: of the file; for ExecuTorch, whose file hides its nodes, of the graph that it was made from.
        agreement: of the file with the model; where it is quantized, of what was quantized.
        quantization: which nodes take int8, and what the file agrees on with the model; None for a file in floating point.
    """

    folder: Path
    file: str
    format: str
    model: str
    dynamic: str
    fixed_because: str | None
    certificate: GraphCertificate | Certificate
    agreement: Agreement
    quantization: Quantization | None = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "folder": str(self.folder),
            "file": self.file,
            "format": self.format,
            "model": self.model,
            "dynamic": self.dynamic,
            "fixed_because": self.fixed_because,
            "certificate": self.certificate.to_dict(),
            "agreement": self.agreement.to_dict(),
            "quantization": self.quantization and self.quantization.to_dict(),
        }

    def __str__(self) -> str:
        lines = [f"{self.folder / self.file}: {self.model}, {_DYNAMIC_WORDS[self.dynamic]}"]
        if self.fixed_because:
            lines.append(f"  less than asked for: {self.fixed_because}")
        lines.append(
            f"  run {len(self.agreement.runs)} times: differs from the model by {self.agreement.error:.1g} of the largest output "
            f"at most, where {self.agreement.tolerance:g} is allowed"
        )
        if self.quantization:
            lines[-1] += ", before it was quantized"
            lines.append(f"  {self.quantization}")
        return "\n".join([*lines, str(self.certificate)])


_DYNAMIC_WORDS = {
    "none": "for inputs of one shape",
    "batch": "for any number of images of one size",
    "resolution": "for any number of images of any size",
}


def export(
    model: PreTrainedModel | str | Path,
    output_dir: str | Path,
    format: str = "onnx",
    *,
    dynamic: str = "batch",
    dtype: str | torch.dtype | None = None,
    quantize: str | None = None,
    calibration_images: Any = None,
    min_agreement: float | None = None,
    inputs: Mapping[str, Any] | None = None,
    processor: Any = None,
    overwrite: bool = False,
) -> Exported:
    """Export a model to a folder for a runtime: the graph, its image processor, and `sima_export.json` about both.

    Transformers' exporters write the graph. The file is then run on its own runtime and compared with the model, at two batch
    sizes and two resolutions where these may differ, and its nodes are counted. The folder appears whole or not at all.

    Args:
        model: a Transformers model, SimA or not, or the folder or Hub name of one. It stays as it is.
        output_dir: folder to make.
        format: "onnx", "openvino" or "executorch".
        dynamic: what may differ between two runs: "none", "batch", or "resolution" (number and size of the images). Where a
            model cannot do that the most that it can is exported, and the record says why.
        dtype: of the weights and of the inputs, "float32", "float16" or "bfloat16"; the model's by default.
        quantize: "int8", with ONNX alone and of a model in float32: matrix products and convolutions in 8 bits, but for those
            with a factor over SimA's norms (see `sima_hf.exporting.quantize`).
        calibration_images: unlabeled images to quantize with, 32 or more, of which 512 at most are drawn: a folder, a split of
            `datasets`, or processed pixels `(C, H, W)` each. On a quarter of them the file is measured.
        min_agreement: the least share of same answers, or cosine where the model does not classify, that a file in int8 is kept
            with; by default `sima_hf.exporting.quantize.FLOORS`, 0.9 and 0.95.
        inputs: example inputs by the names of the forward's arguments, where they cannot be made up from the config.
        processor: image processor to save beside a `model` that is no folder or Hub name.
        overwrite: `output_dir` may hold a model already, which is replaced.

    Returns:
        An `Exported`: `certificate`, `agreement`, `dynamic`; print it.

    Raises:
        ExportError: the model cannot be exported, the file differs from it by more than `sima_hf.exporting.agreement.TOLERANCES`,
            softmax is left in a part that is SimA, or a file in int8 agrees on less than `min_agreement`.
            Nothing is left behind.
        DataError: `calibration_images` are too few, or not what the model takes.
        MissingDependencyError: a package is missing; before any work.
        SimAError, OSError, ValueError: the model cannot be loaded, or the folder cannot be written.
    """
    with quiet():
        found = find_format(format)
    _check_options(found, dynamic, quantize, calibration_images, min_agreement)
    wanted = _dtype(dtype) if dtype is not None else None
    if quantize is not None:
        named = isinstance(model, (str, Path))
        check_calibration_images(
            calibration_images, processor, named or isinstance(getattr(model, "config", None), SimAConfig)
        )
    check_free(output_dir, overwrite)
    if isinstance(model, (str, Path)):
        _check_apart(model, output_dir)
        name, model = str(model), load_model(str(model))
        processor = find_processor(name, _has_processor(name)) if processor is None else processor
    elif not isinstance(model, PreTrainedModel):
        raise ExportError(
            f"`model` must be a Transformers model, or the folder or Hub name of one, got {type(model).__name__}."
        )
    _check_mechanisms(model)
    if processor is None and isinstance(model.config, SimAConfig):
        processor = SimAImageProcessor.for_image_size(model.config.image_size)
    if (wanted or model.dtype) not in TOLERANCES:
        raise ExportError(f"`dtype` must be float32, float16 or bfloat16, and the model is {model.dtype}; give one.")
    if quantize is not None and (wanted or model.dtype) != torch.float32:
        raise ExportError(
            f"`dtype` must be float32 with `quantize`, got {str(wanted or model.dtype).removeprefix('torch.')}."
        )
    with _ready(model, wanted) as (ready, reference):
        given = ExportInputs(ready, inputs)
        if quantize is not None and not given.takes_images:
            raise ExportError("`quantize` is for models that take images of one size alone; leave it out.")
        pixels = None
        if quantize is not None:
            shape = tuple(given.tensors["pixel_values"].shape[1:])
            pixels = read_calibration_images(calibration_images, processor, shape, min_agreement)
        return _most_dynamic(ready, reference, given, found, dynamic, processor, pixels, output_dir, overwrite)


def _check_options(
    found: Format, dynamic: str, quantize: str | None, calibration_images: Any, min_agreement: float | None
) -> None:
    if dynamic not in DYNAMIC:
        raise ExportError(f"`dynamic` must be one of {', '.join(map(repr, DYNAMIC))}, got {dynamic!r}.")
    if quantize is not None and quantize not in SCHEMES:
        raise ExportError(f"`quantize` must be None or {', '.join(map(repr, SCHEMES))}, got {quantize!r}.")
    if quantize is not None and found.name != "onnx":
        raise ExportError(f"`quantize` must be None with {found.name}, got {quantize!r}: only ONNX has it.")
    if quantize is not None and calibration_images is None:
        raise ExportError(
            f"`calibration_images` must be given with quantize={quantize!r}: a folder of images (--calibration-images), a split "
            "or processed pixels. No labels are needed."
        )
    if quantize is None and calibration_images is not None:
        raise ExportError("`calibration_images` serve `quantize`, which is None; leave them out, or ask for 'int8'.")
    if quantize is None and min_agreement is not None:
        raise ExportError("`min_agreement` serves `quantize`, which is None; leave it out, or ask for 'int8'.")
    if min_agreement is not None and not 0 <= min_agreement <= 1:
        raise ExportError(f"`min_agreement` must be between 0 and 1, got {min_agreement}.")


def _check_mechanisms(model: PreTrainedModel) -> None:
    for part in describe(model).swapped:
        if "softmax" in declared(part.mechanism):
            raise ExportError(
                f"`model` must have an attention without softmax where it was swapped, got {title_of(part.mechanism)}, which has one by "
                "design. Choose another: sima_hf.patch_model(model, attention=...); or export the softmax model itself."
            )


def _dtype(dtype: str | torch.dtype) -> torch.dtype:
    named = {str(one).removeprefix("torch."): one for one in TOLERANCES}
    found = named.get(str(dtype).removeprefix("torch."))
    if found is None:
        raise ExportError(f"`dtype` must be one of {', '.join(map(repr, named))}, got {str(dtype)!r}.")
    return found


def _check_apart(name: str | Path, output_dir: str | Path) -> None:
    """The model that is read is not the one that is written, nor around it."""
    read, written = Path(name).expanduser().resolve(), Path(output_dir).expanduser().resolve()
    if read.is_dir() and (read == written or read in written.parents):
        raise ExportError(f"`output_dir` must lie outside the model {name}, which is read, got {output_dir}.")


def _has_processor(name: str) -> bool:
    """Whether a folder has an image processor, which has to be loadable then."""
    return any(Path(name, file).is_file() for file in ("preprocessor_config.json", "processor_config.json"))


@contextlib.contextmanager
def _ready(model: PreTrainedModel, dtype: torch.dtype | None) -> Iterator[tuple[PreTrainedModel, PreTrainedModel]]:
    """The model on the CPU, in eval mode and in a dtype, and one in float32 to compare with; copies where it is not so already."""
    dtype = dtype or model.dtype
    same = model.device.type == "cpu" and model.dtype == dtype
    ready = model if same else copy.deepcopy(model).to(device="cpu", dtype=dtype)
    reference = ready if dtype == torch.float32 else copy.deepcopy(ready).float()
    modes = {module: module.training for module in model.modules()}
    loss = getattr(model.config, "return_loss", None)  # FLAVA's config asks for one, which no graph has
    try:
        for one in (ready, reference):
            one.eval()
            if loss:
                one.config.return_loss = False
        yield ready, reference
    finally:
        if loss:
            model.config.return_loss = loss
        for module, training in modes.items():
            module.training = training


def _most_dynamic(
    model, reference, given: ExportInputs, found: Format, asked, processor, pixels, output_dir, overwrite
):
    """Export with as much dynamic as was asked for, or else with the most that works."""
    level, why = asked, None
    for most, reason in ((found.dynamic, f"{found.name} is planned for one shape"), (given.most(), given.reason())):
        if DYNAMIC.index(most) < DYNAMIC.index(level):
            level, why = most, reason
    while True:
        try:
            with whole_folder(output_dir, overwrite) as folder:
                agreement, certificate, quantization = _write(model, reference, given, found, level, pixels, folder)
                if processor is not None:
                    processor.save_pretrained(folder)
                made = Exported(
                    Path(output_dir),
                    found.file,
                    found.name,
                    type(model).__name__,
                    level,
                    why,
                    certificate,
                    agreement,
                    quantization,
                )
                write_record(folder, made, found, model, asked, processor)
                return made
        except ExportError as error:
            if level == "none" or isinstance(error, QuantizationError):
                raise
            level, why = DYNAMIC[DYNAMIC.index(level) - 1], str(error)
            logger.warning("Exporting %s with less that is dynamic: %s", type(model).__name__, why)


def _write(model, reference, given: ExportInputs, found: Format, level: str, pixels, folder: Path):
    """The graph in a folder, once it is what the model is: `Agreement`, certificate and, with pixels, `Quantization`."""
    name = type(model).__name__
    with quiet():
        exporter, config = exporter_of(found, dynamic_shapes=given.axes(level))
        try:
            with _forward_with(model, given.flags(level)):
                exported = exporter.export(model, given.traced(level), config)
            tidy(exported.program, found.name)
            exported.save_pretrained(folder)
            run = load_exported(found, folder)
        except Exception as error:  # of torch, of the exporter and of the runtime: none of their types is public
            raise ExportError(
                f"{name} cannot be exported to {found.name} with dynamic={level!r}: {first_line(error)}"
            ) from error
    _check_axes(folder / found.file, given, level)
    certificate = _certified(found, model, given, folder)

    def expected(**inputs):
        wide = {
            name: x.to(reference.dtype) if torch.is_floating_point(x) else x for name, x in _tensors(inputs).items()
        }
        return reference(**{**given.plain, **inputs, **wide, **given.flags(level)})

    with torch.no_grad():
        agreement = compare(run, expected, given.compared(level), TOLERANCES[model.dtype])
    if pixels is None:
        return agreement, certificate, None
    batch = len(given.tensors["pixel_values"]) if level == "none" else None
    with quiet():
        try:
            component = next(iter(exported.components.values()))
            component.program, groups = quantize_program(component.program, _parts(model), pixels.seen, batch)
            exported.save_pretrained(folder)
            run = load_exported(found, folder)
        except Exception as error:  # of onnx and of the runtime
            raise QuantizationError(f"{name} cannot be quantized: {first_line(error)}") from error
    with torch.no_grad():
        quantization = measured(run, expected, pixels, batch, is_classifier(model), groups)
    return agreement, _certified(found, model, given, folder), quantization


def _tensors(inputs: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}


@contextlib.contextmanager
def _forward_with(model: PreTrainedModel, flags: Mapping[str, bool]) -> Iterator[None]:
    """The forward with arguments built in, which would be inputs of some graphs otherwise; exporters leave one of their own behind."""
    before = vars(model).get("forward")
    if flags:
        model.forward = functools.partial(model.forward, **flags)
    try:
        yield
    finally:
        vars(model).pop("forward", None)
        if before is not None:
            model.forward = before


def _check_axes(file: Path, given: ExportInputs, level: str) -> None:
    """Whether the axes that were to be dynamic are: torch fixes one without a word where the model's code needs its size."""
    axes = given.axes(level)
    if axes is None or not is_graph(file):
        return
    for one in read_graph(file).inputs:
        wanted = axes.get(one["name"]) or ()
        fixed = [f"axis {axis} is {one['shape'][axis]}" for axis in wanted if isinstance(one["shape"][axis], int)]
        if fixed:
            raise ExportError(f"The model's code fixes the size of {one['name']}: {', '.join(fixed)}.")


def _parts(model: PreTrainedModel) -> list[tuple[str, str]]:
    """Paths of what is SimA in a model, each with the name of the module in which alone it is, or ""."""
    native = [("", "")] if model.config.model_type == SimAConfig.model_type else []
    return native or [(part.path, part.within) for part in describe(model).swapped]


def _certified(found: Format, model, given: ExportInputs, folder: Path) -> GraphCertificate | Certificate:
    """The certificate of a file, once no softmax or exp is in it where SimA should be."""
    certificate, left = _counted(found, model, given, folder)
    if left:
        places = first_few(
            dict.fromkeys(f"{one.operation} in {one.path or 'the model'} [{one.module}]" for one in left), 3
        )
        raise ExportError(f"Softmax is left in the file where SimA should be, so it is not kept: {places}.")
    return certificate


def _counted(found: Format, model, given: ExportInputs, folder: Path):
    """The certificate of a file, and the operations of softmax and exp in it that are where SimA should be."""
    parts, certificate = _parts(model), None
    if is_graph(folder / found.file):
        certificate = certify_graph(folder / found.file, parts)
        unplaced = any(one.attention is None for one in certificate.softmax)
        if not parts or not unplaced:
            return certificate, certificate.in_swapped
    # The file does not say where its nodes come from; the graph that it was lowered from does.
    with quiet(), _forward_with(model, {}):
        exporter, config = exporter_of(DYNAMO)
        traced = certify(exporter.export(model, given.traced("none"), config).program)
    inside = (one for one in traced.operations if any(is_under(one.path, *part) for part in parts))
    return certificate or traced, tuple(one for one in inside if not one.allowed)

"""From a softmax model by its name to a folder with SimA: load, swap, calibrate, distill, certify, save.

The core of `sima-hf patch`, `sima-hf calibrate` and, with unlabeled images, `sima-hf distill`.
"""

import copy
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from .calibration.calibrate import CalibrationReport, calibrate, check_linear
from .data.calibration_images import CalibrationImages, image_files
from .errors import CalibrationError, MissingDependencyError, TrainingError, UnsupportedModelError
from .folders.atomic_folder import check_free, files_of_model, whole_folder
from .folders.local_paths import shown_place
from .folders.provenance import calibration_facts, distillation_facts, write_provenance
from .loading.by_name import certify_made_up, find_processor, is_sima, load_model, save_processors
from .machine.devices import best_device
from .patching import describe, patch_model, sima_attentions
from .patching.attentions.mechanisms import DEFAULT_GAIN, SIMA, check_attention
from .patching.certificate import Certificate
from .patching.description import Description
from .patching.example_inputs import example_inputs


@dataclass(frozen=True)
class CalibrationOptions:
    """How to calibrate from a folder of images; the fields are those of `CalibrationImages` and of `calibrate`.

    Attributes:
        folder: images, without labels.
        images, batch_size, seed, max_unreadable: how many, how many at once, which, and how many may be broken.
        classifier: also fit the last linear layer.
        memory_budget: bytes for hidden states.
        device: "cpu", "cuda", ...; None: the best there is.
        progress: show bars on stderr.
    """

    folder: Path
    images: int = 2048
    batch_size: int = 32
    seed: int = 0
    max_unreadable: int = 20
    classifier: bool = False
    memory_budget: int = 4 * 2**30
    device: str | None = None
    progress: bool = True


@dataclass(frozen=True)
class DistillationOptions:
    """How to distill from a folder of images; the fields are those of `sima_hf.distill`.

    Attributes:
        folder: images, without labels.
        images, batch_size, learning_rate, seed: training images with repetitions, images in a step, the highest rate (None:
            found), the draw.
        max_unreadable: how many may be broken.
        checkpoints: folder for checkpoints, from the last of which an interrupted run goes on; None: none are kept.
        device: "cpu" keeps a GPU out of it; None: the best there is.
        progress: show bars on stderr.
    """

    folder: Path
    images: int = 10_000
    batch_size: int = 16
    learning_rate: float | None = None
    seed: int = 0
    checkpoints: Path | None = None
    device: str | None = None
    max_unreadable: int = 20
    progress: bool = True


@dataclass(frozen=True)
class MadeFolder:
    """A folder that was written: where, the model's class and gain, what was swapped, how it was fitted, what it runs.

    `removed` names the files of the model that was there before which have no successor in the new one's.
    """

    folder: Path
    model: str
    gain: str
    description: Description
    calibration: CalibrationReport | None
    unreadable: tuple[str, ...]
    certificate: Certificate | None
    removed: tuple[str, ...] = ()
    distillation: Any = None

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        calibration = None
        if self.calibration is not None:
            fits = [asdict(fit) for fit in self.calibration.fits]
            calibration = {
                "images": self.calibration.images,
                "unreadable": list(self.unreadable),
                "settings": self.calibration.settings,
                "fits": fits,
                "held_out": self.calibration.held_out,
                "end": None if self.calibration.end is None else asdict(self.calibration.end),
                "advice": self.calibration.advice,
            }
        return {
            "folder": str(self.folder),
            "model": self.model,
            "gain": self.gain,
            "swapped": [asdict(part) for part in self.description.swapped],
            "left": self.description.left,
            "calibration": calibration,
            "distillation": None if self.distillation is None else asdict(self.distillation),
            "certificate": None if self.certificate is None else self.certificate.to_dict(),
            "removed": list(self.removed),
        }

    def __str__(self) -> str:
        parts = (self.description, self.calibration, self.distillation, self.certificate)
        if self.calibration is None and self.distillation is None:
            found = {part.mechanism for part in self.description.swapped} - {SIMA}
            answers = "do not answer as the softmax model does" if found else "answer at random"
            load = (
                f"Not calibrated: these weights {answers} until they are trained, or calibrated with --calibrate-with."
            )
            parts = (*parts, load)
        if self.removed:
            parts = (*parts, f"Removed with the model that was there: {', '.join(self.removed)}.")
        load = f"Saved in {self.folder}. Load it with {_auto_class(self.model)}.from_pretrained({str(self.folder)!r})."
        return "\n".join([*(str(part) for part in parts if part is not None), load])


@dataclass(frozen=True)
class _Swap:
    """A swapped model with what it was made from.

    Attributes:
        model: swapped.
        original: with softmax, to calibrate and distill from; else None.
        processor: image processor; None where the original has none.
        base, made_by: name of the original, and the command, for the provenance.
        before: name of the swapped model that is calibrated, whose provenance is carried on.
    """

    model: PreTrainedModel
    original: PreTrainedModel | None
    processor: Any
    base: str
    made_by: str
    before: str | None = None


def make_sima(
    name: str,
    output_dir: str | Path,
    *,
    gain: str = DEFAULT_GAIN,
    attention: str = SIMA,
    calibration: CalibrationOptions | None = None,
    distillation: DistillationOptions | None = None,
    certified: bool = False,
    overwrite: bool = False,
) -> MadeFolder:
    """Swap softmax for SimA in a model by its name, and save it with its image processor and provenance.

    The folder appears whole or not at all.

    Args:
        name: folder or Hub name of a softmax model; it is loaded as the class that its config names.
        output_dir: folder to make.
        gain, attention: as for `patch_model`.
        calibration: calibrate, from these images; None: the weights stay as they are.
        distillation: then distill, from these images.
        certified: count what one forward runs; nothing is saved if that is softmax where SimA should be. Softmax in parts
            that are not swapped, such as a text side, is in the report.
        overwrite: replace a model that is in `output_dir`.

    Raises:
        SimAError: the model cannot be swapped, calibrated or distilled, the images cannot be used, or softmax is left.
        ValueError, OSError: it cannot be loaded, or the folder cannot be written.
    """
    check_attention(attention, gain)
    if calibration is not None:
        check_linear([attention])
    _check_place(output_dir, overwrite, original=name)
    _check_images(calibration, distillation)
    model = load_model(name)
    if is_sima(model):
        raise UnsupportedModelError(
            f"{name} is SimA already ({type(model).__name__}); give the softmax model that it is to be made from, or, to calibrate "
            "it, `sima-hf calibrate`."
        )
    fitted = calibration is not None or distillation is not None
    processor = find_processor(name, fitted)
    original = copy.deepcopy(model) if fitted else None
    patch_model(model, gain=gain, attention=attention)
    swap = _Swap(model, original, processor, base=name, made_by="sima-hf patch")
    return _finish(swap, calibration, distillation, certified, output_dir, overwrite)


def calibrate_folder(
    name: str,
    teacher: str,
    output_dir: str | Path,
    calibration: CalibrationOptions,
    *,
    certified: bool = False,
    overwrite: bool = False,
) -> MadeFolder:
    """Calibrate a swapped model by its name, from its softmax original and a folder of images, and save it.

    Args:
        name: folder or Hub name of the swapped model.
        teacher: the same of the softmax model that it was made from.
        output_dir, certified, overwrite: as for `make_sima`; with `overwrite` it may be the swapped model's own folder, never the
            teacher's.
        calibration: the images, and how.

    Raises:
        SimAError, ValueError, OSError: as `make_sima`; CalibrationError where the two do not belong together.
    """
    swap = _loaded(name, teacher, output_dir, overwrite, "sima-hf calibrate", calibration, None)
    return _finish(swap, calibration, None, certified, output_dir, overwrite)


def distill_folder(
    name: str,
    teacher: str,
    output_dir: str | Path,
    distillation: DistillationOptions,
    *,
    certified: bool = False,
    overwrite: bool = False,
) -> MadeFolder:
    """Distill a swapped model by its name, from its softmax original and a folder of images, and save it.

    Args:
        name, teacher, output_dir, certified, overwrite: as for `calibrate_folder`.
        distillation: the images, and how.

    Raises:
        SimAError, ValueError, OSError: as `calibrate_folder`; TrainingError where the two do not belong together.
    """
    swap = _loaded(name, teacher, output_dir, overwrite, "sima-hf distill", None, distillation)
    return _finish(swap, None, distillation, certified, output_dir, overwrite)


def _check_images(calibration: CalibrationOptions | None, distillation: DistillationOptions | None) -> None:
    """Whether there are images and what training needs: better now than after a download."""
    for options in (calibration, distillation):
        if options is not None:
            image_files(options.folder)
    if distillation is not None and int(os.environ.get("WORLD_SIZE", 1)) > 1:
        raise TrainingError(
            "A folder is distilled by one process, which takes one device: start it without torchrun or accelerate launch, or call "
            "sima_hf.distill in a script of your own."
        )
    missing = [name for name in ("accelerate", "datasets") if find_spec(name) is None]
    if distillation is not None and missing:
        raise MissingDependencyError(f"Distillation needs {' and '.join(missing)}: pip install 'sima-hf[train]'")


def _loaded(
    name: str,
    teacher: str,
    output_dir: str | Path,
    overwrite: bool,
    made_by: str,
    calibration: CalibrationOptions | None,
    distillation: DistillationOptions | None,
) -> _Swap:
    """A model that was swapped before, with its original."""
    _check_place(output_dir, overwrite, original=teacher, swapped=name)
    _check_images(calibration, distillation)
    model, original = load_model(name), load_model(teacher)
    if not sima_attentions(model):
        raise CalibrationError(
            f"{name} holds a {type(model).__name__}, in which nothing was swapped; `sima-hf patch` swaps and calibrates it."
        )
    if is_sima(original):
        raise CalibrationError(
            f"The teacher {teacher} is SimA itself ({type(original).__name__}), so it cannot say what softmax would do; name the "
            "model from before the swap."
        )
    processor = find_processor(name if Path(name, "preprocessor_config.json").is_file() else teacher, True)
    return _Swap(model, original, processor, base=teacher, made_by=made_by, before=name)


def _check_place(output_dir: str | Path, overwrite: bool, original: str, swapped: str | None = None) -> None:
    """As `check_free`; nor is it a softmax model that would be gone then, or a folder in a model that is read."""
    place = Path(output_dir).expanduser().resolve()
    for name in filter(None, (original, swapped)):
        read = Path(name).resolve()
        if not read.is_dir():
            continue
        if name == original and place.exists() and place.samefile(read):
            what = "softmax model itself" if swapped is None else "teacher itself, which would be gone"
            made = "swapped" if swapped is None else "calibrated"
            raise FileExistsError(f"{output_dir} is the {what}; name another folder for the {made} one.")
        if read in place.parents:
            raise FileExistsError(
                f"{output_dir} would lie inside the model {name}, which is read; name a folder outside of it."
            )
    check_free(output_dir, overwrite)


def _finish(
    swap: _Swap,
    calibration: CalibrationOptions | None,
    distillation: DistillationOptions | None,
    certified: bool,
    output_dir: str | Path,
    overwrite: bool,
) -> MadeFolder:
    """Calibrate, distill, certify and save a swapped model."""
    report, images = (None, None) if calibration is None else _calibrate(swap, calibration)
    learned = None if distillation is None else _distill(swap, distillation)
    model, certificate = swap.model, None
    if certified:
        certificate = certify_made_up(model)
        if certificate.in_swapped:
            raise UnsupportedModelError(
                f"Softmax ran where SimA should be, so nothing was saved. This should not happen; please report it:\n{certificate}"
            )
    place = Path(output_dir).expanduser()
    with whole_folder(output_dir, overwrite) as folder:
        model.save_pretrained(folder)
        save_processors(swap.processor, model, swap.base, folder)
        if swap.before is not None and Path(swap.before).is_dir():
            write_provenance(folder, base_model=swap.before)
        swapped = describe(model).swapped[0]
        setting = {"gain": swapped.gain} if swapped.mechanism == SIMA else {"attention": swapped.mechanism}
        facts = None if report is None else calibration_facts(report, data=shown_place(calibration.folder, here=True))
        taught = None if learned is None else distillation_facts(learned, shown_place(distillation.folder, here=True))
        write_provenance(
            folder, base_model=swap.base, calibration=facts, distillation=taught, made_by=swap.made_by, **setting
        )
        removed = tuple(one for one in files_of_model(place) if not (folder / one).exists())
    unreadable = () if images is None else tuple(images.unreadable)
    return MadeFolder(
        Path(output_dir),
        type(model).__name__,
        swapped.gain,
        describe(model),
        report,
        unreadable,
        certificate,
        removed,
        learned,
    )


def _calibrate(swap: _Swap, options: CalibrationOptions) -> tuple[CalibrationReport, CalibrationImages]:
    model = swap.model
    images = CalibrationImages(
        options.folder,
        swap.processor,
        options.images,
        options.batch_size,
        options.seed,
        options.max_unreadable,
        options.progress,
    )
    model.to(options.device or best_device())
    report = calibrate(
        model,
        swap.original,
        _WithText(images, example_inputs(model)),
        classifier=options.classifier,
        memory_budget=options.memory_budget,
        progress=options.progress,
    )
    model.cpu()
    return report, images


def _distill(swap: _Swap, options: DistillationOptions) -> Any:
    from .training.distillation.distill import distill  # needs what the extra `train` installs

    report = distill(
        swap.model,
        swap.original,
        options.folder,
        processor=swap.processor,
        num_images=options.images,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
        output_dir=options.checkpoints,
        resume_from_checkpoint="auto" if options.checkpoints else None,
        seed=options.seed,
        max_unreadable=options.max_unreadable,
        progress=options.progress,
        use_cpu=options.device == "cpu",
    )
    swap.model.cpu()
    return report


class _WithText:
    """The batches, with the few text tokens that a model such as CLIP wants beside its images."""

    def __init__(self, images: CalibrationImages, inputs: dict[str, torch.Tensor]):
        self.images = images
        self.text = {name: value for name, value in inputs.items() if "input_ids" in name}

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        return ({**batch, **self.text} for batch in self.images)


def _auto_class(name: str) -> str:
    """The Auto class that a model class belongs to, by its name."""
    task = name.partition("For")[2]
    return f"AutoModelFor{task}" if task in ("ImageClassification", "SemanticSegmentation") else "AutoModel"

"""What the page shows: a model with softmax and its twin with SimA, or as much of the two as there is."""

import contextlib
import copy
import inspect
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pictures import PictureError, read_picture
from safetensors import SafetensorError
from transformers import AutoModelForImageClassification, PreTrainedModel
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

import sima_hf
from sima_hf.errors import CheckpointError
from sima_hf.loading.by_name import check_weights
from sima_hf.loading.load_errors import why_not_loaded
from sima_hf.patching import sima_attentions
from sima_hf.patching.hosts import HOSTS, host_config_class


SOFTMAX, SIMA, PLAIN = "softmax", "SimA", "SimA in plain torch operations"
CALIBRATION_IMAGES = 512
UNCALIBRATED = (
    "The SimA twin has the softmax model's weights as they are and was **not calibrated**: its classes are noise, and its maps "
    "show what SimA makes of weights that were trained for softmax. Start the page with `--calibrate_with FOLDER` (a few hundred "
    "images, no labels) to have it calibrated first."
)


class LoadError(ValueError):
    """A model that the page cannot show; the text is a sentence for the person who started it."""


@dataclass
class Pair:
    """The models of the page, in evaluation mode.

    Attributes:
        name: as it was given, for the title.
        softmax, sima: the two; None for one that does not exist.
        processor: makes `pixel_values` from a picture.
        classifies: whether the checkpoint has a trained classifier.
        timed: contestant -> model, for the time against resolution.
        notes: sentences (Markdown) about what is shown, for the page.
        examples: pictures to try.
        prepare: done to every picture before the processor; the picture and a note, or an empty one.
    """

    name: str
    softmax: PreTrainedModel | None
    sima: PreTrainedModel | None
    processor: object
    classifies: bool = True
    timed: dict[str, PreTrainedModel] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    examples: tuple[Path, ...] = ()
    prepare: Callable = lambda image: (image, "")

    @property
    def models(self) -> dict[str, PreTrainedModel]:
        """Those that exist, softmax first."""
        both = {SOFTMAX: self.softmax, SIMA: self.sima}
        return {kind: model for kind, model in both.items() if model is not None}

    @property
    def main(self) -> PreTrainedModel:
        """The one whose config says sizes and labels."""
        return next(iter(self.models.values()))

    def pixel_values(self, image) -> torch.Tensor:
        """`(1, C, H, W)` of a picture of mode "RGB"; in gray for a model of one channel."""
        if channels(self.main) == 1:
            image = image.convert("L")
        values = self.processor(image, return_tensors="pt")["pixel_values"]
        return values.to(self.main.device, self.main.dtype)


def load_pair(
    name: str,
    *,
    calibrate_with: Path | None = None,
    counterpart: str | None = None,
    trust_remote_code: bool = False,
    say: Callable[[str], None] = print,
) -> Pair:
    """A folder or Hub name as the page needs it: a softmax model is copied and swapped, a SimA model stays as it is.

    Args:
        name: an image classifier, or a model without classifier, for its maps alone.
        calibrate_with: folder of images, at any depth, for the twin of a softmax model.
        counterpart: the softmax model to show beside one that is swapped already.
        trust_remote_code: let the folder's own code run.
        say: gets a sentence now and then.

    Raises:
        LoadError: it cannot be loaded, or an option does not fit it.
    """
    model, trained = _model(name, trust_remote_code)
    processor, notes = _processor(name, model, trust_remote_code)
    pair = Pair(name, None, None, processor, classifies=trained, notes=notes)
    if not trained:
        pair.notes += ("This checkpoint has no trained classifier, so there are maps and times, but no classes.",)
    if not is_sima(model):
        if counterpart:
            raise LoadError(f"{name} has softmax itself; a counterpart is for a model that is SimA already.")
        pair.softmax = model
        _add_twin(pair, calibrate_with, say)
        return pair
    if calibrate_with:
        raise LoadError(f"{name} is SimA already; only the fresh twin of a softmax model can be calibrated here.")
    pair.sima = model
    if model.config.model_type == "sima":
        pair.notes += ("A SimA model from the start: there is no softmax model with its weights to compare with.",)
        plain = copy.deepcopy(model)
        plain.set_attn_implementation("eager")
        pair.timed = {PLAIN: plain, SIMA: model}
        return pair
    _add_counterpart(pair, counterpart or recorded_base(name), bool(counterpart), trust_remote_code)
    return pair


def is_sima(model: PreTrainedModel) -> bool:
    """Whether its attention is SimA, in part at least."""
    return model.config.model_type == "sima" or bool(sima_attentions(model))


def channels(model: PreTrainedModel) -> int:
    """Channels of its images."""
    config = getattr(model.config, "vision_config", model.config)
    return getattr(config, "num_channels", None) or getattr(config, "in_chans", None) or 3


def image_size(model: PreTrainedModel) -> int:
    """Pixels a side, as the config says; 224 where it does not."""
    config = getattr(model.config, "vision_config", model.config)
    size = getattr(config, "image_size", None) or 224
    return size if isinstance(size, int) else max(size)


@contextlib.contextmanager
def with_maps(model: PreTrainedModel) -> Iterator[None]:
    """For a moment, attention that can return maps: of softmax's only the eager one does, SimA's all do.

    A model that has no choice of attention keeps its own.
    """
    before = model.config._attn_implementation
    if is_sima(model) or before in ("eager", None):
        yield
        return
    try:
        with contextlib.suppress(ValueError, ImportError):
            model.set_attn_implementation("eager")
        yield
    finally:
        with contextlib.suppress(ValueError, ImportError):
            model.set_attn_implementation(before)


def recorded_base(folder: str) -> str | None:
    """The softmax model that a swapped one was made from, if its folder says."""
    path = Path(folder) / "sima_provenance.json"
    try:
        return json.loads(path.read_text(encoding="utf-8")).get("base_model") or None
    except (OSError, ValueError, AttributeError):
        return None


def _model(name: str, trust_remote_code: bool) -> tuple[PreTrainedModel, bool]:
    """The model, and whether its classifier was in the checkpoint."""
    path = Path(name)
    if not path.exists() and (path.is_absolute() or name.startswith(".") or len(path.parts) > 2):
        raise LoadError(f"There is no folder {name}.")
    if path.is_file():
        raise LoadError(f"{name} is a file; give the folder that a model was saved in, or its name on the Hub.")
    try:
        model, info = AutoModelForImageClassification.from_pretrained(
            name, trust_remote_code=trust_remote_code, output_loading_info=True, ignore_mismatched_sizes=True
        )
    except SafetensorError as error:
        raise LoadError(f"The weights in {name} cannot be read, perhaps half-written: {error}.") from error
    except (OSError, ValueError, ImportError, RuntimeError) as error:
        if isinstance(error, OSError) and not path.exists():
            raise LoadError(why_not_loaded(name, error)) from error
        raise LoadError(
            f"{name} cannot be loaded as an image classifier: {str(error).strip().splitlines()[0]}"
        ) from error
    try:
        check_weights(name, model, {**info, "missing_keys": ()})  # of other shapes than the config says
    except CheckpointError as error:
        raise LoadError(str(error)) from error
    missing = sorted(info["missing_keys"])
    heads = [key for key in missing if not key.startswith(f"{model.base_model_prefix}.")]
    if len(heads) < len(missing):
        raise LoadError(
            f"{name} lacks weights of the model itself, such as {next(k for k in missing if k not in heads)}."
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return model.float().to(device).eval(), not heads


def _processor(name: str, model: PreTrainedModel, trust_remote_code: bool) -> tuple[object, tuple[str, ...]]:
    try:
        return AutoImageProcessor.from_pretrained(name, trust_remote_code=trust_remote_code), ()
    except (OSError, ValueError, ImportError):
        side = image_size(model)
        mean = [0.5] * channels(model)
        processor = ViTImageProcessorPil(size={"height": side, "width": side}, image_mean=mean, image_std=mean)
        return processor, (
            f"There is no image processor with the model, so images are scaled to {side} x {side} pixels in -1 to 1.",
        )


def _add_twin(pair: Pair, calibrate_with: Path | None, say: Callable[[str], None]) -> None:
    """Swap a copy, and calibrate it where there are images."""
    pair.timed = {SOFTMAX: pair.softmax}
    try:
        pair.sima = sima_hf.patch_model(copy.deepcopy(pair.softmax))
    except sima_hf.errors.UnsupportedModelError as error:
        pair.notes += (f"Softmax alone, since this model cannot be swapped to SimA: {error}",)
        return
    pair.timed[SIMA] = pair.sima
    if calibrate_with is None:
        pair.notes += (UNCALIBRATED,)
        return
    values = calibration_images(pair, calibrate_with)
    say(f"Calibrating with {len(values)} images of {calibrate_with} ...")
    try:
        sima_hf.calibrate(pair.sima, pair.softmax, torch.cat(values).split(16), classifier=pair.classifies)
    except (sima_hf.errors.CalibrationError, sima_hf.errors.UnsupportedModelError) as error:
        raise LoadError(f"The twin cannot be calibrated: {error}") from error
    pair.notes += (f"The SimA twin was calibrated with {len(values)} images of `{calibrate_with}`, without training.",)


def calibration_images(pair: Pair, folder: Path) -> list[torch.Tensor]:
    """`pixel_values` of as many readable images below a folder as are wanted, spread evenly over it.

    Raises:
        LoadError: there are none.
    """
    paths = sorted(path for path in Path(folder).rglob("*") if path.is_file())
    step, values = max(1, len(paths) // CALIBRATION_IMAGES), []
    for path in [*paths[::step], *(path for n, path in enumerate(paths) if n % step)]:
        if len(values) == CALIBRATION_IMAGES:
            break
        with contextlib.suppress(PictureError):
            values.append(pair.pixel_values(pair.prepare(read_picture(path).image)[0]))
    if not values:
        raise LoadError(f"No image could be read below {folder}, so there is nothing to calibrate with.")
    return values


def _add_counterpart(pair: Pair, name: str | None, wanted: bool, trust_remote_code: bool) -> None:
    """Beside a swapped model: the softmax model it was made from; for the time alone, one with the same weights will do."""
    if name:
        try:
            softmax, trained = _model(name, trust_remote_code)
            if is_sima(softmax):
                raise LoadError(f"{name} is SimA too, so it is no softmax counterpart of {pair.name}.")
        except LoadError as error:
            if wanted:
                raise
            pair.notes += (f"It was made from {name}, which could not be loaded, so SimA is shown alone. ({error})",)
        else:
            pair.softmax, pair.timed = softmax, {SOFTMAX: softmax, SIMA: pair.sima}
            pair.notes += (f"Swapped already; beside it is {name}, the softmax model it came from.",)
            pair.classifies = pair.classifies and trained
            return
    else:
        pair.notes += (
            "Swapped already, and nothing says from which softmax model, so its maps are shown alone; `--counterpart MODEL` "
            "puts one beside it.",
        )
    try:
        pair.timed = {SOFTMAX: softmax_of_same_shape(pair.sima), SIMA: pair.sima}
        pair.notes += ("For the time, softmax runs with the very same weights: it takes as long whatever they are.",)
    except (ValueError, TypeError, AttributeError, KeyError, RuntimeError):
        pair.timed = {SIMA: pair.sima}


def softmax_of_same_shape(model: PreTrainedModel) -> PreTrainedModel:
    """The host's own class with the parameters of a swapped model: as quick as the original, its answers without meaning."""
    host = HOSTS[model.config.model_type.removeprefix("sima_")]
    config_class = host_config_class(host)
    known = inspect.signature(config_class.__init__).parameters
    fields = {name: value for name, value in model.config.to_dict().items() if name in known and name != "self"}
    config = config_class.from_dict(fields)
    config._attn_implementation = "sdpa"
    twin = type(model).__mro__[2](config)
    twin.load_state_dict(model.state_dict())
    return twin.to(model.device, model.dtype).eval()

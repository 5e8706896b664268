"""An image encoder: a vision model of any kind, and the vector that is read of it."""

import inspect
import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import ModelOutput

from ..errors import DataError, UnsupportedModelError
from ..loading.load_errors import loading_errors
from ..loading.missing_weights import check_weights
from ..loading.saved_class import load_with_report
from ..loading.weights_place import place_of_weights
from ..patching.example_inputs import example_inputs
from .any_size import run_at_size
from .pooling import POOLINGS, available, convention, pool, tokens_around


IMAGES_TRIED = 2


class ImageEncoder(nn.Module):
    """Embeddings `(B, D)` of images, from the part of a model that sees them; in evaluation mode, without gradients.

    Of a classifier that is its base model, of CLIP, SigLIP and their kind the image's side, of ViT-MAE the encoder with nothing
    masked. The model itself is set to evaluation, and a ViT-MAE to a mask ratio of 0; nothing else of it changes.

        encoder = ImageEncoder(AutoModel.from_pretrained("org/sima-deit"))
        embeddings = encoder(pixel_values)

    Args:
        model: a model of Transformers or of sima_hf that takes `pixel_values` `(B, C, H, W)`.
        pooling: a name in `POOLINGS`.
        untrained: names of parameters that the checkpoint lacked, which are random; a pooler among them is refused.

    Attributes:
        pooling: what is read, never "auto".
        size: D.

    Raises:
        UnsupportedModelError: it yields no features of an image, other ones each time, or none of that pooling.
        ValueError: another word for the pooling.
    """

    def __init__(self, model: PreTrainedModel, pooling: str = "auto", untrained: Iterable[str] = ()):
        super().__init__()
        if pooling not in POOLINGS:
            raise ValueError(f"`pooling` must be one of {', '.join(map(repr, POOLINGS))}, got {pooling!r}.")
        self.model, self._forward = _image_side(model.eval(), pooling)
        self._tokens = tokens_around(self.model if self._forward is None else getattr(model, "vision_model", model))
        shown = self._shown()
        lacking = [one for one in untrained if "pooler" in one.split(".")]
        if pooling == "auto":
            pooling = convention(self.model, shown, self._tokens, pooler=not lacking)
        self.pooling = pooling
        self._check(shown, lacking)
        self.size = pool(shown, self.pooling, self._tokens).shape[1]

    def _check(self, shown: Any, lacking: list[str]) -> None:
        """Refuse a pooling that is not to be had, and features that nobody could use."""
        name, found = type(self.model).__name__, available(shown, self._tokens)
        if self.pooling == "pooler" and lacking:
            raise UnsupportedModelError(
                f"`pooling` must be one that the checkpoint was trained for, got 'pooler', for which it has no weights "
                f"({lacking[0]}). Choose {' or '.join(one for one in found if one != 'pooler')}."
            )
        if self.pooling not in found:
            raise UnsupportedModelError(
                f"{name} allows the pooling {' or '.join(found) or 'of no kind'}, got {self.pooling!r}."
            )
        once, again = (pool(one, self.pooling, self._tokens) for one in (shown, self._shown()))
        if len(once) != IMAGES_TRIED:
            raise UnsupportedModelError(
                f"{name} must give one vector for each image, got {len(once)} for {IMAGES_TRIED}: it packs images into one sequence."
            )
        if not torch.equal(once.nan_to_num(), again.nan_to_num()):
            raise UnsupportedModelError(
                f"{name} gives other features of the same image each time, so they cannot be kept. Take an encoder without "
                "anything random in evaluation mode."
            )

    @torch.no_grad()
    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, D)`, float32, of normalized images `(B, C, H, W)` of any size that the model takes.

        Raises:
            DataError: it cannot take images of this size.
        """
        pixel_values = pixel_values.to(self.model.dtype)
        return pool(self._output(pixel_values), self.pooling, self._tokens)

    def _output(self, pixels: torch.Tensor) -> Any:
        output = run_at_size(self.model, pixels, self._forward, **self._unmasked(pixels))
        if self._forward is None:
            return output
        pooled = output if torch.is_tensor(output) else output["pooler_output"]
        return ModelOutput(image_embeds=pooled)

    def _unmasked(self, pixels: torch.Tensor) -> dict[str, torch.Tensor]:
        """For an encoder that drops patches in the order of this noise: an order that keeps them as they are."""
        config = self.model.config
        if config.model_type.removeprefix("sima_") != "vit_mae":
            return {}
        config.mask_ratio = 0.0
        count = math.prod(side // config.patch_size for side in pixels.shape[-2:])
        return {"noise": torch.arange(count, device=pixels.device, dtype=torch.float32).expand(len(pixels), -1)}

    @torch.no_grad()
    def _shown(self) -> Any:
        """The output for random images, the same each time."""
        name = type(self.model).__name__
        pixels = example_inputs(self.model)["pixel_values"]
        if pixels.ndim != 4:
            raise UnsupportedModelError(f"{name} takes videos, and yields no features of an image.")
        try:
            return self._output(torch.cat([pixels, *[pixels.flip(-1)] * (IMAGES_TRIED - 1)]))
        except (DataError, KeyError, TypeError, ValueError, RuntimeError, IndexError, AttributeError) as error:
            reason = [*str(error).splitlines(), type(error).__name__][0]
            raise UnsupportedModelError(
                f"{name} must be an image encoder, which needs `pixel_values` and nothing else; it did not run on images ({reason})."
            ) from error


def load_encoder(
    name: str, pooling: str = "auto", weights: str | None = None, dtype: torch.dtype = torch.float32, **hub: Any
) -> tuple[ImageEncoder, PreTrainedModel, str]:
    """An image encoder by name: native SimA, swapped, or with softmax; classifiers, towers and self-supervised models.

    Args:
        name: folder or Hub name, or a training checkpoint.
        pooling: a name in `POOLINGS`.
        weights: "ema" for the averaged weights of a training checkpoint; "raw" or None for those in the folder itself.
        dtype: of the parameters.
        hub: revision, token, trust_remote_code, as `from_pretrained`.

    Returns:
        The encoder, the whole model that it is a part of, and the folder or Hub name that the weights came from.

    Raises:
        CheckpointError: there is no such model, or it is not whole.
        UnsupportedModelError: as `ImageEncoder`.
        ValueError: another word for the weights or the pooling.
    """
    place = place_of_weights(name, weights)
    with loading_errors(place, hub.get("revision")):
        model, report = load_with_report(place, dtype=dtype, ignore_mismatched_sizes=True, **hub)
    check_weights(place, model, report)
    return ImageEncoder(model, pooling, untrained=report["missing_keys"]), model, place


def _image_side(model: PreTrainedModel, pooling: str) -> tuple[PreTrainedModel, Any]:
    """The part of a model that sees images, and the method of it that gives projected features; None: its forward does.

    Raises:
        UnsupportedModelError: there is none.
    """
    both = hasattr(model, "get_image_features") and hasattr(model, "get_text_features")
    if both and pooling in ("auto", "projection"):
        return model, model.get_image_features
    inside = (model.base_model, getattr(model, "vision_model", None))
    side = next((one for one in inside if one is not model and _sees(one)), model)
    side = model if type(model).__name__.endswith("WithProjection") else side
    if not _sees(side):
        raise UnsupportedModelError(
            f"{type(model).__name__} yields no features of images alone: it must take `pixel_values` and no text. Take the image "
            "encoder in it."
        )
    if getattr(side.config, "is_encoder_decoder", False):
        raise UnsupportedModelError(
            f"{type(model).__name__} decodes what its encoder gives, and yields no features of an image. Take its backbone."
        )
    return side, None


def _sees(model: Any) -> bool:
    """Whether it is a model that takes images and no text."""
    taken = inspect.signature(model.forward).parameters if isinstance(model, PreTrainedModel) else ()
    return "pixel_values" in taken and "input_ids" not in taken

"""The image processor of SimA models: what the original code does to an image before it evaluates it."""

from transformers.image_utils import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil


class SimAImageProcessor(BitImageProcessorPil):
    r"""
    Resizes the shorter side to 256 (bicubic), cuts the central 224 x 224, normalizes by ImageNet's statistics.

    It is Transformers' own `BitImageProcessor` with other defaults, and is saved as one: a folder written by it loads
    through `AutoImageProcessor` everywhere, sima_hf or not.
    """

    image_mean = IMAGENET_DEFAULT_MEAN
    image_std = IMAGENET_DEFAULT_STD
    size = {"shortest_edge": 256}  # noqa: RUF012
    crop_size = {"height": 224, "width": 224}  # noqa: RUF012

    @classmethod
    def for_image_size(cls, image_size: int, crop_pct: float = 0.875, **kwargs) -> "SimAImageProcessor":
        """The same for another resolution: shorter side `image_size / crop_pct`, center crop `image_size`, in pixels.

        Raises:
            ValueError: `image_size` below 1, or `crop_pct` not in (0, 1].
        """
        if image_size < 1 or not 0 < crop_pct <= 1:
            raise ValueError(
                f"`image_size` must be at least 1 and `crop_pct` in (0, 1], got {image_size} and {crop_pct}."
            )
        return cls(
            size={"shortest_edge": int(image_size / crop_pct)},
            crop_size={"height": image_size, "width": image_size},
            **kwargs,
        )

    def to_dict(self) -> dict:
        """The settings as saved, under the name of the Transformers class that they make up."""
        return {**super().to_dict(), "image_processor_type": "BitImageProcessor"}


__all__ = ["SimAImageProcessor"]

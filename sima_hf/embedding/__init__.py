"""Features of images: an encoder's embedding of each, of a collection into files or of a split into memory."""

from typing import TYPE_CHECKING

from ..importing.lazy_imports import lazy_names


# Public name -> file that defines it, imported at first use.
_NAMES = {
    "EmbeddingOptions": ".run",
    "ImageEncoder": ".encoder",
    "embed_images": ".run",
    "load_encoder": ".encoder",
}

__all__ = ["EmbeddingOptions", "ImageEncoder", "embed_images", "load_encoder"]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)

if TYPE_CHECKING:
    from .encoder import ImageEncoder, load_encoder
    from .run import EmbeddingOptions, embed_images

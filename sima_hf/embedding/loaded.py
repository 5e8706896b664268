"""An encoder on its device, with its image processor and what reports say of it."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..data.calibration_images import view_and_normalization
from ..data.images import black
from ..data.pixels import normalize
from ..data.processors import processor_for
from ..folders.local_paths import shown_place
from ..folders.weights_hash import hash_of
from ..loading.by_name import is_sima
from ..loading.processors import load_processor
from ..loading.weights_place import processor_source
from ..machine.devices import DTYPES, best_device
from .encoder import ImageEncoder, load_encoder


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder on its device, and what belongs to it.

    Attributes:
        encoder: the encoder.
        model: that it is a part of.
        device: where it is.
        view: image -> tensor (3, H, W).
        normalization: mean and standard deviation of bytes; None where the view does that.
        settings: for reports: model, class, weights and their hash, pooling, image processor, dtype and so on.
    """

    encoder: ImageEncoder
    model: PreTrainedModel
    device: torch.device
    view: Any
    normalization: tuple[list[float], list[float]] | None
    settings: dict[str, Any]

    def embed(self, pixels: torch.Tensor) -> torch.Tensor:
        """Embeddings `(B, D)` float32, on the CPU, of `(B, 3, H, W)` as the view makes them."""
        pixels = pixels.to(self.device, non_blocking=True)
        return self.encoder(normalize(pixels, *self.normalization) if self.normalization else pixels).cpu()


def prepare_encoder(options: Any, accelerator: Any = None, crop_pct: float | None = None) -> LoadedEncoder:
    """An encoder as options name it, on its device.

    Args:
        options: `EmbeddingOptions`, or another with the same fields of the model.
        accelerator: of several processes.
        crop_pct: share of the shorter side that is seen.

    Raises:
        ValueError: an option out of its range; CheckpointError and DataError are such, and say what is wrong with model or data.
        UnsupportedModelError: the model yields no such features.
    """
    hub = {"trust_remote_code": options.trust_remote_code}
    if options.revision:
        hub["revision"] = options.revision
    encoder, model, place = load_encoder(
        options.model_name_or_path, options.pooling, options.weights, DTYPES[options.dtype], **hub
    )
    if options.backend != "auto":
        if not is_sima(encoder.model):
            raise ValueError(
                f"`backend` chooses who computes SimA attention, but {type(model).__name__} has softmax; leave it out."
            )
        encoder.model.set_attn_implementation(f"sima_{options.backend}")
    processor = processor_for(load_processor(processor_source(place), **hub), options.image_size, crop_pct)
    view, normalization = view_and_normalization(processor)
    device = accelerator.device if accelerator else torch.device(options.device or best_device())
    settings = {
        "model": shown_place(options.model_name_or_path, here=True),
        "class": type(model).__name__,
        "revision": options.revision,
        "weights": options.weights or ("raw" if (Path(place) / "ema").is_dir() else "as saved"),
        "weights_sha256": hash_of(place, options.revision) or _hash_in_memory(model),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "encoder": type(encoder.model).__name__,
        "pooling": encoder.pooling,
        "image_size": max(view(black()).shape[-2:]),
        "crop_pct": crop_pct,
        "processor": processor.to_dict(),
        "dtype": options.dtype,
        "backend": options.backend,
        "batch_size": options.batch_size,
    }
    return LoadedEncoder(encoder.to(device), model, device, view, normalization, settings)


def _hash_in_memory(model: PreTrainedModel) -> str:
    """For weights that are no safetensors files: SHA-256 of names and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()

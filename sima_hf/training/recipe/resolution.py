"""A trained model at another resolution: position embeddings made for one grid of patches, stretched to another."""

import copy
import inspect
import math

import torch
from transformers import PreTrainedModel


def resize(model: PreTrainedModel, image_size: int) -> PreTrainedModel:
    """The model for square images of `image_size` pixels.

    Models with a learned embedding for each patch (ViT, DeiT, BEiT and others) get it interpolated, bicubic, as DeiT is
    fine-tuned at 384 pixels (arXiv 2012.12877, section 6); a new model of the same class is returned. All others take any size
    and are returned as they are.

    Raises:
        ValueError: the patches do not fit, or another parameter depends on the resolution.
    """
    config = model.config
    own = getattr(config, "image_size", None)
    fixed = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    if not fixed or own in (image_size, [image_size, image_size], (image_size, image_size)):
        return model
    patch = config.patch_size
    if isinstance(patch, (list, tuple)) or image_size % patch:
        raise ValueError(
            f"--image_size must be a multiple of the model's patches of {patch} pixels, got {image_size}."
        )
    changed = copy.deepcopy(config)
    changed.image_size = image_size
    new = type(model)(changed).to(model.dtype)
    wanted, state = new.state_dict(), model.state_dict()
    for name, value in state.items():
        if value.shape != wanted[name].shape:
            if "position_embeddings" not in name or value.dim() != 3:
                raise ValueError(
                    f"{type(model).__name__} cannot be taken to {image_size} pixels: the shape of {name} depends on the resolution."
                )
            state[name] = stretch(value, wanted[name].shape[1])
    new.load_state_dict(state)
    return new.train(model.training)


def stretch(embeddings: torch.Tensor, tokens: int) -> torch.Tensor:
    """Position embeddings `(1,N,C)` of a square grid behind leading class tokens, for `tokens` of them: `(1,tokens,C)`.

    Raises:
        ValueError: with the same number of class tokens, one of the two is no square.
    """
    before, after = (_grid(count) for count in (embeddings.shape[1], tokens))
    leading = embeddings.shape[1] - before**2
    if leading != tokens - after**2:
        raise ValueError(
            f"{embeddings.shape[1]} position embeddings cannot be stretched to {tokens}: no two square grids fit."
        )
    grid = embeddings[:, leading:].reshape(1, before, before, -1).permute(0, 3, 1, 2)
    grid = torch.nn.functional.interpolate(grid.float(), size=(after, after), mode="bicubic", align_corners=False)
    return torch.cat([embeddings[:, :leading], grid.flatten(2).transpose(1, 2).to(embeddings.dtype)], dim=1)


def _grid(tokens: int) -> int:
    return math.isqrt(tokens)

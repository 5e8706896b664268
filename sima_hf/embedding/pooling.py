"""One vector of an image from what a vision model gives: which of its outputs, and how many tokens are no patches."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ..errors import UnsupportedModelError


# Name -> what it takes, in words.
POOLINGS = {
    "auto": "as the model's convention says",
    "cls": "the class token",
    "mean": "the mean of the patches",
    "pooler": "the output of the model's own pooler",
    "projection": "the image's embedding in the space that images and texts share",
}
# Learned tokens in front of the patches, by the last part of their parameters' names; YOLOS has its own behind them.
_IN_FRONT = ("cls_token", "class_token", "class_embedding", "distillation_token", "register_tokens")
_BEHIND = ("detection_tokens",)


def pool(output: Any, pooling: str, tokens: tuple[int, int]) -> torch.Tensor:
    """The embeddings `(B, D)`, float32, that an output holds.

    Args:
        output: of a vision model.
        pooling: a name in `POOLINGS`, "auto" aside; one of `available`.
        tokens: how many there are in front of the patches and behind them, see `tokens_around`.
    """
    if pooling == "projection":
        found = _image_embeds(output)
    elif pooling == "pooler":
        found = output["pooler_output"].flatten(1)
    else:
        hidden = _hidden(output)
        if hidden.ndim == 4:
            found = hidden.flatten(2).float().mean(dim=-1)
        elif pooling == "cls":
            found = hidden[:, 0]
        else:
            found = hidden[:, tokens[0] : hidden.shape[1] - tokens[1]].float().mean(dim=1)
    return found.float()


def available(output: Any, tokens: tuple[int, int]) -> list[str]:
    """The poolings that an output allows; none if it holds no features of an image.

    Args:
        output: of a vision model, for one image.
        tokens: as `pool`.
    """
    found = []
    if not isinstance(output, Mapping):
        return found
    if _image_embeds(output) is not None:
        found.append("projection")
    pooled = output.get("pooler_output")
    if torch.is_tensor(pooled) and pooled.ndim in (2, 4) and math.prod(pooled.shape[2:]) == 1:
        found.append("pooler")
    hidden = _hidden(output)
    if torch.is_tensor(hidden) and hidden.ndim in (3, 4):
        found += ["cls"] if hidden.ndim == 3 and tokens[0] else []
        found += ["mean"] if hidden.ndim == 4 or hidden.shape[1] > sum(tokens) else []
    return found


def convention(model: PreTrainedModel, output: Any, tokens: tuple[int, int], pooler: bool = True) -> str:
    """What is read of a model by convention.

    Of a tower of CLIP's kind with its projection, that. Else the model's pooler (SigLIP's attention head, CLIP's and DINOv2's
    normed class token, the mean of Swin and BEiT); not where it is a dense layer with tanh, as in ViT and DeiT, which few
    checkpoints have trained: then the class token. Without one the mean of the patches.

    Args:
        model: a vision model.
        output: its output for one image.
        tokens: as `pool`.
        pooler: whether it has the weights of its pooler.

    Raises:
        UnsupportedModelError: the output holds no features of an image.
    """
    found = available(output, tokens)
    if not found:
        given = ", ".join(output) if isinstance(output, Mapping) else type(output).__name__
        raise UnsupportedModelError(
            f"{type(model).__name__} yields no features of an image: it must give a `last_hidden_state`, a `pooler_output` or "
            f"`image_embeds`, got {given or 'nothing'}. Take an image encoder, such as the backbone of this model."
        )
    if "projection" in found:
        return "projection"
    if "pooler" in found and not _dense_with_tanh(model) and pooler:
        same = "cls" in found and torch.equal(output["pooler_output"], _hidden(output)[:, 0])
        return "cls" if same else "pooler"
    return next((one for one in ("cls", "mean") if one in found), "pooler")


def tokens_around(model: nn.Module) -> tuple[int, int]:
    """How many tokens of a vision model's sequence stand in front of its patches, and how many behind, by its parameters."""
    counts = dict.fromkeys((*_IN_FRONT, *_BEHIND), 0)
    for name, parameter in model.named_parameters():
        last = name.rpartition(".")[2]
        if last in counts:
            counts[last] = parameter.shape[-2] if parameter.ndim > 1 else 1
    return sum(counts[name] for name in _IN_FRONT), sum(counts[name] for name in _BEHIND)


def _image_embeds(output: Mapping) -> torch.Tensor | None:
    found = output.get("image_embeds")
    return found if torch.is_tensor(found) and found.ndim == 2 else None


def _hidden(output: Mapping) -> torch.Tensor | None:
    """The last hidden state, or a backbone's last map."""
    maps = output.get("feature_maps")
    return maps[-1] if maps else output.get("last_hidden_state")


def _dense_with_tanh(model: nn.Module) -> bool:
    pooler = getattr(model, "pooler", None)
    return isinstance(getattr(pooler, "dense", None), nn.Linear)

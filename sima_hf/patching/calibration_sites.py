"""Where calibration acts: a table of block classes, and the models' own code asked how a layer's output meets the stream.

Between the last linear layer of a branch and the residual stream lie, by host, LayerScale, the return from windows, shifts
and padding, and dropout that is off. All of that picks rows and scales channels, so it is found by running the block on
known numbers. Where it is anything else (a norm after the branch), the layer's own output in the teacher is the goal instead.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import UnsupportedModelError
from .configs import SimAHostConfig


@dataclass(frozen=True)
class BlockSites:
    """A row of the table: one class of Transformers' transformer blocks, with paths below it.

    Attributes:
        attention: the linear layer that ends the attention.
        value: the linear layer that makes the values; empty where they are not a layer of their own.
        stream: the module whose input is the residual stream after the attention.
        mlp: the linear layer that ends the MLP, or several of which a block has one.
        class_tokens: how many leading tokens are read at the end, or the config's name for that number.
    """

    attention: str = "attention.o_proj"
    value: str = "attention.v_proj"
    stream: str = "layernorm_after"
    mlp: tuple[str, ...] = ("mlp.fc2",)
    class_tokens: int | str = 0


_OLDER = {"attention": "attention.output.dense", "value": "attention.attention.value", "mlp": ("output.dense",)}
_WINDOWS = {"attention": "attention.output.dense", "value": "attention.self.value", "mlp": ("output.dense",)}
_CLIP = BlockSites("self_attn.out_proj", "self_attn.v_proj", "layer_norm2", class_tokens=1)

SITES = {
    "ViTLayer": BlockSites(class_tokens=1),
    "DeiTLayer": BlockSites(class_tokens=2),
    "Dinov2Layer": BlockSites(stream="norm2", mlp=("mlp.fc2", "mlp.down_proj"), class_tokens=1),
    "Dinov2WithRegistersLayer": BlockSites(stream="norm2", mlp=("mlp.fc2", "mlp.down_proj"), class_tokens=1),
    "DINOv3ViTLayer": BlockSites(stream="norm2", mlp=("mlp.down_proj",), class_tokens=1),
    "IJepaLayer": BlockSites(),
    "PixioLayer": BlockSites(class_tokens="n_cls_tokens"),
    "ViTMSNLayer": BlockSites(class_tokens=1),
    "ViTMAELayer": BlockSites(class_tokens=1),
    "VivitLayer": BlockSites(class_tokens=1),
    "BeitLayer": BlockSites(class_tokens=1),
    "Data2VecVisionLayer": BlockSites(**_OLDER, class_tokens=1),
    "YolosLayer": BlockSites(**_OLDER),
    "VideoMAELayer": BlockSites(**_OLDER),
    "DPTViTLayer": BlockSites(**_OLDER, class_tokens=1),
    "CLIPEncoderLayer": _CLIP,
    "MetaClip2EncoderLayer": _CLIP,
    "AltCLIPEncoderLayer": _CLIP,
    "ChineseCLIPVisionLayer": _CLIP,
    "SiglipEncoderLayer": BlockSites("self_attn.out_proj", "self_attn.v_proj", "layer_norm2"),
    "SegformerLayer": BlockSites(),
    "SwinLayer": BlockSites(),
    "Swinv2Layer": BlockSites(**_WINDOWS | {"stream": "intermediate"}),
    "DonutSwinLayer": BlockSites(**_WINDOWS),
}


@dataclass(frozen=True, eq=False)
class Block:
    """One block of a model, with the modules that calibration needs."""

    name: str
    module: nn.Module
    attention: nn.Linear
    value: nn.Linear | None
    stream: nn.Module
    mlp: nn.Linear
    class_tokens: int


def is_sima(module: nn.Module) -> bool:
    """Whether an attention inside `module` is SimA."""
    held = (value for part in module.modules() for value in vars(part).values())
    return any(isinstance(value, SimAHostConfig) for value in held)


def find_blocks(model: nn.Module) -> list[Block]:
    """The blocks of `model` whose attention is SimA, in the order of its modules.

    Raises:
        UnsupportedModelError: there are none that are in the table, or one is not built as the table says.
    """
    found = [(name, part) for name, part in model.named_modules() if type(part).__name__ in SITES and is_sima(part)]
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no block that calibration knows, so nothing was changed. It knows {', '.join(SITES)}; "
            "other models need fine-tuning or distillation after the swap."
        )
    return [_block(name, module) for name, module in found]


def _block(name: str, module: nn.Module) -> Block:
    row = SITES[type(module).__name__]
    mlp = [path for path in row.mlp if _below(module, path) is not None]
    paths = {"attention": row.attention, "mlp": mlp[0] if mlp else row.mlp[0]}
    linear = {site: _below(module, path) for site, path in paths.items()}
    for site, path in paths.items():
        if type(linear[site]) is not nn.Linear:
            raise UnsupportedModelError(
                f"Calibration refits {name}.{path}, which must be a plain nn.Linear, but it is a "
                f"{type(linear[site]).__name__}. Calibrate before quantizing or adding adapters."
            )
    value = _below(module, row.value)
    return Block(
        name=name,
        module=module,
        attention=linear["attention"],
        value=value if type(value) is nn.Linear else None,
        stream=_below(module, row.stream),
        mlp=linear["mlp"],
        class_tokens=_class_tokens(module, row),
    )


def _class_tokens(module: nn.Module, row: BlockSites) -> int:
    if isinstance(row.class_tokens, int):
        return row.class_tokens
    configs = (vars(part).get("config") for part in module.modules())
    return next(getattr(config, row.class_tokens) for config in configs if config is not None)


def _below(module: nn.Module, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


@dataclass(frozen=True)
class Route:
    """How the `(R, C)` output of a linear layer enters the `(S, C)` rows of the stream: `stream = rest + scale * out[rows]`.

    Attributes:
        rows: `(S,)`, which row of the output each row of the stream takes.
        scale: `(C,)`, by channel.
    """

    rows: torch.Tensor
    scale: torch.Tensor


def find_route(run: Callable[[torch.Tensor], torch.Tensor], rows: int, channels: int, like: torch.Tensor) -> Route | None:
    """The route from a linear layer to the stream, or None if it is not rows times channels.

    Args:
        run: gives the stream `(S, C)` of a block with zero input, when the layer's output is the `(rows, channels)` given.
        like: a tensor of the block's dtype and device.
    """
    ones = torch.ones(rows, channels, dtype=like.dtype, device=like.device)
    rest, all_ones = run(0 * ones), run(ones)
    scale = all_ones[0] - rest[0]
    strongest = scale.abs().max()
    if rest.any() or not strongest > 0 or not torch.equal(all_ones, scale.expand_as(all_ones)):
        return None
    # Row numbers in two digits, so that float32 carries them exactly enough through a scale.
    digits = []
    for digit in (torch.arange(rows) // 1024, torch.arange(rows) % 1024):
        seen = run(ones * digit.to(like)[:, None])[:, scale.abs().argmax()] / scale[scale.abs().argmax()]
        if (seen - seen.round()).abs().max() > 0.1:
            return None
        digits.append(seen.round().long())
    return Route(digits[0] * 1024 + digits[1], scale)

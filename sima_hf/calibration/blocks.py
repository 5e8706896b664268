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
from ..patching import sima_attentions


@dataclass(frozen=True)
class BlockSites:
    """A row of the table: one class of Transformers' transformer blocks, with paths below it.

    Attributes:
        attention: the linear layer that ends the attention.
        value, query, key: the linear layers before the attention.
        stream: the module whose input is the residual stream after the attention.
        mlp: the linear layer that ends the MLP, or several of which a block has one.
        class_tokens: how many leading tokens are read at the end, or the config's name for that number.
    """

    attention: str = "attention.o_proj"
    value: str = "attention.v_proj"
    query: str = "attention.q_proj"
    key: str = "attention.k_proj"
    stream: str = "layernorm_after"
    mlp: tuple[str, ...] = ("mlp.fc2",)
    class_tokens: int | str = 0


def _inner(place: str) -> dict[str, str]:
    """Paths of blocks in Transformers' older layout, with the attention proper at `place`."""
    inner = {name: f"{place}.{name}" for name in ("value", "query", "key")}
    return {"attention": "attention.output.dense", "mlp": ("output.dense",), **inner}


def _clip(**fields) -> BlockSites:
    inner = {name: f"self_attn.{name[0]}_proj" for name in ("value", "query", "key")}
    return BlockSites(attention="self_attn.out_proj", stream="layer_norm2", **inner, **fields)


_OLDER, _WINDOWS = _inner("attention.attention"), _inner("attention.self")

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
    "CLIPEncoderLayer": _clip(class_tokens=1),
    "MetaClip2EncoderLayer": _clip(class_tokens=1),
    "AltCLIPEncoderLayer": _clip(class_tokens=1),
    "ChineseCLIPVisionLayer": _clip(class_tokens=1),
    "SiglipEncoderLayer": _clip(),
    "SegformerLayer": BlockSites(),
    "SwinLayer": BlockSites(),
    "Swinv2Layer": BlockSites(**_WINDOWS | {"stream": "intermediate"}),
    "DonutSwinLayer": BlockSites(**_WINDOWS),
}


@dataclass(frozen=True, eq=False)
class Block:
    """One block of a model, with the modules that calibration needs; None for projections that are no plain nn.Linear."""

    name: str
    module: nn.Module
    attention: nn.Linear
    value: nn.Linear | None
    query: nn.Linear | None
    key: nn.Linear | None
    heads: int | None
    stream: nn.Module
    mlp: nn.Linear
    class_tokens: int

    def bias_tables(self) -> dict[str, nn.Parameter]:
        """Tables of relative position biases that belong to this block alone, `(positions, heads)`, by name in the model."""
        found = self.module.named_parameters(prefix=self.name)
        return {
            name: table for name, table in found if name.endswith("bias_table") and table.shape[1:] == (self.heads,)
        }


def find_blocks(model: nn.Module) -> list[Block]:
    """The blocks of a swapped model whose attention is SimA, in the order of its modules.

    Raises:
        UnsupportedModelError: there are none that are in the table, or one is not built as the table says.
    """
    paths = [f"{attention.path}." for attention in sima_attentions(model)]
    found = [
        (name, part)
        for name, part in model.named_modules()
        if type(part).__name__ in SITES and any(path.startswith(f"{name}.") for path in paths)
    ]
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no block that calibration knows, so nothing was changed. It knows {', '.join(SITES)}; "
            "other models need fine-tuning or distillation after the swap."
        )
    return [block_at(name, module) for name, module in found]


def block_at(name: str, module: nn.Module) -> Block:
    """A module whose class is in the table, with what the table says of it.

    Raises:
        UnsupportedModelError: a layer that would be refitted is not a plain nn.Linear.
    """
    kind = type(module).__name__
    row = SITES[kind]
    if _below(module, row.attention) is None:
        row = OLDER_SITES.get(kind, row)
    mlp = next((path for path in row.mlp if _below(module, path) is not None), row.mlp[0])
    for path in (row.attention, mlp):
        layer = _below(module, path)
        if not _is_plain(layer):
            raise UnsupportedModelError(
                f"Calibration refits {name}.{path}, which must be a plain nn.Linear, but it is a {_described(layer)}. "
                "Calibrate before quantizing, pruning or adding adapters."
            )
    before = {site: _below(module, getattr(row, site)) for site in ("value", "query", "key")}
    owner = _below(module, row.query.rpartition(".")[0])
    heads = (getattr(owner, attribute, None) for attribute in ("num_attention_heads", "num_heads"))
    return Block(
        name=name,
        module=module,
        attention=_below(module, row.attention),
        **{site: layer if _is_plain(layer) else None for site, layer in before.items()},
        heads=next((number for number in heads if isinstance(number, int)), None),
        stream=_below(module, row.stream),
        mlp=_below(module, mlp),
        class_tokens=_class_tokens(module, row),
    )


def _is_plain(layer: nn.Module | None) -> bool:
    """Whether it is torch's linear layer with a weight of its own, which no hook computes."""
    return type(layer) is nn.Linear and "weight" in dict(layer.named_parameters(recurse=False))


def _described(layer: nn.Module | None) -> str:
    if type(layer) is nn.Linear:
        return "nn.Linear whose weight is computed anew for each forward"
    return f"{type(layer).__module__}.{type(layer).__qualname__}"  # PEFT's is called Linear, too


def _class_tokens(module: nn.Module, row: BlockSites) -> int:
    if isinstance(row.class_tokens, int):
        return row.class_tokens
    configs = (vars(part).get("config") for part in module.modules())
    return next(getattr(config, row.class_tokens) for config in configs if config is not None)


def _below(module: nn.Module | None, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module


# The same blocks as older Transformers, down to the oldest that is supported, built them.
_DINOV2 = BlockSites(**_OLDER | {"mlp": ("mlp.fc2", "mlp.weights_out")}, stream="norm2", class_tokens=1)
OLDER_SITES = {"Dinov2Layer": _DINOV2, "Dinov2WithRegistersLayer": _DINOV2}


@dataclass(frozen=True)
class Route:
    """How the `(R, C)` output of a linear layer enters the `(S, C)` rows of the stream: `stream = rest + scale * out[rows]`.

    Attributes:
        rows: `(S,)`, which row of the output each row of the stream takes.
        scale: `(C,)`, by channel.
    """

    rows: torch.Tensor
    scale: torch.Tensor


def find_route(
    run: Callable[[torch.Tensor], torch.Tensor], rows: int, channels: int, like: torch.Tensor
) -> Route | None:
    """The route from a linear layer to the stream, or None if it is not rows times channels.

    Args:
        run: gives the stream `(S, C)` of a block with zero input, when the layer's output is the `(rows, channels)` given.
        rows, channels: shape of the layer's output.
        like: a tensor of the block's dtype and device, of any shape.
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

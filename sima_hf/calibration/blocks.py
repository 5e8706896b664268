"""Where the layers of a block are that calibration refits: a table by class of block, and the blocks of a model."""

from dataclasses import dataclass

from torch import nn

from ..errors import UnsupportedModelError
from ..patching import sima_attentions


@dataclass(frozen=True)
class BlockLayout:
    """A row of the table: the paths of layers below one class of Transformers' blocks.

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


def _clip(**fields) -> BlockLayout:
    inner = {name: f"self_attn.{name[0]}_proj" for name in ("value", "query", "key")}
    return BlockLayout(attention="self_attn.out_proj", stream="layer_norm2", **inner, **fields)


_OLDER, _WINDOWS = _inner("attention.attention"), _inner("attention.self")

BLOCK_LAYOUTS = {
    "ViTLayer": BlockLayout(class_tokens=1),
    "DeiTLayer": BlockLayout(class_tokens=2),
    "Dinov2Layer": BlockLayout(stream="norm2", mlp=("mlp.fc2", "mlp.down_proj"), class_tokens=1),
    "Dinov2WithRegistersLayer": BlockLayout(stream="norm2", mlp=("mlp.fc2", "mlp.down_proj"), class_tokens=1),
    "DINOv3ViTLayer": BlockLayout(stream="norm2", mlp=("mlp.down_proj",), class_tokens=1),
    "IJepaLayer": BlockLayout(),
    "PixioLayer": BlockLayout(class_tokens="n_cls_tokens"),
    "ViTMSNLayer": BlockLayout(class_tokens=1),
    "ViTMAELayer": BlockLayout(class_tokens=1),
    "VivitLayer": BlockLayout(class_tokens=1),
    "BeitLayer": BlockLayout(class_tokens=1),
    "Data2VecVisionLayer": BlockLayout(**_OLDER, class_tokens=1),
    "YolosLayer": BlockLayout(**_OLDER),
    "VideoMAELayer": BlockLayout(**_OLDER),
    "DPTViTLayer": BlockLayout(**_OLDER, class_tokens=1),
    "CLIPEncoderLayer": _clip(class_tokens=1),
    "MetaClip2EncoderLayer": _clip(class_tokens=1),
    "AltCLIPEncoderLayer": _clip(class_tokens=1),
    "ChineseCLIPVisionLayer": _clip(class_tokens=1),
    "SiglipEncoderLayer": _clip(),
    "SegformerLayer": BlockLayout(),
    "SwinLayer": BlockLayout(),
    "Swinv2Layer": BlockLayout(**_WINDOWS | {"stream": "intermediate"}),
    "DonutSwinLayer": BlockLayout(**_WINDOWS),
}

# The same blocks as older Transformers, down to the oldest that is supported, built them.
_DINOV2 = BlockLayout(**_OLDER | {"mlp": ("mlp.fc2", "mlp.weights_out")}, stream="norm2", class_tokens=1)
OLDER_BLOCK_LAYOUTS = {"Dinov2Layer": _DINOV2, "Dinov2WithRegistersLayer": _DINOV2}


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
        if type(part).__name__ in BLOCK_LAYOUTS and any(path.startswith(f"{name}.") for path in paths)
    ]
    if not found:
        raise UnsupportedModelError(
            f"{type(model).__name__} has no block that calibration knows, so nothing was changed. It knows {', '.join(BLOCK_LAYOUTS)}; "
            "other models need fine-tuning or distillation after the swap."
        )
    return [block_at(name, module) for name, module in found]


def block_at(name: str, module: nn.Module) -> Block:
    """A module whose class is in the table, with what the table says of it.

    Raises:
        UnsupportedModelError: a layer that would be refitted is not a plain nn.Linear.
    """
    kind = type(module).__name__
    row = BLOCK_LAYOUTS[kind]
    if _below(module, row.attention) is None:
        row = OLDER_BLOCK_LAYOUTS.get(kind, row)
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


def _class_tokens(module: nn.Module, row: BlockLayout) -> int:
    if isinstance(row.class_tokens, int):
        return row.class_tokens
    configs = (vars(part).get("config") for part in module.modules())
    return next(getattr(config, row.class_tokens) for config in configs if config is not None)


def _below(module: nn.Module | None, path: str) -> nn.Module | None:
    for name in path.split("."):
        module = getattr(module, name, None)
    return module

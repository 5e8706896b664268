"""Tokens and position tables that a host starts at zero: under SimA they have to be drawn.

Softmax gives a zero token the mean of the values. SimA gives it zero, because its query is zero: it stays zero through all blocks, and
every LayerNorm at zero multiplies its gradient by up to a million.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn
from transformers import PreTrainedConfig, initialization
from transformers.utils import logging

from .configs import SimAHostConfig


logger = logging.get_logger(__name__)

# Hosts name them alike: cls_token, register_tokens, mask_token; position_embeddings, time_embeddings, pos_embed. Tables of relative
# positions have other names: they are biases, which learn from zero.
_TOKEN = re.compile(r"(^|_)tokens?$")
_TABLE = re.compile(r"(^|_)((position|time)_embeddings|pos_embed(_window)?)$")
_ADDED_LATER = re.compile(r"(register|group)_")  # tokens that come in after the position table was added

_STD = 0.02  # the original SimA code's, for hosts without an `initializer_range`
_DRAWN = "_drawn_at_swap"  # where a module remembers what was drawn: name -> values


@dataclass(frozen=True)
class ZeroTensor:
    """A parameter that is zero throughout, a token or a position table: whose, under which name, and in which SimA model."""

    module: nn.Module
    name: str
    path: str
    part: nn.Module
    config: PreTrainedConfig

    @property
    def parameter(self) -> nn.Parameter:
        """The parameter itself."""
        return self.module.get_parameter(self.name)

    @property
    def std(self) -> float:
        """Standard deviation with which the host draws its weights."""
        return getattr(self.config, "initializer_range", _STD)

    def draw(self) -> None:
        """Draw it as the host draws its weights, unless it was loaded."""
        initialization.normal_(self.parameter, std=self.std)


def zero_tensors(model: nn.Module, path: str = "", part: nn.Module | None = None) -> Iterator[ZeroTensor]:
    """Tokens and position tables that are zero, in the SimA parts of `model` alone.

    A frozen table stays out (ViT-MAE's, meant for sines and cosines), and so do tensors without values of their own: on the meta
    device, fake, quantized or distributed.

    Args:
        model: any module; it is only looked at.
        path, part: where `model` is, with a dot behind, and the model with a config that it is in; for the recursion.
    """
    config = vars(model).get("config")
    if isinstance(config, PreTrainedConfig) and config is not getattr(part, "config", None):
        part = model
    config = getattr(part, "config", None)
    if isinstance(config, SimAHostConfig):
        for name, parameter in model.named_parameters(recurse=False):
            if _is_zero(name, parameter):
                yield ZeroTensor(model, name, f"{path}{name}", part, config)
    for name, child in model.named_children():
        yield from zero_tensors(child, f"{path}{name}.", part)


def _is_zero(name: str, parameter: nn.Parameter) -> bool:
    table = _TABLE.search(name) and parameter.requires_grad
    if not (table or _TOKEN.search(name)) or type(parameter) is not nn.Parameter or parameter.is_meta:
        return False
    return parameter.numel() > 0 and not parameter.any()


def draw_zero_tokens(model: nn.Module) -> None:
    """Draw the zero tokens and tables of what was just swapped in `model` where its weights are fresh, and say so in the log.

    Weights are fresh where no norm of the model that holds them has been trained: all have a constant weight and a bias of zero, as
    at the start. A trained model keeps every value, also that of a mask token that it never used; if a token of its own would stay
    zero, because no position is added to it, it is warned of.
    """
    tensors = list(zero_tensors(model))
    fresh = {part: _is_fresh(part) for part in {tensor.part for tensor in tensors}}
    drawn = [tensor for tensor in tensors if fresh[tensor.part]]
    # From a generator of its own: the same model is swapped to the same weights, and no draw of the user's changes.
    generator = torch.Generator().manual_seed(0)
    for tensor in drawn:
        values = tensor.std * torch.randn(tensor.parameter.shape, generator=generator)
        with torch.no_grad():
            tensor.parameter.copy_(values)
        vars(tensor.module).setdefault(_DRAWN, {})[tensor.name] = tensor.parameter.detach().clone()
    if drawn:
        logger.warning(
            f"The weights are fresh, and {_named(drawn)} were zero, where SimA would keep them: drawn anew from a "
            f"normal distribution, as a fresh {type(model).__name__} draws them; unpatch_model puts the zeros back."
        )
    stuck = [tensor for tensor in tensors if not fresh[tensor.part] and _stays_zero(tensor)]
    if stuck:
        logger.warning(
            f"{_named(stuck)} of this trained model are zero, and a zero token stays zero under SimA, with gradients that are not "
            "finite. If the model uses them and is to be trained, draw them first: torch.nn.init.normal_(token, std=0.02)."
        )


def restore_zeros(model: nn.Module) -> None:
    """Undo `draw_zero_tokens` where the values are still those that were drawn; trained ones stay."""
    for module in model.modules():
        for name, drawn in vars(module).pop(_DRAWN, {}).items():
            parameter = module.get_parameter(name)
            if torch.equal(parameter, drawn.to(parameter)):
                nn.init.zeros_(parameter)


def _named(tensors: list[ZeroTensor]) -> str:
    return ", ".join(tensor.path for tensor in tensors)


def _is_fresh(part: nn.Module) -> bool:
    norms = [module for module in part.modules() if "Norm" in type(module).__name__]
    scales = [norm.weight for norm in norms if isinstance(getattr(norm, "weight", None), nn.Parameter)]
    shifts = [norm.bias for norm in norms if isinstance(getattr(norm, "bias", None), nn.Parameter)]
    if not scales or any(values.is_meta for values in scales):
        return False
    return all(bool((scale == scale.flatten()[0]).all()) for scale in scales) and not any(
        bool(shift.any()) for shift in shifts
    )


def _stays_zero(tensor: ZeroTensor) -> bool:
    """Whether it is a token to which no position is added that is not zero: no row of such a token is anything but zero."""
    if not _TOKEN.search(tensor.name):
        return False
    beside = [values for name, values in tensor.module.named_parameters(recurse=False) if _TABLE.search(name)]
    return bool(_ADDED_LATER.search(tensor.name)) or not any(bool(values.any()) for values in beside)

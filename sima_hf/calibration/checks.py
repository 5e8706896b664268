"""Which weights calibration can refit: plain ones, each in one place."""

from torch import Tensor, nn

from ..errors import CalibrationError, UnsupportedModelError
from .blocks import Block


def check_plain(model: nn.Module, what: str) -> None:
    """Refuse weights that cannot be copied and converted.

    Args:
        model: the model or its teacher.
        what: which of them, for the text.

    Raises:
        UnsupportedModelError: a weight is quantized or spread over devices (a tensor of another class), or computed anew for
            each forward, as under a mask.
    """
    for name, parameter in model.named_parameters():
        if not issubclass(type(parameter), nn.Parameter):
            raise UnsupportedModelError(
                f"Calibration needs plain weights, but {name} of the {what} is a {type(parameter).__name__}. Calibrate before "
                "quantizing it or spreading it over devices."
            )
    for owner, module in model.named_modules():
        for name, value in vars(module).items():
            if isinstance(value, Tensor) and value.grad_fn is not None:
                raise UnsupportedModelError(
                    f"Calibration needs plain weights, but {owner}.{name} of the {what} is computed anew for each forward, as by a "
                    "mask or a norm. Make it permanent first, such as with torch.nn.utils.prune.remove."
                )


def check_apart(model: nn.Module, blocks: list[Block], heads: list[str]) -> None:
    """Refuse layers that cannot be refitted alone, because something else has the same weight.

    Args:
        model: in which the layers are.
        blocks: whose layers would be refitted.
        heads: names of linear layers of the model that would be refitted, too.

    Raises:
        CalibrationError: a weight is shared; the text names all that have it.
    """
    names: dict[int, list[str]] = {}
    for owner, module in model.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            names.setdefault(id(parameter), []).append(f"{owner}.{name}")
    layers = [(block.attention, block.value, block.query, block.key, block.mlp) for block in blocks]
    refitted = [*(layer for row in layers for layer in row if layer is not None), *map(model.get_submodule, heads)]
    for layer in refitted:
        for parameter in layer.parameters():
            if len(names[id(parameter)]) > 1:
                raise CalibrationError(
                    f"{' and '.join(names[id(parameter)])} are one weight, so calibration cannot refit the one without the other: "
                    "give each its own, such as nn.Parameter(weight.detach().clone())."
                )
    if len(set(refitted)) < len(refitted):
        twice = next(layer for layer in refitted if refitted.count(layer) > 1)
        name = next(name for name, module in model.named_modules() if module is twice)
        raise CalibrationError(
            f"{name} serves in several places, so calibration cannot refit it for one of them: give each a layer of its own, such as "
            "by copy.deepcopy."
        )

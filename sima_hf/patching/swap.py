"""Patch a live model, in place, and undo it."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedModel
from transformers.utils import logging

from ..errors import UnsupportedModelError
from ..ops import check_gain
from ..ops.backends import BACKENDS
from .checks import check_came_alone, check_swapped, hosts_in, is_config, nested
from .classes import SimAHostModel, adopt_parts, host_of, sima_configs, take_class
from .configs import SimAHostConfig, config_class, config_class_in_use
from .description import describe
from .hosts import Host


logger = logging.get_logger(__name__)

# Where a patched model remembers what it was. Not a parameter, buffer or module, so it is never saved.
_MEMORY = "_before_sima"


@dataclass(frozen=True)
class Before:
    """What a module was: its class, and the attributes that the swap may exchange, by name."""

    module: nn.Module
    cls: type
    attributes: dict[str, Any]


def patch_model(
    model: PreTrainedModel, gain: str = "tokens", backend: str = "auto", verify: Any = None
) -> PreTrainedModel:
    """Swap softmax attention for SimA, in place, with the same parameters.

    The model becomes of class `SimA<Host>...` with a `SimA<Host>Config`. In a model made of several, its vision tower does;
    a parent whose config finds its tower by type (LLaVA, UperNet) keeps its own class, others (CLIP) become `SimA<Parent>`.
    Text sides stay as they are. Nothing else in the process changes: the model gets configs of its own, others keep theirs.

    Args:
        model: a Transformers model listed by `supported_models()`, or one that holds such a model as a part of its own type. A
            model that is SimA already takes the new gain and backend.
        gain: "tokens" or "none", as for `sima_attention`; saved as `config.attention_gain`.
        backend: "auto" or a name from `sima_hf.ops.backend_report()`.
        verify: inputs for one forward, keyword arguments or a tensor; `certify` then has to find no softmax in what was
            swapped, or the model is turned back.

    Returns:
        The same object. `sima_hf.patching.describe(model)` says what was swapped and what was left.

    Raises:
        UnsupportedModelError (a ValueError): the model cannot be swapped, with the reason; it is left untouched.
        TypeError: it is not a Transformers model.
        ValueError: unknown gain or backend.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"patch_model takes a Transformers model (PreTrainedModel), but {type(model).__name__} came. Where one is wrapped, "
            "give the model inside: `model.get_base_model()` of PEFT, `model.module` of DistributedDataParallel, "
            "`model._orig_mod` of torch.compile, `pipe.model` of a pipeline."
        )
    check_gain(gain)
    check_came_alone(model)
    known = ("auto", *(row.name for row in BACKENDS))
    if backend not in known:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, known))}, but {backend!r} came.")
    new = not sima_configs(model) or any(host_of(module) is not None for module in model.modules())
    if new:
        _swap(model)
    _choose(model, gain, "sima" if backend == "auto" else f"sima_{backend}")
    if new and verify is not None:
        _verify(model, verify)
    report = describe(model)
    if new and report.left:
        logger.warning(str(report))
    else:
        logger.info(str(report))
    return model


def _choose(model: PreTrainedModel, gain: str, implementation: str) -> None:
    for config in sima_configs(model):
        config.attention_gain = gain
        config.choose_backend(implementation)


def _swap(model: PreTrainedModel) -> None:
    hosts = hosts_in(model)
    for host in hosts.values():
        config_class_in_use(host)
    before = [
        Before(
            module,
            type(module),
            {name: x for name, x in vars(module).items() if is_config(x) or name == "_old_forward"},
        )
        for module in model.modules()
    ]
    try:
        _give_twin_configs(model, hosts)
        adopt_parts(model)
        check_swapped(model, hosts)
    except BaseException:
        _restore(before)
        raise
    object.__setattr__(model, _MEMORY, before)


def _give_twin_configs(model: PreTrainedModel, hosts: dict[str, Host]) -> None:
    """Give every module a copy of its config, those of `hosts` as SimA ones; what modules shared, they share again.

    A decoder often holds a deep copy of its model's config, and models made from one config object share it.
    """
    twins: dict = {}
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if is_config(value):
                twin = copy.deepcopy(value, twins)
                for config in nested(twin):
                    host = hosts.get(type(config).model_type)
                    if host is not None:
                        vars(config).pop("model_type", None)
                        config.__class__ = config_class(host)
                        if isinstance(config, SimAHostConfig):
                            config.choose_backend("sima")
                object.__setattr__(module, name, twin)


def _verify(model: PreTrainedModel, inputs: Any) -> None:
    from .certificate import certify

    try:
        report = certify(model, inputs)
        if report.in_swapped:
            raise UnsupportedModelError(
                f"Softmax ran where SimA was swapped in, so the model was turned back. This should not happen; please report it:\n{report}"
            )
    except BaseException:
        unpatch_model(model)
        raise


def unpatch_model(model: PreTrainedModel) -> PreTrainedModel:
    """Turn a model that `patch_model` swapped back into what it was, bit for bit.

    Args:
        model: a model that was patched in this process; one that never was is returned as it is.

    Returns:
        The same object.

    Raises:
        ValueError: it was loaded as SimA, so that there is nothing to turn back to; the text says what to do.
    """
    before = vars(model).get(_MEMORY) if isinstance(model, nn.Module) else None
    if before is None:
        if isinstance(model, PreTrainedModel):
            check_came_alone(model)
        if isinstance(model, SimAHostModel) or (isinstance(model, nn.Module) and sima_configs(model)):
            host = type(model).__mro__[2].__name__ if isinstance(model, SimAHostModel) else type(model).__name__
            raise ValueError(
                f"This {type(model).__name__} was made or loaded as SimA, not patched. To run its weights with softmax, "
                f"load its state_dict into a {host} with softmax."
            )
        return model
    _restore(before)
    object.__delattr__(model, _MEMORY)
    return model


def _restore(before: list[Before]) -> None:
    for was in before:
        if isinstance(was.module, PreTrainedModel) and type(was.module) is not was.cls:
            take_class(was.module, was.cls)
        else:
            was.module.__class__ = was.cls
        vars(was.module).pop("sima_config", None)
        vars(was.module).update(was.attributes)


@contextlib.contextmanager
def patched(model: PreTrainedModel, gain: str = "tokens", backend: str = "auto") -> Iterator[PreTrainedModel]:
    """`patch_model` for the length of a `with` block; what was before comes back, also when the block fails.

    Args:
        model, gain, backend: as for `patch_model`. Of a model that is SimA already, gain and backend come back.

    Yields:
        The same object, swapped.

    Raises:
        UnsupportedModelError, TypeError, ValueError: as `patch_model`, before the block begins.
    """
    configs = sima_configs(model) if isinstance(model, nn.Module) else []
    settings = [(config, config.attention_gain, config._attn_implementation) for config in configs]
    remembered = isinstance(model, nn.Module) and _MEMORY in vars(model)
    patch_model(model, gain=gain, backend=backend)
    try:
        yield model
    finally:
        if not remembered and _MEMORY in vars(model):
            unpatch_model(model)
        for config, old_gain, old_implementation in settings:
            config.attention_gain = old_gain
            config._attn_implementation_internal = old_implementation

"""Patch a live model, in place, and undo it."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..errors import UnsupportedModelError
from ..ops import check_gain
from ..ops.backends import BACKENDS
from .attention_modules import host_of
from .classes import register_host
from .configs import SimAHostConfig, config_class
from .description import describe
from .eligibility import check_came_alone, nested, plan
from .hosts import Host
from .models import SimAHostModel, convert, sima_configs
from .saving import knows_its_parts
from .undo import MEMORY, WHOLE, Before, Memory, all_or_nothing, configs_of, rebind_forwards, turn_back, twins_of
from .zero_tokens import mend_zero_tokens, put_back_zeros


logger = logging.get_logger(__name__)

# What `patched` puts back where the model was SimA already.
_SETTINGS = ("attention_gain", "_attn_implementation_internal", "_sima_implementation")


def patch_model(
    model: PreTrainedModel, gain: str = "tokens", backend: str = "auto", verify: Any = None
) -> PreTrainedModel:
    """Swap softmax attention for SimA, in place, with the same parameters.

    The model becomes of class `SimA<Host>...` with a `SimA<Host>Config`. In a model made of several, its vision tower does;
    a parent whose config finds its tower by type (LLaVA, UperNet) keeps its own class, others (CLIP) become `SimA<Parent>`.
    Text sides stay as they are. Nothing else in the process changes: the model gets configs of its own, others keep theirs.

    Patch the whole model, not a part of it (`model.vit`, a tower): only the whole can be saved as SimA, and saving a model of
    which a part alone was patched is refused.

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
            f"patch_model takes a Transformers model (PreTrainedModel), got {type(model).__name__}. Where one is wrapped, "
            "give the model inside: `model.get_base_model()` of PEFT, `model.module` of DistributedDataParallel, "
            "`model._orig_mod` of torch.compile, `pipe.model` of a pipeline."
        )
    check_gain(gain)
    check_came_alone(model)
    known = ("auto", *(row.name for row in BACKENDS))
    if backend not in known:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, known))}, got {backend!r}.")
    new = not sima_configs(model) or any(host_of(module) is not None for module in model.modules())
    new = new or not knows_its_parts(model)
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
    for config in _all_sima_configs(model):
        config.attention_gain = gain
        config.choose_backend(implementation)


def _all_sima_configs(model: nn.Module) -> list[SimAHostConfig]:
    """Those that modules hold, and those inside a parent's config, which may say the same of a tower in another object."""
    inside = {
        id(one): one for module in model.modules() for config in configs_of(module).values() for one in nested(config)
    }
    return [one for one in inside.values() if isinstance(one, SimAHostConfig)]


def _swap(model: PreTrainedModel) -> None:
    hosts, found = plan(model)
    for host in hosts.values():
        register_host(host)
    modules = list(model.modules())
    with all_or_nothing(modules):
        before = [
            (
                type(module),
                configs_of(module),
                {name: vars(module).pop(name) for name in (MEMORY, WHOLE) if name in vars(module)},
            )
            for module in modules
        ]
        copies = _give_twin_configs(modules, hosts)
        convert(found)
        for module, (cls, _, _) in zip(modules, before, strict=True):
            if type(module) is not cls:
                rebind_forwards(module, cls)
        _remember(model, modules, before, copies)
        try:
            mend_zero_tokens(model)
        except BaseException:
            put_back_zeros(model)
            raise


def _remember(model: PreTrainedModel, modules: list[nn.Module], before: list[tuple], copies: dict) -> None:
    remembered = []
    for module, (cls, configs, earlier) in zip(modules, before, strict=True):
        pairs = {name: (old, vars(module)[name]) for name, old in configs.items()}
        remembered.append(Before(module, (cls, type(module)), pairs, earlier))
        if module is not model and (cls is not type(module) or configs):
            object.__setattr__(module, WHOLE, type(model).__name__)
    olds = [old for _, configs, _ in before for old in configs.values()]
    object.__setattr__(model, MEMORY, Memory(remembered, twins_of(olds, copies)))


def _give_twin_configs(modules: list[nn.Module], hosts: dict[str, Host]) -> dict[int, PreTrainedConfig]:
    """Give every module a copy of its config, those of `hosts` as SimA ones; what modules shared, they share again.

    A decoder often holds a deep copy of its model's config, and models made from one config object share it. Returns the
    copies by the identity of what they were made from.
    """
    twins: dict = {}
    for module in modules:
        for name, value in configs_of(module).items():
            twin = copy.deepcopy(value, twins)
            for config in nested(twin):
                host = hosts.get(type(config).model_type)
                if host is not None:
                    vars(config).pop("model_type", None)
                    config.__class__ = config_class(host)
                    if isinstance(config, SimAHostConfig):
                        config.choose_backend("sima")
            object.__setattr__(module, name, twin)
    return twins


def _verify(model: PreTrainedModel, inputs: Any) -> None:
    from .certificate import certify

    try:
        report = certify(model, inputs)
        if report.in_swapped:
            raise UnsupportedModelError(
                f"Softmax ran where SimA was swapped in, so the model was turned back. This should not happen; please report it:\n{report}"
            )
    except BaseException:
        _undo_swap(model)
        raise


def unpatch_model(model: PreTrainedModel) -> PreTrainedModel:
    """Turn a model that `patch_model` swapped back into what it was, bit for bit.

    What was changed in its config in the meantime stays (a new head's `num_labels`, say), but for what is SimA's: gain, type and
    attention. Copies that were made of its layers (PEFT's `modules_to_save`) are turned as well, and so are classes that torch
    made over SimA's (`parametrize`, `fully_shard`).

    Args:
        model: a model that was patched in this process; one that never was is returned as it is.

    Returns:
        The same object.

    Raises:
        ValueError: it was loaded as SimA, or is a part of a model that was patched, or holds what cannot be turned; the text
            says what to do, and the model is as it was.
    """
    if isinstance(model, nn.Module) and MEMORY in vars(model):
        _undo_swap(model)
        # Patched again since, for softmax layers that came into it: there is an earlier swap to undo as well.
        return unpatch_model(model) if MEMORY in vars(model) else model
    if isinstance(model, PreTrainedModel):
        check_came_alone(model)
    if isinstance(model, nn.Module) and (isinstance(model, SimAHostModel) or sima_configs(model)):
        raise ValueError(_why_not_undone(model))
    return model


def _undo_swap(model: nn.Module) -> None:
    turn_back(model, vars(model)[MEMORY])
    put_back_zeros(model)


def _why_not_undone(model: nn.Module) -> str:
    name, whole = type(model).__name__, vars(model).get(WHOLE)
    hosts = (cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))
    load = f"load its state_dict into a {next(hosts, name)} with softmax."
    if whole is not None:
        return f"This {name} was swapped as part of a {whole}. Call unpatch_model on that; where it is gone, {load}"
    return f"This {name} was made or loaded as SimA, not patched. To run its weights with softmax, {load}"


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
    configs = _all_sima_configs(model) if isinstance(model, nn.Module) else []
    settings = [(config, {name: x for name, x in vars(config).items() if name in _SETTINGS}) for config in configs]
    before = vars(model).get(MEMORY) if isinstance(model, nn.Module) else None
    patch_model(model, gain=gain, backend=backend)
    try:
        yield model
    finally:
        memory = vars(model).get(MEMORY)
        if memory is not None and memory is not before:
            _undo_swap(model)
        for config, values in settings:
            for name in _SETTINGS:
                vars(config).pop(name, None)
            vars(config).update(values)

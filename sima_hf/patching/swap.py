"""Patch a live model, in place, and undo it."""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..errors import UnsupportedModelError
from ..ops import check_gain
from ..ops.backends import BACKENDS
from .classes import SimAHostModel, adopt_parts, host_of, sima_configs, take_class
from .configs import SimAHostConfig, config_class, config_class_in_use
from .description import describe
from .hosts import HOSTS, Host, find_host


logger = logging.get_logger(__name__)

# Where a patched model remembers what it was. Not a parameter, buffer or module, so it is never saved.
_MEMORY = "_before_sima"

# Models that a host may hold without being known to the table: they have no attention.
_WITHOUT_ATTENTION = frozenset(
    {"bit", "resnet", "convnext", "convnextv2", "regnet", "hgnet_v2", "focalnet", "rt_detr_resnet"}
)


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
    known = ("auto", *(row.name for row in BACKENDS))
    if backend not in known:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, known))}, but {backend!r} came.")
    new = not sima_configs(model)
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
    hosts = _hosts_in(model)
    for host in hosts.values():
        config_class_in_use(host)
    before = [
        Before(
            module,
            type(module),
            {name: x for name, x in vars(module).items() if _is_config(x) or name == "_old_forward"},
        )
        for module in model.modules()
    ]
    try:
        _give_twin_configs(model, hosts)
        adopt_parts(model)
        _check_swapped(model, hosts)
    except BaseException:
        _restore(before)
        raise
    object.__setattr__(model, _MEMORY, before)


def _hosts_in(model: PreTrainedModel) -> dict[str, Host]:
    """The rows of what is to be swapped in `model`, by model_type. Nothing is changed.

    Raises:
        UnsupportedModelError: nothing can be, or not all that would have to be.
    """
    name, own_type = type(model).__name__, model.config.model_type
    parts = {part: path for path, part in model.named_modules() if isinstance(part, PreTrainedModel)}
    hosts = {host.model_type: host for module in model.modules() if (host := host_of(module)) is not None}
    swapped = [host for host in hosts.values() if not host.towers]
    if not swapped:
        find_host(own_type)
        raise UnsupportedModelError(
            f"{name} holds none of the models that SimA is swapped into: its towers are not in it."
        )
    if not type(model).__module__.startswith("transformers."):
        raise UnsupportedModelError(
            f"{name} is not one of Transformers' own classes, so it is not known that all its attention would be swapped. "
            "Patch the Transformers model inside it."
        )
    for part, path in parts.items():
        if not type(part).__module__.startswith("transformers."):
            raise UnsupportedModelError(
                f"{path!r} in this {name} is a {type(part).__name__}, which is not one of Transformers' own classes, so it is "
                "not known that all its attention would be swapped."
            )
    _check_forwards(model, hosts)
    if own_type in HOSTS:
        _check_inner(name, HOSTS[own_type], {path: part.config.model_type for part, path in parts.items()})
    else:
        _check_reachable(model, swapped)
    return hosts


def _check_forwards(model: PreTrainedModel, hosts: dict[str, Host]) -> None:
    """A forward that someone hung onto an attention module itself would be called in place of the swapped class's."""
    swapped = {name for host in hosts.values() for name, place in host.modules.items() if place}
    for path, module in model.named_modules():
        if type(module).__name__ in swapped and "forward" in vars(module) and "_old_forward" not in vars(module):
            raise UnsupportedModelError(
                f"The forward of {path!r} ({type(module).__name__}) was replaced on the module itself, so the swap would not take "
                f"effect there. Remove that replacement (`del module.forward`) first."
            )


def _check_inner(name: str, host: Host, inner: dict[str, str]) -> None:
    """A host that is swapped as a whole may hold hosts, and models without attention, and no others."""
    if host.towers or host.within:
        return
    for path, model_type in inner.items():
        if model_type not in HOSTS and model_type not in _WITHOUT_ATTENTION:
            raise UnsupportedModelError(
                f"This {name} holds a {model_type!r} model as {path!r}, which is not among those that can be swapped, and a "
                f"{host.model_type!r} model is swapped as a whole."
            )


def _check_reachable(model: PreTrainedModel, swapped: list[Host]) -> None:
    """A parent that is not in the table has to find its towers by their type, or it would load softmax again."""
    kept = [host for config in _nested(model.config) for host in swapped if type(config).model_type == host.model_type]
    by_type = {
        type(getattr(config, name)).model_type
        for config in _nested(model.config)
        for name, cls in config.sub_configs.items()
        if not issubclass(cls, PreTrainedConfig) and getattr(config, name, None) is not None
    }
    for host in swapped:
        if host not in kept or host.model_type not in by_type:
            raise UnsupportedModelError(
                f"{type(model).__name__} ({model.config.model_type!r}) holds a {host.model_type!r} model that can be swapped, "
                "but its config would build that one with softmax again when it is loaded, and this larger model is not in the "
                "table. Patch the inner model and save that one by itself."
            )


def _check_swapped(model: PreTrainedModel, hosts: dict[str, Host]) -> None:
    """Nothing may call itself SimA without being it: a host in whose modules no attention was found is refused."""
    done = {part.host for part in describe(model).swapped}
    for host in hosts.values():
        if (
            not host.towers
            and host.model_type not in done
            and host.model_type != model.config.model_type.removeprefix("sima_")
        ):
            raise UnsupportedModelError(
                f"No attention of the {host.model_type!r} model in this {type(model).__name__} could be swapped: it is not "
                "built as Transformers' own. Please report the versions that `sima-hf env` prints."
            )
    if not done:
        raise UnsupportedModelError(
            f"No attention to swap was found in this {type(model).__name__}: it is not built as Transformers' own, or has none."
        )


def _is_config(value: Any) -> bool:
    return isinstance(value, PreTrainedConfig)


def _nested(config: PreTrainedConfig) -> Iterator[PreTrainedConfig]:
    """A config and all configs in it."""
    yield config
    for value in vars(config).values():
        if _is_config(value):
            yield from _nested(value)


def _give_twin_configs(model: PreTrainedModel, hosts: dict[str, Host]) -> None:
    """Give every module a copy of its config, those of `hosts` as SimA ones; what modules shared, they share again.

    A decoder often holds a deep copy of its model's config, and models made from one config object share it.
    """
    twins: dict = {}
    for module in model.modules():
        for name, value in list(vars(module).items()):
            if _is_config(value):
                twin = copy.deepcopy(value, twins)
                for config in _nested(twin):
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
    """Turn a model that `patch_model` swapped back into what it was, bit for bit. Returns the same object.

    A model that was never patched is returned as it is.

    Raises:
        ValueError: it was loaded as SimA, so that there is nothing to turn back to; the text says what to do.
    """
    before = vars(model).get(_MEMORY) if isinstance(model, nn.Module) else None
    if before is None:
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
    """`patch_model` for the length of a `with` block; what was before comes back, also when the block fails."""
    configs = sima_configs(model) if isinstance(model, nn.Module) else []
    settings = [(config, config.attention_gain, config._attn_implementation) for config in configs]
    patch_model(model, gain=gain, backend=backend)
    try:
        yield model
    finally:
        for config, old_gain, old_implementation in settings:
            config.attention_gain = old_gain
            config._attn_implementation_internal = old_implementation
        if not settings:
            unpatch_model(model)

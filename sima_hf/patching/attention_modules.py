"""The attention modules of a model: which a swap changes, and which are SimA."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig

from ..errors import UnsupportedModelError
from .attentions import forward_class, replaced_base, replaced_classes
from .attentions.code_paths import is_attention, reaches_interface
from .configs import SimAHostConfig, SimAPartConfig, is_sima
from .hosts import HOSTS, Host, host_of_config


@dataclass(frozen=True, eq=False)
class Attention:
    """An attention module of a host, softmax or SimA, or a module beside one that a swap changes as well.

    Attributes:
        path: where it is in the model.
        module: the module.
        part: the model of the host that it belongs to.
        host: the row of that model.
        forward: the class in `attentions/` whose forward it takes; None where it goes through Transformers' interface.
        attends: whether it computes attention; False for a position bias or an encoder that only takes a forward.
        reached: whether a swap reaches it, by `forward` or through the interface.
    """

    path: str
    module: nn.Module
    part: nn.Module
    host: Host
    forward: type | None
    attends: bool
    reached: bool

    @property
    def sima_config(self) -> SimAHostConfig | None:
        """The config that gives its gain and backend; None where it is not SimA."""
        if not self.attends or not self.reached:
            return None
        config = vars(self.module).get("sima_config", _config_of(self.module))
        whole = isinstance(config, SimAHostConfig) and not isinstance(config, SimAPartConfig)
        return config if whole else None


@dataclass(frozen=True)
class Plan:
    """What a swap changes.

    Attributes:
        models: the models that take a SimA class, each with its row.
        attentions: the modules in them that take a forward or a config.
    """

    models: tuple[tuple[PreTrainedModel, Host], ...]
    attentions: tuple[Attention, ...]


def sima_attentions(model: nn.Module) -> list[Attention]:
    """Every attention of a model that computes SimA because it was swapped; native SimA models have none.

    Args:
        model: any module; it is only looked at, nothing runs.

    Returns:
        `Attention`s with path, module, host and `sima_config`, in the order of `named_modules()`.
    """
    found = {one.module: one for one in find_attentions(model, swapped_host_of) if one.sima_config is not None}
    return [found[module] for module in model.modules() if module in found]


def plan_conversion(model: nn.Module, host_of_module: Callable[[nn.Module], Host | None]) -> Plan:
    """Find what has to be converted in `model`; nothing is changed.

    Args:
        model: any module.
        host_of_module: the row of a module that is to be SimA, None for any other.

    Raises:
        UnsupportedModelError: an attention does neither have a forward in its host's row nor use Transformers' interface, so
            that softmax would stay in it.
    """
    rows = [(part, host_of_module(part)) for part in model.modules() if isinstance(part, PreTrainedModel)]
    attentions = tuple(find_attentions(model, host_of_module))
    for one in attentions:
        if not one.reached:
            cls = type(one.module)
            raise UnsupportedModelError(
                f"{one.path!r} in this {type(model).__name__} is a {cls.__name__} ({cls.__module__}), whose forward does not "
                f"use Transformers' attention interface, so its attention would not be SimA. {_remedy(one.module)}"
            )
    return Plan(tuple((part, host) for part, host in rows if host is not None), attentions)


def _remedy(module: nn.Module) -> str:
    if "forward" in vars(module):
        return "That forward is set on the module itself: `del module.forward`."
    if type(module).__module__.startswith("transformers."):
        return "Please report the versions that `sima-hf env` prints."
    return "Put Transformers' own class there, or have the forward take its function from `ALL_ATTENTION_FUNCTIONS`."


def find_attentions(model: nn.Module, host_of_module: Callable[[nn.Module], Host | None]) -> Iterator[Attention]:
    """The attentions of every host in `model`, outer models first; arguments as for `plan_conversion`."""
    seen = set()
    for path, part in model.named_modules():
        host = host_of_module(part)
        if host is None or host.towers or (host.within and not isinstance(part, PreTrainedModel)):
            continue
        if (host, part) in seen:  # a part of a model of the same host
            continue
        for inner, module in _own_modules(part, host.within):
            if (host, module) not in seen:
                seen.add((host, module))
                found = _attention(".".join(filter(None, (path, inner))), module, part, host)
                if found is not None:
                    yield found


def _attention(path: str, module: nn.Module, part: nn.Module, host: Host) -> Attention | None:
    forward_path = replaced_classes(host).get(replaced_base(type(module), host))
    forward = forward_class(forward_path) if forward_path else None
    if forward is not None and getattr(forward, "attends", True):
        return Attention(path, module, part, host, forward, attends=True, reached=True)
    attends = is_attention(module, path)
    reached = not attends or reaches_interface(module)
    if not reached and any(cls.__name__ in host.allowed for cls in type(module).__mro__):
        return None
    return Attention(path, module, part, host, forward, attends, reached) if forward or attends else None


def _own_modules(part: nn.Module, within: str) -> Iterator[tuple[str, nn.Module]]:
    """`part` and modules below it with their paths, those of other kinds of model inside it and those not `within` left out."""
    stack, model_type = [("", part)], type(_config_of(part)).model_type
    while stack:
        path, module = stack.pop()
        if not within or within in path.split("."):
            yield path, module
        for name, child in module.named_children():
            other = isinstance(child, PreTrainedModel) and type(child.config).model_type != model_type
            if not other:
                stack.append((f"{path}.{name}" if path else name, child))


def host_of(module: nn.Module) -> Host | None:
    """The row of a softmax model that can be swapped; None for any other module, SimA ones included.

    A few towers, such as GroupViT's, are plain modules of Transformers that hold a config.
    """
    config = vars(module).get("config")
    if not isinstance(config, PreTrainedConfig) or not type(module).__module__.startswith("transformers."):
        return None
    host = HOSTS.get(type(config).model_type)  # MaskFormer's config of a Swin says "swin" on the instance
    if host is None or (host.towers and not isinstance(module, PreTrainedModel)):
        return None
    return host if not host.within or hasattr(module, host.within) else None


def swapped_host_of(module: nn.Module) -> Host | None:
    """The row of a module that is SimA; None for any other."""
    config = _config_of(module)
    return host_of_config(config) if is_sima(config) else None


def _config_of(module: nn.Module) -> PreTrainedConfig | None:
    return vars(module).get("config") or vars(module).get("sima_config")

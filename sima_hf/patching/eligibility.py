"""What may be swapped: checks that change nothing, each with a sentence that says what stands in the way."""

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..errors import UnsupportedModelError
from .attention_modules import Attention, Plan, host_of, plan_conversion, swapped_host_of
from .attentions import replaced_base
from .attentions.code_paths import changes_forward, is_own_forward
from .configs import nested
from .host_table import WITHOUT_ATTENTION
from .hosts import HOSTS, Host, find_host
from .models import SimAHostModel


def check_not_remote_code(model: PreTrainedModel) -> None:
    """Refuse models loaded with `trust_remote_code`: their SimA classes are not this package's.

    Raises:
        UnsupportedModelError: with what to do.
    """
    for path, part in model.named_modules():
        kind = str(getattr(getattr(part, "config", None), "model_type", ""))
        if type(part).__module__.startswith("transformers_modules.") and kind.startswith("sima"):
            raise UnsupportedModelError(
                f"{f'{path!r} in this model' if path else 'This'} {type(part).__name__} was loaded by the code that came with it "
                f"({type(part).__module__}), before sima_hf was imported or with `trust_remote_code=True`. Load it again now, "
                "without this argument."
            )


def plan(model: PreTrainedModel) -> tuple[dict[str, Host], Plan]:
    """What a swap of `model` would change. Nothing is changed.

    Returns:
        The rows of what is to be swapped, and of parts that are SimA already, by model_type; and the `Plan`.

    Raises:
        UnsupportedModelError: nothing can be swapped, or not all that would have to be.
    """
    name, own_type = type(model).__name__, model.config.model_type.removeprefix("sima_")
    parts = {part: path for path, part in model.named_modules() if isinstance(part, PreTrainedModel)}
    rows = (host_of(module) or swapped_host_of(module) for module in model.modules())
    hosts = {host.model_type: host for host in rows if host is not None}
    swapped = [host for host in hosts.values() if not host.towers]
    if not swapped:
        find_host(own_type)
        raise UnsupportedModelError(
            f"{name} holds none of the models that SimA is swapped into: its towers are not in it."
        )
    for part, path in parts.items():
        if not type(part).__module__.startswith("transformers.") and not isinstance(part, SimAHostModel):
            subject = f"{path!r} in this {name} is a {type(part).__name__}, which" if path else name
            raise UnsupportedModelError(
                f"{subject} is not one of Transformers' own classes, so it is not known that all its attention would be swapped. "
                f"{_remedy(part)}"
            )

    def row(module: nn.Module) -> Host | None:
        """By its config, whatever its class: a copy of that config will be SimA's."""
        config = vars(module).get("config")
        known = isinstance(config, PreTrainedConfig)
        return hosts.get(type(config).model_type.removeprefix("sima_")) if known else None

    found = plan_conversion(model, row)
    for attention in found.attentions:
        _check_forward(name, attention)
    if own_type in HOSTS:
        _check_inner(name, HOSTS[own_type], {path: part.config.model_type for part, path in parts.items()})
    else:
        _check_reachable(model, swapped)
    _check_found(model, swapped, found)
    return hosts, found


def _remedy(model: PreTrainedModel) -> str:
    if type(model).__module__.startswith("torch."):
        return "Patch the model first, then have torch change its class (fully_shard, parametrizations)."
    return "Patch the Transformers model inside it."


def _check_forward(name: str, attention: Attention) -> None:
    """A forward of somebody else's, in a subclass or on the module itself, would be called in place of SimA's."""
    module, cls = attention.module, type(attention.module)
    if attention.forward is None or issubclass(cls, attention.forward):
        return
    own = vars(module).get("forward")
    if own is not None and "_old_forward" not in vars(module) and not is_own_forward(module, own, cls):
        raise UnsupportedModelError(
            f"The forward of {attention.path!r} ({cls.__name__}) in this {name} was replaced on the module itself, so the swap would "
            "not take effect there. Remove that replacement (`del module.forward`) first."
        )
    original = replaced_base(cls, attention.host)
    if changes_forward(cls, original):
        raise UnsupportedModelError(
            f"{attention.path!r} in this {name} is a {cls.__name__} ({cls.__module__}), which overrides the forward of "
            f"{original.__name__} that SimA takes the place of. Put a plain {original.__name__} with its weights there first, or "
            "have the override call `super().forward` for all attention."
        )


def _check_inner(name: str, host: Host, inner: dict[str, str]) -> None:
    """A host that is swapped as a whole may hold hosts, and models without attention, and no others."""
    if host.towers or host.within:
        return
    for path, model_type in inner.items():
        if model_type.removeprefix("sima_") not in HOSTS and model_type not in WITHOUT_ATTENTION:
            raise UnsupportedModelError(
                f"This {name} holds a {model_type!r} model as {path!r}, which is not among those that can be swapped, and a "
                f"{host.model_type!r} model is swapped as a whole."
            )


def _check_reachable(model: PreTrainedModel, swapped: list[Host]) -> None:
    """A parent that is not in the table has to find its towers by their type, or it would load softmax again."""
    by_type = {
        type(getattr(config, name)).model_type.removeprefix("sima_")
        for config in nested(model.config)
        for name, cls in config.sub_configs.items()
        if not issubclass(cls, PreTrainedConfig) and getattr(config, name, None) is not None
    }
    for host in swapped:
        if host.model_type not in by_type:
            raise UnsupportedModelError(
                f"{type(model).__name__} ({model.config.model_type!r}) holds a {host.model_type!r} model that can be swapped, "
                "but its config would build that one with softmax again when it is loaded, and this larger model is not in the "
                "table. Patch the inner model and save that one by itself."
            )


def _check_found(model: PreTrainedModel, swapped: list[Host], found: Plan) -> None:
    """Nothing may call itself SimA without being it: a host in whose modules there is no attention is refused."""
    done = {attention.host for attention in found.attentions if attention.attends}
    for host in swapped:
        if host not in done and host.model_type != model.config.model_type.removeprefix("sima_"):
            raise UnsupportedModelError(
                f"No attention of the {host.model_type!r} model in this {type(model).__name__} could be swapped: it is not "
                "built as Transformers' own. Please report the versions that `sima-hf env` prints."
            )
    if not done:
        raise UnsupportedModelError(
            f"No attention to swap was found in this {type(model).__name__}: it is not built as Transformers' own, or has none."
        )

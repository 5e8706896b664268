"""SimA<Host> models: subclasses of the host's own classes, and the conversion of live modules to them."""

import functools
import types

from torch import nn
from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from ..errors import UnsupportedModelError
from .attention_modules import Attention, Plan, plan_conversion, swapped_host_of
from .attentions import replaced_base, replaced_classes, swapped_class
from .configs import SimAHostConfig, SimAParentConfig, SimAPartConfig, config_class, nested, sima_implementation
from .hosts import HOME, PREFIX, Host
from .saving import check_saved_whole, check_saved_within
from .zero_tokens import zero_tensors


class SimAHostModel:
    """Mixin of swapped models: converts the models inside as well, and refuses softmax as `attn_implementation`."""

    def __init__(self, config: PreTrainedConfig, *args, **kwargs):
        super().__init__(config, *args, **kwargs)
        convert(plan_conversion(self, swapped_host_of))

    @classmethod
    def is_custom_code(cls) -> bool:
        """No: weights are drawn by the host's own code. Of any other, Transformers passes over modules without parameters of their own,
        and what a host draws through those (CLIP's projections) would have another scale.
        """
        return False

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self:  # it comes last
            for tensor in zero_tensors(self):
                tensor.draw()

    def save_pretrained(self, save_directory, *args, save_original_format: bool = False, **kwargs) -> None:
        """Save as any Transformers model, under the names that `state_dict()` has.

        By default Transformers writes most ViTs under the names of their first releases. It reads both, but its Trainer
        does not translate them when it resumes, and goes on without the weights (seen with 5.23).

        Raises:
            ValueError: a part of the model is SimA, or has a gain, of which its config does not know.
        """
        check_saved_whole(self)
        super().save_pretrained(save_directory, *args, save_original_format=save_original_format, **kwargs)

    def state_dict(self, *args, **kwargs) -> dict:
        """As the host's. A larger model whose config does not know that this part of it is SimA is not saved so.

        Raises:
            ValueError: such a model is being saved as a folder; for a state dict alone there is a warning.
        """
        check_saved_within(self)
        return super().state_dict(*args, **kwargs)

    def get_correct_attn_implementation(self, requested_attention: str | None, *args, **kwargs) -> str:
        """Transformers' choice of attention, restricted to SimA's where this model computes attention itself."""
        if isinstance(self.config, (SimAParentConfig, SimAPartConfig)):
            return super().get_correct_attn_implementation(requested_attention, *args, **kwargs)
        return sima_implementation(requested_attention, type(self).__name__, self.config.attention_mechanism)

    def set_attn_implementation(self, attn_implementation: str | dict, *args, **kwargs) -> None:
        """Choose among SimA's backends, or name the peer that it computes; ValueError for any other.

        A model made of several takes a dict by the names of its sub-configs as well, for the parts that are not SimA.
        """
        config, owner = self.config, type(self).__name__
        if isinstance(attn_implementation, dict):
            for name in getattr(config, "_sima_towers", ()):
                if name in attn_implementation:
                    sima_implementation(attn_implementation[name], owner, getattr(config, name).attention_mechanism)
            if not isinstance(config, SimAParentConfig):
                sima_implementation(attn_implementation.get(""), owner, config.attention_mechanism)
            super().set_attn_implementation(attn_implementation, *args, **kwargs)
            return
        chosen = [
            (held, sima_implementation(attn_implementation, owner, held.attention_mechanism))
            for held in sima_configs(self)
        ]
        for held, name in chosen:
            held.choose_backend(name)


def configs_of(module: nn.Module) -> dict[str, PreTrainedConfig]:
    """The configs that a module itself holds, by attribute."""
    return {name: value for name, value in vars(module).items() if isinstance(value, PreTrainedConfig)}


def sima_configs(model: nn.Module) -> list[SimAHostConfig]:
    """Every SimA<Host>Config that a module of `model` holds, or a parent's config: it may name a tower's in another object."""
    held = (config for module in model.modules() for config in configs_of(module).values())
    found = {id(one): one for config in held for one in nested(config)}
    return [one for one in found.values() if isinstance(one, SimAHostConfig)]


@functools.cache
def model_class(base: type[PreTrainedModel], host: Host) -> type[PreTrainedModel]:
    """The SimA<Host> class of one of a host's model classes; its checkpoint keys are converted as the host's are."""
    made = type(
        f"{PREFIX}{base.__name__}",
        (SimAHostModel, base),
        {
            "__module__": HOME,
            "__doc__": f"{base.__name__} with SimA attention; the host's own parameters and methods.",
            "config_class": config_class(host),
            "softmax_class": base,
        },
    )
    globals()[made.__name__] = made  # where classes.py finds it for pickle
    for ours, theirs in ((made.__name__, base.__name__), (made.config_class.model_type, host.model_type)):
        share_key_conversion(ours, theirs)
    return made


def share_key_conversion(ours: str, theirs: str) -> None:
    """Have checkpoint keys of one class or type converted as those of another.

    Transformers renames keys for its own classes only. Without this, a base model loaded from a classifier's folder would be
    random where the host renames keys.
    """
    mapping = get_checkpoint_conversion_mapping(theirs)
    if mapping is not None:
        register_checkpoint_conversion_mapping(ours, mapping, overwrite=True)


def convert(plan: Plan) -> None:
    """Carry out a plan, once the models in it have SimA configs: model classes, and attention that is the host's code."""
    for part, host in plan.models:
        if not isinstance(part, SimAHostModel):
            set_model_class(part, model_class(type(part), host))
    configs = {part: part.config for part in dict.fromkeys(attention.part for attention in plan.attentions)}
    configs = {part: x.of_part() if isinstance(x, SimAPartConfig) else x for part, x in configs.items()}
    for attention in plan.attentions:
        _convert_attention(attention, configs[attention.part])


def _convert_attention(attention: Attention, config: SimAHostConfig) -> None:
    module, host = attention.module, attention.host
    if attention.forward is None:
        if host.within:
            module.config = config
        return
    if isinstance(module, attention.forward):
        return
    original = replaced_base(type(module), host)
    module.__class__ = swapped_class(type(module), original, replaced_classes(host)[original])
    if module.attends:
        module.sima_config = config
    if "_old_forward" in vars(module):  # accelerate's hooks call the forward that they found
        module._old_forward = types.MethodType(type(module).forward, module)


def set_model_class(model: PreTrainedModel, cls: type[PreTrainedModel]) -> None:
    """Give a live model another class, and tell Transformers' recorder of hidden states and attentions about it."""
    from transformers.utils import output_capturing

    recordable = model._can_record_outputs
    model.__class__ = cls
    registry = output_capturing._CAN_RECORD_REGISTRY
    key = model if type(registry) is not dict else str(cls)  # older Transformers keep a plain dict by name
    registry[key] = recordable


def build_placeholder(cls: type[nn.Module], config: PreTrainedConfig, *args, **kwargs) -> nn.Module:
    """An attention of the host's class, which `convert` exchanges as soon as the model around it is built.

    Raises:
        UnsupportedModelError: the config is not a SimA one, so that the attention would stay softmax.
    """
    if not isinstance(config, SimAHostConfig):
        raise UnsupportedModelError(
            f"`attn_implementation={config._attn_implementation!r}` does not reach {cls.__name__}, which computes attention "
            "itself. Load the model without it, then call sima_hf.patch_model(model)."
        )
    return cls(config, *args, **kwargs)

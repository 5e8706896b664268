"""Patch a live model, in place, and undo it."""

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from ..errors import UnsupportedModelError
from ..ops import backend_names
from .attention_modules import host_of, sima_attentions
from .attentions.mechanisms import DEFAULT_GAIN, SIMA, check_attention, check_offered
from .classes import register_host
from .configs import SimAHostConfig, config_class, nested
from .description import describe
from .eligibility import check_not_remote_code, plan
from .hosts import Host
from .models import SimAHostModel, configs_of, convert, sima_configs
from .saving import knows_its_parts
from .undo import RECORD, WHOLE, all_or_nothing, rebind_forwards, record_swap, states_before, undo_swap
from .zero_tokens import draw_zero_tokens, restore_zeros


logger = logging.get_logger(__name__)

# What `patched` puts back where the model was SimA already.
_SETTINGS = ("attention_gain", "attention_mechanism", "_attn_implementation_internal", "_sima_implementation")


def patch_model(
    model: PreTrainedModel,
    gain: str = DEFAULT_GAIN,
    backend: str = "auto",
    verify: Any = None,
    attention: str = SIMA,
) -> PreTrainedModel:
    """Swap softmax attention for SimA, in place, with the same parameters.

    The model becomes of class `SimA<Host>...` with a `SimA<Host>Config`. In a model made of several, its vision tower does;
    a parent whose config finds its tower by type (LLaVA, UperNet) keeps its own class, others (CLIP) become `SimA<Parent>`.
    Text sides stay as they are. Nothing else in the process changes: the model gets configs of its own, others keep theirs.

    Patch the whole model, not a part of it (`model.vit`, a tower): only the whole can be saved as SimA, and saving a model of
    which a part alone was patched is refused.

    Args:
        model: a Transformers model listed by `supported_models()`, or one that holds such a model as a part of its own type. A
            model that is swapped already takes the new attention, gain and backend.
        gain: "tokens" or "none", as for `sima_attention`; saved as `config.attention_gain`. An option of SimA alone.
        backend: "auto" or a name from `sima_hf.ops.backend_report()`; an option of SimA alone.
        verify: inputs for one forward, keyword arguments or a tensor; `certify` then has to find no softmax in what was
            swapped, or the model is turned back.
        attention: "sima", or a drop-in of `sima_hf.peers` in its place, such as "inline"; saved as `config.attention_mechanism`. Class
            and model type are SimA's all the same: they are what keeps softmax out.

    Returns:
        The same object. `sima_hf.patching.describe(model)` says what was swapped and what was left.

    Raises:
        UnsupportedModelError (a ValueError): the model cannot be swapped, or not to this attention, with the reason; it is left
            untouched.
        TypeError: it is not a Transformers model.
        ValueError: unknown attention, gain or backend, or a gain or backend for a peer, which has none.
    """
    if not isinstance(model, PreTrainedModel):
        raise TypeError(
            f"patch_model takes a Transformers model (PreTrainedModel), got {type(model).__name__}. Where one is wrapped, "
            "give the model inside: `model.get_base_model()` of PEFT, `model.module` of DistributedDataParallel, "
            "`model._orig_mod` of torch.compile, `pipe.model` of a pipeline."
        )
    check_attention(attention, gain)
    check_not_remote_code(model)
    known = ("auto", *backend_names())
    if backend not in known:
        raise ValueError(f"`backend` must be one of {', '.join(map(repr, known))}, got {backend!r}.")
    if attention != SIMA and backend != "auto":
        raise ValueError(
            f"`backend` is an option of SimA alone, got {backend!r} with attention={attention!r}, which plain torch computes. Leave it "
            "out."
        )
    new = not sima_configs(model) or any(host_of(module) is not None for module in model.modules())
    new = new or not knows_its_parts(model)
    if new:
        _swap(model, attention)
    else:
        check_offered(attention, type(model).__name__, {one.host for one in sima_attentions(model)})
    _choose(model, attention, gain, None if backend == "auto" else f"sima_{backend}")
    if new and verify is not None:
        _verify(model, verify)
    report = describe(model)
    if new and report.left:
        logger.warning(str(report))
    else:
        logger.info(str(report))
    return model


def _choose(model: PreTrainedModel, attention: str, gain: str, implementation: str | None) -> None:
    for config in sima_configs(model):
        config.attention_mechanism, config.attention_gain = attention, gain
        config.choose_backend(implementation)


def _swap(model: PreTrainedModel, attention: str) -> None:
    hosts, found = plan(model)
    check_offered(attention, type(model).__name__, hosts.values())
    for host in hosts.values():
        register_host(host)
    modules = list(model.modules())
    with all_or_nothing(modules):
        states = states_before(modules)
        copies = _copy_configs(modules, hosts)
        convert(found)
        for state in states:
            if type(state.module) is not state.cls:
                rebind_forwards(state.module, state.cls)
        record_swap(model, states, copies)
        try:
            draw_zero_tokens(model)
        except BaseException:
            restore_zeros(model)
            raise


def _copy_configs(modules: list[nn.Module], hosts: dict[str, Host]) -> dict[int, PreTrainedConfig]:
    """Give every module a copy of its config, those of `hosts` as SimA ones; what modules shared, they share again.

    A decoder often holds a deep copy of its model's config, and models made from one config object share it. Returns the
    copies by the identity of what they were made from.
    """
    copies: dict = {}
    for module in modules:
        for name, value in configs_of(module).items():
            vars(module)[name] = copy.deepcopy(value, copies)
            for config in nested(vars(module)[name]):
                host = hosts.get(type(config).model_type)
                if host is not None:
                    vars(config).pop("model_type", None)
                    config.__class__ = config_class(host)
                    if isinstance(config, SimAHostConfig):
                        config.choose_backend(None)
    return copies


def _verify(model: PreTrainedModel, inputs: Any) -> None:
    from .certificate import certify

    try:
        report = certify(model, inputs)
        if report.in_swapped:
            raise UnsupportedModelError(
                f"Softmax ran where SimA was swapped in, so the model was turned back. This should not happen; please report it:\n{report}"
            )
    except BaseException:
        _undo(model)
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
    if not isinstance(model, nn.Module):
        return model
    if RECORD in vars(model):
        while RECORD in vars(model):  # patched again since, for softmax layers that came into it
            _undo(model)
        return model
    if isinstance(model, PreTrainedModel):
        check_not_remote_code(model)
    if isinstance(model, SimAHostModel) or sima_configs(model):
        raise ValueError(_why_not_undone(model))
    return model


def _undo(model: nn.Module) -> None:
    undo_swap(model)
    restore_zeros(model)


def _why_not_undone(model: nn.Module) -> str:
    name, whole = type(model).__name__, vars(model).get(WHOLE)
    hosts = (cls.__name__ for cls in type(model).__mro__ if cls.__module__.startswith("transformers."))
    load = f"load its state_dict into a {next(hosts, name)} with softmax."
    if whole is not None:
        return f"This {name} was swapped as part of a {whole}. Call unpatch_model on that; where it is gone, {load}"
    return f"This {name} was made or loaded as SimA, not patched. To run its weights with softmax, {load}"


@contextlib.contextmanager
def patched(
    model: PreTrainedModel, gain: str = DEFAULT_GAIN, backend: str = "auto", attention: str = SIMA
) -> Iterator[PreTrainedModel]:
    """`patch_model` for the length of a `with` block; what was before comes back, also when the block fails.

    Args:
        model, gain, backend, attention: as for `patch_model`. Of a model that is swapped already, these three come back.

    Yields:
        The same object, swapped.

    Raises:
        UnsupportedModelError, TypeError, ValueError: as `patch_model`, before the block begins.
    """
    configs = sima_configs(model) if isinstance(model, nn.Module) else []
    settings = [(config, {name: x for name, x in vars(config).items() if name in _SETTINGS}) for config in configs]
    before = getattr(model, RECORD, None)
    patch_model(model, gain=gain, backend=backend, attention=attention)
    try:
        yield model
    finally:
        if getattr(model, RECORD, None) is not before:
            _undo(model)
        for config, values in settings:
            for name in _SETTINGS:
                vars(config).pop(name, None)
            vars(config).update(values)

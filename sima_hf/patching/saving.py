"""Whether a saved folder would come back as its model runs: config.json has to name every SimA part in it, with attention and gain."""

import sys
from types import FrameType

from transformers import PreTrainedModel
from transformers.configuration_utils import PreTrainedConfig
from transformers.utils import logging

from .attention_modules import sima_attentions
from .attentions.mechanisms import DEFAULT_GAIN, SIMA
from .configs import SimAHostConfig


def check_saved_whole(model: PreTrainedModel) -> None:
    """Whether config.json will say what the modules of `model` compute.

    Raises:
        ValueError: a part is SimA, or has a gain, of which the config of `model` does not know.
    """
    reason = why_lost(model)
    if reason is not None:
        raise ValueError(reason)


def check_saved_within(part: PreTrainedModel) -> None:
    """The same for the model whose state dict is being taken, where `part` is only a part of it.

    A part does not know the model around it, so the callers are looked at. Only a warning where `save_pretrained` is not among
    them: a state dict alone may go back into the same model.

    Raises:
        ValueError: as `check_saved_whole`, while a folder is being written.
    """
    model, saving = _caller(sys._getframe(2), part)
    reason = why_lost(model) if model is not part else None
    if reason is not None and saving:
        raise ValueError(reason)
    if reason is not None:
        logging.get_logger(__name__).warning_once(reason)


def _caller(frame: FrameType | None, part: PreTrainedModel) -> tuple[PreTrainedModel, bool]:
    """The outermost model whose `state_dict` is being called, and whether for a folder with its config."""
    model, saving = part, False
    while frame is not None:
        name = frame.f_code.co_name
        if name in ("state_dict", "save_pretrained") and isinstance(frame.f_locals.get("self"), PreTrainedModel):
            model = frame.f_locals["self"] if name == "state_dict" else model
            saving |= name == "save_pretrained"
        elif name == "save_model":
            saving |= str(frame.f_globals.get("__name__")).startswith("transformers.")  # Trainer's
        frame = frame.f_back
    return model, saving


def why_lost(model: PreTrainedModel) -> str | None:
    """The sentence for a part of `model` that its config.json would bring back as something else; None where there is none."""
    settings = _settings_in_json(model.config)
    for path, config in _sima_parts(model):
        gain, here = config.attention_gain, f"{path or 'this model'!r} in this {type(model).__name__}"
        known = settings.get(config.model_type)
        if known is None:
            return (
                f"{here} computes SimA attention ({config.model_type!r}), of which the config of the whole, "
                f"{model.config.model_type!r}, does not know: a saved folder would load as softmax. Swap the whole with "
                "sima_hf.patch_model(model), or save that part by itself."
            )
        if config.attention_mechanism not in {mechanism for mechanism, _ in known}:
            return (
                f"{here} runs with attention_mechanism {config.attention_mechanism!r}, but config.json would say another. Choose one for "
                f"the whole: sima_hf.patch_model(model, attention={config.attention_mechanism!r})."
            )
        if (config.attention_mechanism, gain) not in known:
            return (
                f"{here} runs with attention_gain {gain!r}, but config.json would say another. Choose one for the whole: "
                f"sima_hf.patch_model(model, gain={gain!r})."
            )
    return None


def knows_its_parts(model: PreTrainedModel) -> bool:
    """Whether the config of `model` names the type of every SimA part in it."""
    return {config.model_type for _, config in _sima_parts(model)} <= _settings_in_json(model.config).keys()


def _sima_parts(model: PreTrainedModel) -> list[tuple[str, SimAHostConfig]]:
    """The config of every SimA attention in a model, with the path of the part that it belongs to."""
    paths = {module: path for path, module in model.named_modules()}
    found = {id(one.sima_config): (paths[one.part], one.sima_config) for one in sima_attentions(model)}
    return list(found.values())


def _settings_in_json(config: PreTrainedConfig) -> dict[str, set[tuple[str, str]]]:
    """model_type -> pairs of mechanism and gain, of all that config.json would say."""
    found, queue = {}, [config.to_dict()]
    while queue:
        value = queue.pop()
        if isinstance(value, dict):
            setting = value.get("attention_mechanism", SIMA), value.get("attention_gain", DEFAULT_GAIN)
            found.setdefault(str(value.get("model_type")), set()).add(setting)
            queue += value.values()
        elif isinstance(value, list):
            queue += value
    return found

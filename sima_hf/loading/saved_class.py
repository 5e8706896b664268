"""Load a model as the class that saved it."""

import importlib
from collections.abc import Iterator, Mapping
from typing import Any

import transformers
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel

from ..models.sima import modeling_sima
from ..patching import classes
from ..patching.hosts import auto_classes


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of_text(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


# Entry of config.json -> what it has to be, if it is there at all.
_ENTRIES = {
    "model_type": (_is_text, "text"),
    "transformers_weights": (_is_text, "text"),
    "architectures": (_is_list_of_text, "a list of class names"),
}

# Arguments of `from_pretrained` that say which of a model's files are read, and how: the config has to be of the same.
_SOURCE = ("revision", "subfolder", "token", "cache_dir", "force_download", "local_files_only", "trust_remote_code")


def load_saved_class(name_or_path: str) -> PreTrainedModel:
    """The model of a folder or Hub name, in eval mode, as the class that its config names; AutoModel's choice where it names none.

    Raises:
        OSError, ValueError: as `from_pretrained`, with a sentence.
        RuntimeError: the weights have other shapes than the config says.
    """
    return load_with_report(name_or_path)[0]


def load_with_report(name_or_path: str, **kwargs: Any) -> tuple[PreTrainedModel, dict[str, Any]]:
    """As `load_saved_class`, and what `from_pretrained` reports: `missing_keys`, `unexpected_keys`, `mismatched_keys`.

    Args:
        name_or_path: folder or Hub name.
        kwargs: for `from_pretrained`.

    Raises:
        OSError, ValueError, RuntimeError: as `load_saved_class`.
    """
    what = f"The config.json of {name_or_path}"
    place = {name: kwargs[name] for name in _SOURCE if name in kwargs}
    try:
        config = AutoConfig.from_pretrained(name_or_path, **place)
    except TypeError:  # of a model_type that is a list or a mapping
        check_entries(PreTrainedConfig.get_config_dict(name_or_path, **place)[0], what)
        raise
    check_entries({name: getattr(config, name, None) for name in _ENTRIES}, what)
    cls = saved_class(config, what) or _registered(config) or AutoModel
    model, report = cls.from_pretrained(name_or_path, output_loading_info=True, **kwargs)
    return model.eval(), report


def check_entries(config: Mapping[str, Any], what: str) -> None:
    """Whether the entries that say what to load are of the right kind; Transformers looks into them before it checks.

    Args:
        config: what config.json holds.
        what: the config in words, with which the errors begin.

    Raises:
        ValueError: one of them is of another kind.
    """
    for name, (fits, wanted) in _ENTRIES.items():
        value = config.get(name)
        if value is not None and not fits(value):
            raise ValueError(
                f"{what} should have {wanted} as {name!r}, but it has {value!r}. It was edited by hand; save the model anew."
            )


def saved_class(config: PreTrainedConfig, what: str) -> type[PreTrainedModel] | None:
    """The class that saved a model: one of sima_hf or of Transformers.

    Args:
        config: the model's, whose `architectures` name the class.
        what: the config in words, with which the errors begin.

    Returns:
        The class; None if the config names none, or one that is neither sima_hf's nor Transformers'.

    Raises:
        ValueError: class and model_type are not of one kind, and one of them is SimA.
    """
    names = config.architectures
    found = (getattr(place, names[0], None) for place in _modules(config)) if names else ()
    cls = next((cls for cls in found if isinstance(cls, type) and issubclass(cls, PreTrainedModel)), None)
    if cls is None:
        return None
    typed = type(config).model_type
    ours = issubclass(cls, (classes.SimAHostModel, modeling_sima.SimAPreTrainedModel))
    if (ours or typed.startswith("sima")) and cls.config_class.model_type != typed:
        raise ValueError(
            f"{what} contradicts itself: its model_type is {typed!r}, but the class under `architectures`, {names[0]}, is one of "
            f"{cls.config_class.model_type!r}, so it would load as one thing here and as another elsewhere. It was edited by hand; "
            "save the model anew."
        )
    return cls


def _modules(config: PreTrainedConfig) -> Iterator[object]:
    """Modules in which the class that a config names may be."""
    yield from (modeling_sima, classes, transformers)
    name = type(config).__module__.replace(".configuration_", ".modeling_")
    if name.startswith("transformers."):
        yield importlib.import_module(name)


def _registered(config: PreTrainedConfig) -> type[PreTrainedModel] | None:
    """The class that a config names, where somebody else has entered it in Transformers' tables."""
    known = {cls.__name__: cls for _, found in auto_classes(type(config)) for cls in found}
    return known.get((config.architectures or [""])[0])

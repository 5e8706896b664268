"""Load a model as the class that saved it."""

import transformers
from transformers import AutoConfig, AutoModel, PreTrainedModel


def load_saved_class(name_or_path: str) -> PreTrainedModel:
    """The model of a folder or Hub name, in eval mode, as the class that its config names; AutoModel's choice where it names none.

    Raises:
        OSError, ValueError: as `from_pretrained`, with a sentence.
    """
    config = AutoConfig.from_pretrained(name_or_path)
    known = {cls.__name__: cls for cls in _listed(config)}
    name = (config.architectures or [""])[0]
    cls = known.get(name) or getattr(transformers, name or "AutoModel", AutoModel)
    return cls.from_pretrained(name_or_path).eval()


def _listed(config):
    """Every model class that Transformers' Auto classes have for a config, ours included."""
    from transformers.models.auto import modeling_auto

    for auto in vars(modeling_auto).values():
        mapping = getattr(auto, "_model_mapping", None)
        if mapping is not None and type(config) in mapping:
            classes = mapping[type(config)]
            yield from classes if isinstance(classes, tuple) else (classes,)

"""What is different where a model brings its own code: the text that stands for a definition of the package.

Several such models may be in one process, and each runs its own: the name of its attention function, by which Transformers finds
it, is made of the file's content.
"""

from ..attentions.mechanisms import DEFAULT_GAIN, SIMA, title_of


def own_texts(mechanism: str) -> dict[tuple[str, str], str]:
    """(module within the package, name) -> the text in its place, in the code of a model that computes this attention."""
    names = (SIMA, "sima_eager") if mechanism == SIMA else (mechanism,)
    facts = {
        "mechanism": mechanism,
        "title": title_of(mechanism),
        "names": ", ".join(f'"{name}"' for name in names),
        "gain": DEFAULT_GAIN,
    }
    return {
        ("patching.attentions", "swapped_class"): _CLASS,
        ("attention", "attention_function_names"): _OWN_NAMES,
        ("attention", "register_attention_functions"): _FUNCTION
        if mechanism == SIMA
        else _fill(_PEER_FUNCTION, facts),
        ("patching.attentions.mechanisms", "function_names"): _FUNCTION_NAMES,
        ("patching.attentions.mechanisms", "check_attention"): _CHECK
        if mechanism == SIMA
        else _fill(_PEER_CHECK, facts),
        ("patching.attentions.mechanisms", "DEFAULT_ATTENTION"): f'DEFAULT_ATTENTION = "{mechanism}"',
        ("patching.configs", "sima_implementation"): _fill(_IMPLEMENTATION, facts),
        ("patching.saving", "check_saved_whole"): _SAVED_WHOLE,
        ("ops.group", "group_attention"): _GROUP_ATTENTION,
    }


def _fill(text: str, facts: dict[str, str]) -> str:
    for name, value in facts.items():
        text = text.replace(f"<{name}>", value)
    return text


_OWN_NAMES = '''@functools.cache
def attention_function_names() -> tuple[str, ...]:
    """The name of the attention function of this very file."""
    import hashlib
    from pathlib import Path

    return (f"sima_{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}",)'''
_FUNCTION = '''def register_attention_functions() -> None:
    """Make Transformers know this file's attention, and how its masks are to be made."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for name in attention_function_names():
        AttentionInterface.register(name, sima_attention_forward)
        AttentionMaskInterface.register(name, sima_mask)'''
_PEER_FUNCTION = '''def register_attention_functions() -> None:
    """Make Transformers know this file's attention, and how its masks are to be made."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for name in attention_function_names():
        forward = functools.partial(peer_attention_forward, mechanism=PEERS["<mechanism>"])
        AttentionInterface.register(name, forward)
        AttentionMaskInterface.register(name, sima_mask)'''
_FUNCTION_NAMES = '''def function_names(mechanism: str | None = None) -> list[str]:
    """The name of the attention function of the file beside this one."""
    return list(attention_function_names())'''
_CHECK = '''def check_attention(name: str, gain: str = DEFAULT_GAIN) -> None:
    """Raise ValueError unless this is the attention that the file beside this one computes, with a gain that it knows."""
    check_gain(gain)
    if name != SIMA:
        raise ValueError(f"`attention_mechanism` must be 'sima' for the code beside this model, got {name!r}; others need sima_hf.")'''
_PEER_CHECK = '''def check_attention(name: str, gain: str = DEFAULT_GAIN) -> None:
    """Raise ValueError unless this is the attention that the file beside this one computes."""
    if (name, gain) != ("<mechanism>", DEFAULT_GAIN):
        raise ValueError(
            f"`attention_mechanism` must be '<mechanism>' and `attention_gain` '<gain>' for the code beside this model, got {name!r} and "
            f"{gain!r}; others need sima_hf."
        )'''
# A model that is being loaded has Transformers' own classes; subclasses come with live models.
_CLASS = '''def swapped_class(cls: type[nn.Module], original: type[nn.Module], forward_path: str) -> type[nn.Module]:
    """SimA's class for a module of the host's."""
    return mixed_class(original, forward_path)'''
CLASSES_OF_PARTS = '''def __getattr__(name: str):
    """A config class that was made for a part of this model, by its name: what pickle looks up."""
    return getattr(importlib.import_module(SimAHostConfig.__module__), name)'''
_SAVED_WHOLE = '''def check_saved_whole(model: PreTrainedModel) -> None:
    """Parts are not swapped by this file, so config.json says what they run."""'''
# Context parallelism is a matter of who runs a model, who can install sima_hf.
_GROUP_ATTENTION = '''def group_attention(*_, **__) -> torch.Tensor:
    """Raise: the code beside a model does not split tokens over processes."""
    raise ValueError("`group` needs sima_hf: `pip install sima-hf` and call sima_hf.sima_attention.")'''
_IMPLEMENTATION = '''def sima_implementation(name: str | None, owner: str, mechanism: str = "<mechanism>") -> str:
    """The attention function of the file beside this one, whichever of its names comes, or none.

    Raises:
        ValueError: it is one that sima_hf has, or one that would bring softmax back.
    """
    own = function_names()[0]
    if name in (None, IN_FILES, <names>, own):
        return own
    if name.startswith("sima"):
        raise ValueError(f"`attn_implementation={name!r}` needs sima_hf: `pip install sima-hf`, import it, and load {owner} again.")
    raise ValueError(
        f"{owner} computes <title> attention, which `attn_implementation={name!r}` does not; leave it out. In a model made of several, "
        "a dict such as {'text_config': 'sdpa'} reaches the parts that are not SimA."
    )'''

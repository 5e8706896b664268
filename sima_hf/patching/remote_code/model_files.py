"""The code that is published beside a model's weights, so that Transformers can load them without sima_hf.

Native models bring their own files, as they are. A swapped model brings three that `bundle` cuts from the package's sources: the
attention, what its configs and checks are made of, and the classes of this very model. Nothing is a second copy kept by hand.
"""

import importlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from transformers import PreTrainedConfig

from ...errors import PublishError
from ...models.sima import configuration_sima
from ...models.sima.configuration_sima import SimAConfig
from ...version import __version__
from ..hosts import HOSTS, PREFIX, Host, auto_classes, host_config_class, host_of_config
from .source_bundle import Cut, bundle


NATIVE_FILES = ("configuration_sima.py", "embeddings_sima.py", "modeling_sima.py")
NATIVE_CLASSES = {
    "AutoConfig": "configuration_sima.SimAConfig",
    "AutoModel": "modeling_sima.SimAModel",
    "AutoModelForImageClassification": "modeling_sima.SimAForImageClassification",
    "AutoBackbone": "modeling_sima.SimABackbone",
}

# Modules of patching/ that go into the file of that name: they need neither a host's forwards nor model classes.
_IN_BASE = ("hosts", "host_table", "configs", "zero_tokens", "attentions.code_paths")
# What is computed without the package: plain torch, on any device.
BACKEND = "eager"
ATTENTION, BASE = "sima_attention", "sima_base"

_ATTENTION_DOC = '''"""SimA attention (arXiv 2206.08898) in plain torch, and its place among Transformers' attention functions.

Cut by sima_hf {version} from its own sources; with sima_hf installed, its faster kernels serve instead. Apache-2.0.
"""'''
_BASE_DOC = '''"""The row of {name} in the table of hosts, its config, and the check of which attention code would run softmax.

Cut by sima_hf {version} from its own sources. Apache-2.0.
"""'''
_MODEL_DOC = '''"""{name} with SimA attention in place of softmax, under the names of its own parameters.

{classes}.

Cut by sima_hf {version} from its own sources; the last lines make the classes. Apache-2.0.
"""'''


def remote_code(config: PreTrainedConfig) -> dict[str, str]:
    """The files that a reader without sima_hf needs.

    Args:
        config: of a native SimA model, of a swapped one, or of a parent that finds its swapped tower by type.

    Returns:
        Name of each file -> its text.

    Raises:
        PublishError: the config is not of a SimA model.
    """
    if isinstance(config, SimAConfig):
        folder = Path(configuration_sima.__file__).parent
        return {name: (folder / name).read_text(encoding="utf-8") for name in NATIVE_FILES}
    return _swapped(config)


def auto_map(config: PreTrainedConfig) -> dict[str, str]:
    """`auto_map` of config.json: which class of those files each of Transformers' Auto classes takes.

    Where a host has several classes for one Auto class, as DeiT's classifiers, it is the one that `config.architectures` names.

    Args:
        config: as for `remote_code`.

    Returns:
        Name of an Auto class -> "file.Class".

    Raises:
        PublishError: as `remote_code`.
    """
    if isinstance(config, SimAConfig):
        return dict(NATIVE_CLASSES)
    _check(config)
    prefix = PREFIX if _is_swapped(config) else ""
    names = {"AutoConfig": _base(config).__name__, **{auto: names[0] for auto, names in _models(config).items()}}
    return {auto: f"{_module_name(config)}.{prefix}{name}" for auto, name in names.items()}


def write_remote_code(config: PreTrainedConfig, folder: str | Path) -> list[Path]:
    """Write the files into `folder`, each whole or not at all; returns their paths."""
    Path(folder).mkdir(parents=True, exist_ok=True)
    return [_write(Path(folder) / name, text) for name, text in remote_code(config).items()]


def _write(path: Path, text: str) -> Path:
    aside = path.with_name(f".{path.name}.writing")
    aside.write_text(text, encoding="utf-8")
    return aside.replace(path)


def _is_swapped(config: PreTrainedConfig) -> bool:
    """Whether the config is of a SimA class itself; a parent that finds its tower by type keeps its own."""
    return host_of_config(config) is not None


def _check(config: PreTrainedConfig) -> None:
    if not list(_rows(config)):
        raise PublishError(
            f"{type(config).__name__} is the config of a model without SimA attention, whose code is Transformers' own. Swap it "
            "first: sima_hf.patch_model(model)."
        )


def _base(config: PreTrainedConfig) -> type[PreTrainedConfig]:
    """Transformers' own class of a config."""
    return next(cls for cls in type(config).__mro__ if cls.__module__.startswith("transformers."))


def _module_name(config: PreTrainedConfig) -> str:
    return f"modeling_sima_{config.model_type.removeprefix('sima_').replace('-', '_')}"


def _models(config: PreTrainedConfig) -> dict[str, list[str]]:
    """Auto class -> Transformers' own model classes for it by name, the one that the config names first."""
    saved = [name.removeprefix(PREFIX) for name in config.architectures or ()]
    found = {}
    for auto, classes in auto_classes(_base(config)):
        names = [cls.__name__ for cls in classes]
        found[auto.__name__] = sorted(names, key=lambda name: name not in saved)  # sorted() keeps the rest in order
    named = {name for names in found.values() for name in names}
    apart = [name for name in saved if name not in named and hasattr(_modeling(config), name)]
    if "AutoModel" not in found and (apart or found):  # some towers and backbones are in none of its tables
        found["AutoModel"] = apart or next(iter(found.values()))
    return found


def _modeling(config: PreTrainedConfig) -> ModuleType:
    return importlib.import_module(_base(config).__module__.replace(".configuration_", ".modeling_"))


def _rows(config: PreTrainedConfig) -> Iterator[Host]:
    """The rows of a config and of all configs in it, inner ones first."""
    for value in vars(config).values():
        if isinstance(value, PreTrainedConfig):
            yield from _rows(value)
    if host_of_config(config) is not None:
        host = host_of_config(config)
        for name in host.towers:
            yield HOSTS[host_config_class(host).sub_configs[name].model_type]
        yield host


def _swapped(config: PreTrainedConfig) -> dict[str, str]:
    _check(config)
    module = _module_name(config)
    hosts = list({host.model_type: host for host in _rows(config)}.values())
    places = [
        place.split(".") for place in sorted({place for host in hosts for place in host.forwards.values() if place})
    ]
    inner = [host for host in hosts if not _is_swapped(config) or host is not hosts[-1]]
    package = __package__.partition(".")[0]
    patching = f"{package}.patching"
    table = ", ".join(f'"{file}.{name}": {name}' for file, name in places)
    cut = Cut(
        rows={
            (f"{package}.ops.backends", "BACKENDS"): lambda name: name == BACKEND,
            (f"{patching}.host_table.rows", "ROWS"): lambda name: name in {host.model_type for host in hosts},
        },
        replaced={
            (f"{patching}.hosts", "HOME"): f'HOME = f"{{__package__}}.{module}"',
            (f"{patching}.attentions", "forward_class"): "def forward_class(forward_path: str) -> type:\n"
            f'    """The class with the forward that a row names."""\n    return {{{table}}}[forward_path]',
            (f"{patching}.attentions", "swapped_class"): _OWN_CLASS,
            (f"{package}.attention", "attention_function_names"): _OWN_NAME,
            (f"{package}.attention", "register_attention_functions"): _OWN_FUNCTION,
            (f"{patching}.configs", "sima_implementation"): _OWN_IMPLEMENTATION,
            (f"{patching}.saving", "check_saved_whole"): _OWN_CHECK,
        },
        # Transformers itself copies the code of a model that came with code.
        omitted={
            (f"{patching}.configs", "SimAConfigMixin"): ("save_pretrained",),
            (f"{patching}.models", "SimAHostModel"): ("state_dict",),
        },
    )
    wanted = [
        (f"{patching}.configs", "config_class"),
        (f"{patching}.hosts", "HOSTS"),
        (f"{patching}.hosts", "modeling_module"),
        (f"{patching}.models", "model_class"),
        *([(f"{patching}.classes", "register_auto_classes")] if inner else []),
        *([(f"{patching}.classes", "register_attention_table")] if hosts[-1].class_table else []),
        *(
            []
            if _is_swapped(config)
            else [(f"{patching}.models", "share_key_conversion"), (f"{patching}.configs", "build_parts")]
        ),
        (f"{package}.attention", "register_attention_functions"),
        *((f"{patching}.attentions.{file}", name) for file, name in places),
    ]
    files = {
        ATTENTION: (f"{package}.attention", f"{package}.ops", f"{package}.errors"),
        BASE: tuple(f"{patching}.{name}" for name in _IN_BASE),
        module: (patching,),
    }
    models = sorted({name for names in _models(config).values() for name in names})
    ending = _ending(hosts[-1], models) if _is_swapped(config) else _ending_around(config, models)
    start = f"{_CLASSES_OF_PARTS}\n\n\nregister_attention_functions()\n{_registered(inner)}"
    texts = bundle(wanted, files, cut, start + ending)
    prefix = PREFIX if _is_swapped(config) else ""
    facts = {
        "version": __version__,
        "name": _base(config).__name__.removesuffix("Config"),
        "classes": textwrap.fill(", ".join(f"{prefix}{name}" for name in [_base(config).__name__, *models]), 118),
    }
    docs = {ATTENTION: _ATTENTION_DOC, BASE: _BASE_DOC, module: _MODEL_DOC}
    return {f"{name}.py": f"{docs[name].format(**facts)}\n\n{text}" for name, text in texts.items()}


# What is different where a model brings its own code. Several such models may be in one process, and each runs its own: the name
# of its attention function, by which Transformers finds it, is made of the file's content.
_OWN_NAME = '''@functools.cache
def attention_function_names() -> tuple[str, ...]:
    """The name of the attention function of this very file."""
    import hashlib
    from pathlib import Path

    return (f"sima_{hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:16]}",)'''
_OWN_FUNCTION = '''def register_attention_functions() -> None:
    """Make Transformers know this file's attention, and how its masks are to be made."""
    from transformers import AttentionInterface, AttentionMaskInterface

    for name in attention_function_names():
        AttentionInterface.register(name, sima_attention_forward)
        AttentionMaskInterface.register(name, sima_mask)'''
# A model that is being loaded has Transformers' own classes; subclasses come with live models.
_OWN_CLASS = '''def swapped_class(cls: type[nn.Module], original: type[nn.Module], forward_path: str) -> type[nn.Module]:
    """SimA's class for a module of the host's."""
    return mixed_class(original, forward_path)'''
_CLASSES_OF_PARTS = '''def __getattr__(name: str):
    """A config class that was made for a part of this model, by its name: what pickle looks up."""
    return getattr(importlib.import_module(SimAHostConfig.__module__), name)'''
_OWN_CHECK = '''def check_saved_whole(model: PreTrainedModel) -> None:
    """Parts are not swapped by this file, so config.json says what they run."""'''
_OWN_IMPLEMENTATION = '''def sima_implementation(name: str | None, owner: str) -> str:
    """The attention function of the file beside this one, whichever of SimA's names comes, or none.

    Raises:
        ValueError: it is one that sima_hf has, or one that would bring softmax back.
    """
    own = attention_function_names()[0]
    if name in (None, IN_FILES, "sima", "sima_eager", own):
        return own
    if name.startswith("sima"):
        raise ValueError(f"`attn_implementation={name!r}` needs sima_hf: `pip install sima-hf`, import it, and load {owner} again.")
    raise ValueError(
        f"{owner} computes SimA attention, which `attn_implementation={name!r}` does not; leave it out. In a model made of several, "
        "a dict such as {'text_config': 'sdpa'} reaches the parts that are not SimA."
    )'''


def _registered(inner: list[Host]) -> str:
    """Statements that make the Auto classes know the SimA models inside this one, by this file's own classes."""
    if not inner:
        return ""
    return f"""for HOST in ({", ".join(f'HOSTS["{host.model_type}"]' for host in inner)},):
    register_auto_classes(HOST)
"""


def _ending(host: Host, models: list[str]) -> str:
    """Statements that make the classes of a swapped model."""
    lines = [f'HOST = HOSTS["{host.model_type}"]', f"{PREFIX}{host.config} = config_class(HOST)"]
    lines += [f"{PREFIX}{name} = model_class(modeling_module(HOST).{name}, HOST)" for name in models]
    return "\n".join([*lines, *(["register_attention_table(HOST)"] if host.class_table else [])])


def _ending_around(config: PreTrainedConfig, models: list[str]) -> str:
    """Statements that make the classes of a parent that is Transformers' own but for the tower in it."""
    base = _base(config)
    lines = [f'models = importlib.import_module("{_modeling(config).__name__}")']
    lines += [f"\n\nclass {base.__name__}(models.{base.__name__}):", f'    """{base.__name__} around a SimA tower."""']
    lines += ["", "    def __post_init__(self, **kwargs):", "        build_parts(self)"]
    lines += ["        super().__post_init__(**kwargs)"]
    for name in models:
        lines += [f"\n\nclass {name}(models.{name}):", f'    """{name} around a SimA tower."""']
        lines += ["", f"    config_class = {base.__name__}"]
    named = ", ".join(f'"{name}"' for name in [config.model_type, *models])
    lines += [f"\n\nfor NAME in ({named}):", "    share_key_conversion(NAME, NAME)"]
    return "\n".join(lines)

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
from ...peers.mechanisms import find_peer
from ...version import __version__
from ..attentions.mechanisms import SIMA, title_of
from ..hosts import HOSTS, PREFIX, Host, auto_classes, host_config_class, host_of_config
from .own_texts import CLASSES_OF_PARTS, own_texts
from .source_bundle import Cut, bundle


NATIVE_FILES = ("configuration_sima.py", "embeddings_sima.py", "modeling_sima.py")
NATIVE_CLASSES = {
    "AutoConfig": "configuration_sima.SimAConfig",
    "AutoModel": "modeling_sima.SimAModel",
    "AutoModelForImageClassification": "modeling_sima.SimAForImageClassification",
    "AutoBackbone": "modeling_sima.SimABackbone",
}

# Modules of patching/ that go into the file of that name: they need neither a host's forwards nor model classes.
_IN_BASE = ("hosts", "host_table", "attentions.mechanisms", "configs", "zero_tokens", "attentions.code_paths")
# What is computed without the package: plain torch, on any device.
BACKEND = "eager"
ATTENTION, BASE = "sima_attention", "sima_base"

_ATTENTION_DOC = '''"""{attention} in plain torch, and its place among Transformers' attention functions.

Cut by sima_hf {version} from its own sources{kernels}. Apache-2.0.
"""'''
_BASE_DOC = '''"""The row of {name} in the table of hosts, its config, and the check of which attention code would run softmax.

Cut by sima_hf {version} from its own sources. Apache-2.0.
"""'''
_MODEL_DOC = '''"""{name} with {title} attention in place of softmax, under the names of its own parameters.

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


def _mechanisms(config: PreTrainedConfig) -> set[str]:
    """What the swapped models of a config and of all configs in it compute."""
    inner = [value for value in vars(config).values() if isinstance(value, PreTrainedConfig)]
    found = {name for one in inner for name in _mechanisms(one)}
    return found | ({config.attention_mechanism} if hasattr(config, "attention_mechanism") else set())


def _mechanism(config: PreTrainedConfig) -> str:
    found = sorted(_mechanisms(config)) or [SIMA]
    if len(found) > 1:
        raise PublishError(
            f"The parts of this {_base(config).__name__.removesuffix('Config')} compute different attention ({', '.join(found)}), and the "
            "code beside a model has one. Choose one for the whole: sima_hf.patch_model(model, attention=...)."
        )
    return found[0]


def _swapped(config: PreTrainedConfig) -> dict[str, str]:
    _check(config)
    mechanism = _mechanism(config)
    module = _module_name(config)
    hosts = list({host.model_type: host for host in _rows(config)}.values())
    places = [
        place.split(".") for place in sorted({place for host in hosts for place in host.forwards.values() if place})
    ]
    inner = [host for host in hosts if not _is_swapped(config) or host is not hosts[-1]]
    package = __package__.partition(".")[0]
    patching = f"{package}.patching"
    table = ", ".join(f'"{file}.{name}": {name}' for file, name in places)
    own = own_texts(mechanism)
    cut = Cut(
        rows={
            (f"{package}.ops.backends", "BACKENDS"): lambda name: name == BACKEND,
            (f"{package}.peers.mechanisms", "_ROWS"): lambda name: name == mechanism,
            (f"{patching}.host_table.rows", "ROWS"): lambda name: name in {host.model_type for host in hosts},
        },
        replaced={
            (f"{patching}.hosts", "HOME"): f'HOME = f"{{__package__}}.{module}"',
            (f"{patching}.attentions", "forward_class"): "def forward_class(forward_path: str) -> type:\n"
            f'    """The class with the forward that a row names."""\n    return {{{table}}}[forward_path]',
            **{(f"{package}.{module}", name): text for (module, name), text in own.items()},
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
        ATTENTION: (f"{package}.attention", f"{package}.ops", f"{package}.peers", f"{package}.errors"),
        BASE: tuple(f"{patching}.{name}" for name in _IN_BASE),
        module: (patching,),
    }
    models = sorted({name for names in _models(config).values() for name in names})
    ending = _ending(hosts[-1], models) if _is_swapped(config) else _ending_around(config, models)
    start = f"{CLASSES_OF_PARTS}\n\n\nregister_attention_functions()\n{_registered(inner)}"
    texts = bundle(wanted, files, cut, start + ending)
    prefix = PREFIX if _is_swapped(config) else ""
    facts = {
        "version": __version__,
        "title": title_of(mechanism),
        "attention": _credit(mechanism),
        "kernels": "; with sima_hf installed, its faster kernels serve instead" if mechanism == SIMA else "",
        "name": _base(config).__name__.removesuffix("Config"),
        "classes": textwrap.fill(", ".join(f"{prefix}{name}" for name in [_base(config).__name__, *models]), 118),
    }
    docs = {ATTENTION: _ATTENTION_DOC, BASE: _BASE_DOC, module: _MODEL_DOC}
    return {f"{name}.py": f"{docs[name].format(**facts)}\n\n{text}" for name, text in texts.items()}


def _credit(mechanism: str) -> str:
    """An attention with its source, for the first line of its file."""
    source = "arXiv 2206.08898" if mechanism == SIMA else find_peer(mechanism).source
    return f"{title_of(mechanism)} attention ({source})"


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

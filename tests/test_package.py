"""The package as a whole: names, who imports whom, versions, cost of importing."""

import ast
import configparser
import importlib
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

import sima_hf
from sima_hf.importing import requirements


ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sima_hf"
FILES = sorted(PACKAGE.rglob("*.py"))
STANDARD = sys.stdlib_module_names
PUBLIC = {
    "SIMA_VARIANTS",
    "SimABackbone",
    "SimAConfig",
    "SimAForImageClassification",
    "SimAImageProcessor",
    "SimAModel",
    "__version__",
    "calibrate",
    "certify",
    "convert_original_checkpoint",
    "convert_original_state_dict",
    "distill",
    "export",
    "patch_model",
    "prepare_for_hub",
    "patched",
    "sima_attention",
    "split_tokens",
    "supported_models",
    "unpatch_model",
}


def run(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False, **kwargs
    )


def test_public_names():
    assert set(sima_hf.__all__) == PUBLIC
    assert set(sima_hf._NAMES) == PUBLIC - {"__version__"}
    assert set(dir(sima_hf)) >= PUBLIC
    for name in PUBLIC - {"__version__"}:
        module = importlib.import_module(sima_hf._NAMES[name], "sima_hf")
        assert getattr(module, name) is getattr(sima_hf, name)
    namespace = {}
    exec("from sima_hf import *", namespace)
    assert set(namespace) >= PUBLIC - {"__version__"}


def seen_by_type_checkers(path):
    """Public name -> module, of the imports under `if TYPE_CHECKING`; public is what `__all__` spells out."""
    found, public = {}, []
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            for line in node.body:
                found |= {alias.asname or alias.name: f"{'.' * line.level}{line.module}" for alias in line.names}
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            public = ast.literal_eval(node.value)
    return {name: module for name, module in found.items() if name in public}


LAZY = [path for path in FILES if path.name == "__init__.py" and "lazy_names(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("path", LAZY, ids=lambda path: path.parent.name)
def test_editors_see_what_is_lazy(path):
    """They complete and check what stands in the file, and run none of it."""
    package = importlib.import_module(".".join(path.relative_to(ROOT).parts[:-1]))
    assert seen_by_type_checkers(path) == package._NAMES


def test_unknown_names():
    with pytest.raises(AttributeError, match=r"no attribute 'patch_everything'; it has .*sima_attention"):
        sima_hf.patch_everything  # noqa: B018
    with pytest.raises(ImportError):
        from sima_hf import nothing_of_the_kind  # noqa: F401


# From the ground up: a room imports from rooms before it, and from its own.
ROOMS = (
    "version",
    "errors",
    "importing.lazy_imports",
    "importing.requirements",
    "importing.import_hooks",
    "machine",
    "ops",
    "peers",
    "attention",
    "models",
    "patching",
    "parallel",
    "calibration",
    "folders",
    "loading",
    "data",
    "embedding",
    "evaluation",
    "exporting",
    "bench",
    "hub",
    "training",
    "patch_folder",
    "cli",
    "importing.registration",
    "importing",
)
# What else the rooms of the mathematics may import; all other rooms may import any package that setup.cfg names.
OUTSIDE = {
    "version": set(),
    "errors": set(),
    "importing": {"transformers"},
    "ops": {"torch", "triton"},
    "peers": {"torch"},
    "attention": {"torch", "transformers"},
    "models": {"torch", "transformers", "huggingface_hub"},
    "patching": {"torch", "tqdm", "transformers"},
    "parallel": {"torch", "transformers"},
    "calibration": {"torch", "tqdm", "transformers"},
}
MODULES = {
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__"): path for path in FILES
}


def imports(module):
    """Modules that a module imports, anywhere in it, by `importlib.import_module("...")` and the tables of lazy names too."""
    path = MODULES[module]
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            stem = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            for alias in node.names:
                yield f"{stem}.{alias.name}" if f"{stem}.{alias.name}" in MODULES else stem
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "import_module":
            if isinstance(node.args[0], ast.Constant):
                yield importlib.util.resolve_name(node.args[0].value, package)
        elif isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "_NAMES":
            yield from (importlib.util.resolve_name(value.value, package) for value in node.value.values)


def room_of(module):
    """Number of the room that a module is in; the package itself is above all."""
    inner = module.removeprefix("sima_hf").removeprefix(".")
    found = [number for number, room in enumerate(ROOMS) if inner == room or inner.startswith(f"{room}.")]
    return min(found) if inner else len(ROOMS)


def wrong_imports(module):
    """What a module imports from above itself, from nowhere, or from packages that its room does without."""
    room = ROOMS[room_of(module)].partition(".")[0] if module != "sima_hf" else ""
    for other in imports(module):
        outside = other.partition(".")[0]
        if outside == "sima_hf" and other not in MODULES:
            yield f"{module} imports {other}, which is not there"
        elif outside == "sima_hf" and room_of(other) > room_of(module):
            yield f"{module} imports {other}, which is above it"
        elif outside not in STANDARD | {"sima_hf"} | OUTSIDE.get(room, {outside}):
            yield f"{module} imports {other}"


def test_imports_run_one_way():
    assert [words for module in MODULES for words in wrong_imports(module)] == []


def test_no_files_import_each_other_in_a_circle():
    edges = {module: {other for other in imports(module) if other in MODULES} - {module} for module in MODULES}
    # A package's names are looked up when they are used, not when it is imported.
    edges = {module: others for module, others in edges.items() if MODULES[module].name != "__init__.py"}
    while free := [module for module, others in edges.items() if not others & edges.keys()]:
        for module in free:
            del edges[module]
    assert not edges, f"in circles: {sorted(edges)}"


def test_folders_and_files_are_few_enough_to_find_ones_way():
    assert len(list(PACKAGE.glob("*.py"))) <= 5
    for folder in {path.parent for path in FILES}:
        assert len(list(folder.glob("*.py"))) <= 15, folder


@pytest.mark.parametrize("name", ["configuration_sima", "embeddings_sima", "modeling_sima", "image_processing_sima"])
def test_published_files_import_only_their_neighbors(name):
    """They are copied to the Hub as they are, where `from .sibling import x` is all that works."""
    tree = ast.parse((PACKAGE / "models" / "sima" / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module.endswith("_sima")


def test_files_are_short():
    lines = {path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8").count("\n") for path in FILES}
    assert {file: count for file, count in lines.items() if count > 450} == {}


def test_importing_is_quick_and_loads_nothing():
    """Beside the hooks, the names and the errors nothing of ours is loaded, and of others' only the standard library."""
    code = """
import sys, transformers
loaded = set(sys.modules)
import sima_hf
new = set(sys.modules) - loaded
print(sorted(name for name in new if name.split(".")[0] not in {"sima_hf", *sys.stdlib_module_names}))
print(sorted(name for name in new if name.startswith("sima_hf.") and name.split(".")[1] not in ("importing", "errors", "version")))
"""
    assert run(code).stdout.splitlines() == ["[]", "[]"]


def test_versions_are_stated_once():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    stated = setup["options"]["install_requires"].split()
    for package, (lowest, beyond) in requirements.SUPPORTED.items():
        assert f"{package}>={lowest}" + (f",<{beyond}" if beyond else "") in stated
    assert setup["metadata"]["version"] == "attr: sima_hf.version.__version__"
    oldest = (ROOT / "constraints-oldest.txt").read_text(encoding="utf-8")
    assert f"\ntransformers=={requirements.SUPPORTED['transformers'][0]}." in oldest


@pytest.mark.parametrize(
    ("installed", "words"),
    [
        ({"torch": "2.10.1+cpu"}, r"torch>=2.11, but torch 2.10.1\+cpu is installed: pip install 'torch>=2.11'"),
        ({"transformers": "5.16.4"}, "transformers>=5.17,<6, but transformers 5.16.4 is installed"),
        ({"transformers": "6.0.0"}, "pip install 'transformers>=5.17,<6'"),
        ({"transformers": "6.0.0.dev0"}, "pip install 'transformers>=5.17,<6'"),
        ({"torch": None}, "torch>=2.11, which is not installed"),
    ],
    ids=["old-torch", "old-transformers", "new-transformers", "development", "missing"],
)
def test_unsupported_versions_get_a_sentence(installed, words, monkeypatch):
    def version(package):
        found = {"torch": "2.13.0", "transformers": "5.23.0", **installed}[package]
        if found is None:
            raise requirements.PackageNotFoundError(package)
        return found

    monkeypatch.setattr(requirements, "version", version)
    with pytest.raises(ImportError, match=words):
        requirements.check_versions()


@pytest.mark.parametrize("torch", ["2.11.0", "2.13.0+cpu", "3.0.0a0+git123", "2.11"])
@pytest.mark.parametrize("transformers", ["5.17.0", "5.23.0.dev0", "5.99"])
def test_supported_versions_pass(torch, transformers, monkeypatch):
    monkeypatch.setattr(requirements, "version", {"torch": torch, "transformers": transformers}.get)
    assert requirements.check_versions() is None

"""The package as a whole: names, who imports whom, versions, cost of importing."""

import ast
import configparser
import importlib
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
    "patch_model",
    "prepare_for_hub",
    "patched",
    "sima_attention",
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


def imports(path):
    """Modules a file imports, anywhere in it: absolute names, and relative ones resolved."""
    package = ["sima_hf", *path.relative_to(PACKAGE).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            stem = ".".join([*base, *([node.module] if node.module else [])])
            yield from ([stem] if node.module else (f"{stem}.{alias.name}" for alias in node.names))


# Folder or file -> what it may import besides the standard library; every file of the package is under one of them.
ALLOWED = {
    "errors.py": set(),
    "failures.py": {"sima_hf.errors"},
    "version.py": set(),
    "after_import.py": set(),
    "lazy.py": set(),
    "requirements.py": {"sima_hf.errors"},
    "registration.py": {"transformers", "sima_hf.importing.import_hooks", "sima_hf.attention", "sima_hf.models"},
    # Which class saved a folder may be one of the native models'.
    # The one look upwards: a config that was prepared for the Hub saves its code beside itself.
    "patching/load.py": {"huggingface_hub", "transformers", "sima_hf.patching", "sima_hf.errors", "sima_hf.models"},
    "patching/configs.py": {"transformers", "sima_hf.patching", "sima_hf.attention", "sima_hf.ops", "sima_hf.hub"},
    "patching": {
        "torch",
        "tqdm",
        "transformers",
        "sima_hf.patching",
        "sima_hf.attention",
        "sima_hf.ops",
        "sima_hf.errors",
        "sima_hf.importing.lazy_imports",
        "sima_hf.importing.registration",
    },
    "ops": {"torch", "triton", "sima_hf.ops", "sima_hf.errors"},
    "attention.py": {"torch", "transformers", "sima_hf.ops"},
    "models/sima/configuration_sima.py": {"transformers", "huggingface_hub"},
    "models/sima/embeddings_sima.py": {"torch", "transformers", "sima_hf.models.sima.configuration_sima"},
    "models/sima/modeling_sima.py": {"torch", "transformers", "sima_hf.models.sima"},
    "models/sima/image_processing_sima.py": {"transformers"},
    "models/sima/convert_sima.py": {"torch", "transformers", "sima_hf.models.sima", "sima_hf.errors"},
    "models": {"sima_hf.importing.registration", "sima_hf.models"},
    "benchmark.py": {"torch", "tqdm", "sima_hf.bench.floor", "sima_hf.ops", "sima_hf.version"},
    "benchmark_floor.py": {"torch"},
    "benchmark_traffic.py": {
        "torch",
        "sima_hf.bench.attention",
        "sima_hf.bench.attention_report",
        "sima_hf.ops",
        "sima_hf.version",
    },
    # What a finished run leaves for the Hub; `hub` itself knows of training only what a checkpoint looks like.
    "training/publication.py": {
        "transformers",
        "sima_hf.errors",
        "sima_hf.hub",
        "sima_hf.folders.file_names",
        "sima_hf.folders.local_paths",
        "sima_hf.folders.weights_hash",
    },
    "hub/bundle.py": set(),
    "hub": {
        "huggingface_hub",
        "safetensors",
        "torch",
        "transformers",
        "yaml",
        "sima_hf.bench.model",
        "sima_hf.bench.model_report",
        "sima_hf.bench.attention_report",
        "sima_hf.hub",
        "sima_hf.models",
        "sima_hf.patching",
        "sima_hf.training",
        "sima_hf.errors",
        "sima_hf.importing.lazy_imports",
        "sima_hf.version",
        "sima_hf.folders.file_names",
        "sima_hf.folders.local_paths",
        "sima_hf.folders.weights_hash",
        "sima_hf.folders.atomic_folder",
    },
    "training/classifiers.py": {
        "torch",
        "transformers",
        "sima_hf.errors",
        "sima_hf.loading.missing_weights",
        "sima_hf.models",
        "sima_hf.patching",
        "sima_hf.training",
    },
    # What the command line's `patch`, `calibrate` and `evaluate` do.
    "training/evaluation_run.py": {
        "accelerate",
        "torch",
        "transformers",
        "sima_hf.bench.attention",
        "sima_hf.machine.devices",
        "sima_hf.errors",
        "sima_hf.machine.plotting",
        "sima_hf.folders.local_paths",
        "sima_hf.training",
        "sima_hf.version",
        "sima_hf.folders.weights_hash",
    },
    "named_models.py": {
        "transformers",
        "sima_hf.errors",
        "sima_hf.loading.missing_weights",
        "sima_hf.patching",
        "sima_hf.training",
    },
    "swapping.py": {
        "torch",
        "sima_hf.errors",
        "sima_hf.hub",
        "sima_hf.loading.by_name",
        "sima_hf.patching",
        "sima_hf.folders.local_paths",
        "sima_hf.training",
        "sima_hf.folders.atomic_folder",
    },
    "whole_folder.py": {"sima_hf.folders.file_names"},
    "places.py": set(),
    "devices.py": {"torch"},
    "loaded_weights.py": {"torch", "transformers", "sima_hf.errors", "sima_hf.hub", "sima_hf.patching"},
    "weights_hash.py": {"safetensors", "torch", "transformers", "sima_hf.errors", "sima_hf.hub"},
    "model_records.py": set(),
    "training": {
        "accelerate",
        "datasets",
        "evaluate",
        "kornia",
        "numpy",
        "PIL",
        "pyarrow",
        "safetensors",
        "sklearn",
        "torch",
        "tqdm",
        "transformers",
        "sima_hf.training",
        "sima_hf.patching",
        "sima_hf.models",
        "sima_hf.machine.plotting",
        "sima_hf.errors",
        "sima_hf.errors.sentences",
        "sima_hf.importing.lazy_imports",
        "sima_hf.folders.file_names",
        "sima_hf.folders.local_paths",
        "sima_hf.version",
    },
    "figures.py": {"matplotlib", "sima_hf.errors"},
    "benchmark_report.py": {"sima_hf.machine.plotting"},
    "benchmark_model_report.py": {"sima_hf.bench.model", "sima_hf.bench.attention_report", "sima_hf.machine.plotting"},
    "benchmark_model.py": {
        "torch",
        "tqdm",
        "transformers",
        "sima_hf.bench.attention",
        "sima_hf.models",
        "sima_hf.loading.by_name",
        "sima_hf.patching",
        "sima_hf.errors",
        "sima_hf.version",
    },
    "cli": {"click", "huggingface_hub", "rich", "torch", "tqdm", "transformers", "typer", "sima_hf"},
    "__init__.py": {"sima_hf"},
}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_import_direction(path):
    name = path.relative_to(PACKAGE).as_posix()
    allowed = next(allowed for place, allowed in ALLOWED.items() if name == place or name.startswith(f"{place}/"))
    for module in imports(path):
        known = module.split(".")[0] in STANDARD or any(
            module == one or module.startswith(f"{one}.") for one in allowed
        )
        assert known, f"{name} imports {module}"
        inside = name.startswith("cli/")
        assert inside or not module.startswith("sima_hf.cli"), "nobody imports the command line"


@pytest.mark.parametrize("name", ["configuration_sima", "embeddings_sima", "modeling_sima", "image_processing_sima"])
def test_published_files_import_only_their_neighbours(name):
    """They are copied to the Hub as they are, where `from .sibling import x` is all that works."""
    tree = ast.parse((PACKAGE / "models" / "sima" / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            assert node.level == 1
            assert node.module.endswith("_sima")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_files_are_short_and_documented(path):
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 450
    tree = ast.parse(text)
    if text.strip():
        assert ast.get_docstring(tree), "the file does not say what it is"
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} has no docstring"
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Assert)], "users' mistakes raise sentences"


def test_importing_is_quick_and_loads_nothing():
    """At most 0.3 s on top of transformers; neither torch nor a model is loaded."""
    code = """
import sys, time, transformers
start, loaded = time.perf_counter(), set(sys.modules)
import sima_hf
print(time.perf_counter() - start)
print(sorted(name for name in set(sys.modules) - loaded if name.split(".")[0] in ("torch", "transformers")))
"""
    seconds, loaded = run(code).stdout.splitlines()
    assert float(seconds) < 0.3
    assert loaded == "[]"


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

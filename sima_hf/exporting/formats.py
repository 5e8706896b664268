"""The table of formats: which exporter of Transformers writes one, which packages that takes, which file is the graph."""

from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import transformers

from ..errors import ExportError, MissingDependencyError


@dataclass(frozen=True)
class Format:
    """One row.

    Attributes:
        name: of the format, and of its extra in setup.cfg.
        config: class of `transformers.exporters` that chooses the exporter.
        packages: what export and run take, by the names under which pip knows them.
        file: name of the graph in the folder.
        weights: name of the file of weights beside it; "" where the graph holds them.
        dynamic: the most that may be dynamic, of `DYNAMIC`.
        run_with: options of the runner: what the runtime has to be told to compute in the dtype of the file.
    """

    name: str
    config: str
    packages: tuple[str, ...]
    file: str
    weights: str = ""
    dynamic: str = "resolution"
    run_with: dict[str, Any] = field(default_factory=dict)


FORMATS = {
    one.name: one
    for one in (
        Format("onnx", "OnnxConfig", ("onnx", "onnxscript", "onnxruntime"), "model.onnx", "model.onnx.data"),
        Format(
            "openvino",
            "OpenVINOConfig",
            ("openvino",),
            "openvino_model.xml",
            "openvino_model.bin",
            # By itself it takes bfloat16 on processors that have it.
            run_with={"config": {"INFERENCE_PRECISION_HINT": "f32"}},
        ),
        Format("executorch", "ExecutorchConfig", ("executorch",), "model.pte", dynamic="none"),
    )
}
# Not offered: torch's own graph, which is counted where a file hides its nodes.
DYNAMO = Format("dynamo", "DynamoConfig", (), "model.pt2")
# What may differ between two runs of an exported file, each with what stands before it as well.
DYNAMIC = ("none", "batch", "resolution")


def find_format(name: str) -> Format:
    """The row of a format, once what it needs is there.

    Raises:
        ExportError: there is no such format.
        MissingDependencyError: a package is missing, or Transformers has no exporters yet.
    """
    if name not in FORMATS:
        raise ExportError(f"`format` must be one of {', '.join(map(repr, FORMATS))}, got {name!r}.")
    found = FORMATS[name]
    if find_spec("transformers.exporters") is None or not hasattr(_exporters(), found.config):
        raise MissingDependencyError(
            f"Export to {name} needs transformers>=5.23, whose exporters it uses, but {transformers.__version__} is installed: "
            "pip install 'transformers>=5.23,<6'"
        )
    missing = [package for package in found.packages if find_spec(package) is None]
    if missing:
        raise MissingDependencyError(f"Export to {name} needs {' and '.join(missing)}: pip install 'sima-hf[{name}]'")
    return found


def exporter_of(found: Format, **options: Any):
    """The exporter of Transformers for a format, and its config with the given fields, as a pair."""
    exporters = _exporters()
    config = getattr(exporters, found.config)(**options)
    return exporters.AutoHfExporter.from_config(config), config


def load_exported(found: Format, folder):
    """What an export wrote into a folder, on its own runtime; called like the model."""
    from transformers.exporters.base import ExportedModel

    return ExportedModel.from_pretrained(folder, device="cpu", **found.run_with)


def versions_of(found: Format) -> dict[str, str]:
    """The versions of what took part."""
    names = ("torch", "transformers", *found.packages)
    versions = {}
    for name in names:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # installed under another name, such as onnxruntime-gpu
            continue
    return versions


def _exporters():
    import transformers.exporters

    return transformers.exporters

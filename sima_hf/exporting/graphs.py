"""Graphs of exported files as plain data: every node with the modules that it comes from, inputs, outputs."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import ExportError, MissingDependencyError


@dataclass(frozen=True)
class Node:
    """One node: its operation, with the domain where that is not ONNX's own, and the modules around it, outermost first.

    `path` and `classes` are empty where the file does not say where a node comes from.
    """

    operation: str
    path: str = ""
    classes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Graph:
    """What a file holds. Inputs and outputs are `{"name", "dtype", "shape"}`, whose shape has a name where a size may differ."""

    format: str
    opset: int | None
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    nodes: tuple[Node, ...]


def is_graph(path: str | Path) -> bool:
    """Whether a path is a file that `read_graph` reads, by its name."""
    return Path(path).suffix in _READERS and Path(path).is_file()


def read_graph(path: str | Path) -> Graph:
    """Read an ONNX file or OpenVINO IR; weights beside it are not needed for ONNX.

    Raises:
        ExportError: it is neither, or damaged.
        MissingDependencyError: the package that reads it is missing.
    """
    path = Path(path)
    if not is_graph(path):
        raise ExportError(f"{path} must be a file of ONNX (.onnx) or OpenVINO IR (.xml).")
    package, read = _READERS[path.suffix]
    if find_spec(package) is None:
        raise MissingDependencyError(f"Reading {path.name} needs {package}: pip install 'sima-hf[{package}]'")
    try:
        return read(path)
    except Exception as error:  # each library has its own types, protobuf's among them
        reason = " ".join(str(error).split())[:200]
        raise ExportError(f"{path} cannot be read as a graph ({reason}). Export the model again.") from error


def _read_onnx(path: Path) -> Graph:
    import onnx

    model = onnx.load(str(path), load_external_data=False)
    if not model.graph.node:
        raise ExportError("it has no nodes")
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), None)
    initial = {one.name for one in model.graph.initializer}
    nodes = [*_onnx_nodes(model.graph.node), *(node for one in model.functions for node in _onnx_nodes(one.node))]
    defined = {(one.domain, one.name) for one in model.functions}  # their bodies count, not the calls
    return Graph(
        "onnx",
        opset,
        [_onnx_value(one) for one in model.graph.input if one.name not in initial],
        [_onnx_value(one) for one in model.graph.output],
        tuple(_onnx_node(node) for node in nodes if (node.domain, node.op_type) not in defined),
    )


def _onnx_nodes(nodes) -> Iterator[Any]:
    """Nodes, and those of the graphs inside them, such as the branches of If."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from _onnx_nodes(inner.node)


def _onnx_node(node) -> Node:
    domain = "" if node.domain in ("", "ai.onnx") else f"{node.domain}::"
    return Node(f"{domain}{node.op_type}", *place_of({one.key: one.value for one in node.metadata_props}))


def place_of(facts: Mapping[str, str]) -> tuple[str, tuple[str, ...]]:
    """`path` and `classes` of a `Node`, of what torch's exporter notes of it."""
    # The list of modules, then the operation itself.
    scopes = _list(facts.get("pkg.torch.onnx.name_scopes"))[:-1]
    classes = _list(facts.get("pkg.torch.onnx.class_hierarchy"))[:-1]
    return scopes[-1] if scopes else "", tuple(classes)


def _list(text: str | None) -> list[str]:
    try:
        found = ast.literal_eval(text or "[]")
    except (ValueError, SyntaxError):
        return []
    return [str(one) for one in found] if isinstance(found, list) else []


def _onnx_value(value) -> dict[str, Any]:
    import onnx

    tensor = value.type.tensor_type
    shape = [one.dim_value if one.HasField("dim_value") else one.dim_param or "?" for one in tensor.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return {"name": value.name, "dtype": dtype, "shape": shape}


def _read_openvino(path: Path) -> Graph:
    import openvino

    model = openvino.Core().read_model(str(path))
    nodes = [
        node for node in _openvino_nodes(model) if node.get_type_name() not in ("Parameter", "Result", "Constant")
    ]
    if not nodes:
        raise ExportError("it has no nodes")
    return Graph(
        "openvino",
        None,
        [_openvino_value(one) for one in model.inputs],
        [_openvino_value(one) for one in model.outputs],
        tuple(Node(node.get_type_name()) for node in nodes),
    )


def _openvino_nodes(model) -> Iterator[Any]:
    """Nodes, and those of the graphs inside them."""
    for node in model.get_ordered_ops():
        yield node
        if node.get_type_name() in ("If", "Loop", "TensorIterator"):
            for index in range(node.get_internal_subgraphs_size()):
                yield from _openvino_nodes(node.get_function(index))


def _openvino_value(port) -> dict[str, Any]:
    shape = [one.get_length() if one.is_static else "?" for one in port.get_partial_shape()]
    return {"name": port.get_any_name(), "dtype": port.get_element_type().to_dtype().name, "shape": shape}


# Suffix -> the package that reads such files (and the extra of the same name), and how.
_READERS = {".onnx": ("onnx", _read_onnx), ".xml": ("openvino", _read_openvino)}

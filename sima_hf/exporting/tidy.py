"""An exported graph as others should get it: axes by name, and no traces of the machine it was made on."""

import re
from typing import Any


_AXES = {0: "batch", 2: "height", 3: "width"}  # of images, and the first of everything else
_TRACE = "pkg.torch.onnx.stack_trace"


def tidy(program: Any, name: str) -> None:
    """Name the axes of an ONNX program that may differ, and drop the stack traces, whose paths are somebody's disk.

    Args:
        program: what the exporter returned, an `onnx_ir.Model`; of other formats nothing has to be done.
        name: of the format.
    """
    if name != "onnx":
        return
    names: dict[str, str] = {}
    for value in program.graph.inputs:
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and axis in _AXES:
                names.setdefault(str(size), _AXES[axis])
    for graph in (program.graph, *program.functions.values()):
        for value in (*graph.inputs, *(out for node in graph.all_nodes() for out in node.outputs)):
            _rename(value, names)
        for node in graph.all_nodes():
            node.metadata_props.pop(_TRACE, None)


def _rename(value: Any, names: dict[str, str]) -> None:
    if value.shape is None or value.shape.frozen:
        return
    for axis, size in enumerate(value.shape):
        if not isinstance(size, int) and size.value is not None:
            value.shape[axis] = re.sub(r"\w+", lambda found: names.get(found[0], found[0]), str(size.value))

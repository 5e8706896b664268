"""Proof by counting in an exported graph: which nodes are softmax, exp or fused attention, which are transcendental besides."""

from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..patching.certificate import allowed_reason, is_under
from ..patching.hosts import PREFIX
from .graphs import Node, read_graph


# Softmax, exp and fused attention, by the names of ONNX, ONNX Runtime's own domain, and OpenVINO.
SOFTMAX = {
    "Softmax",
    "LogSoftmax",
    "Exp",
    "ReduceLogSumExp",
    "ReduceLogSum",
    "Attention",
    "MultiHeadAttention",
    "GroupQueryAttention",
    "PackedAttention",
    "PackedMultiHeadAttention",
    "QAttention",
    "BiasSoftmax",
    "ScaledDotProductAttention",
}
# What else takes a table or a series to compute: a runtime on small hardware may lack or approximate it.
TRANSCENDENTAL = {
    *("Erf", "Gelu", "FastGelu", "BiasGelu", "QuickGelu", "Tanh", "Sigmoid", "HardSwish", "Swish", "SiLU", "Mish"),
    *("Elu", "Selu", "Celu", "SoftPlus", "Softplus", "Log", "Pow", "Power", "Sin", "Cos", "Tan", "Sinh", "Cosh"),
}
# Counted as well, because they are what SimA has in the place of softmax, and what hardware without a divider asks for.
NAMED = {"Div", "Divide", "Reciprocal", "Sqrt", "ReduceSum", "ReduceMean", "Abs", "MatMul"}


@dataclass(frozen=True)
class GraphOperation:
    """Nodes of one operation in one module.

    Attributes:
        operation: "Softmax", or "com.microsoft::Attention" outside ONNX's own domain.
        path, module: where, and the class there; "" where the file does not say.
        count: how many nodes.
        attention: whether it belongs to attention; None where the file does not say.
        swapped: whether it is inside a SimA model or a part that `patch_model` swaps.
        allowed: why it may be there although the model is SimA; None where it may not.
    """

    operation: str
    path: str
    module: str
    count: int
    attention: bool | None
    swapped: bool
    allowed: str | None = None


@dataclass(frozen=True)
class GraphCertificate:
    """What a graph holds. `softmax_free` is the answer, `operations` the evidence; printing it gives both.

    Attributes:
        name: of the file.
        format: "onnx" or "openvino".
        softmax: nodes of softmax, exp and fused attention, by module.
        transcendental: nodes that are transcendental besides, by operation, in attention and outside.
        counts: nodes of each operation in the whole graph.
    """

    name: str
    format: str
    softmax: tuple[GraphOperation, ...]
    transcendental: tuple[GraphOperation, ...]
    counts: dict[str, int]

    @property
    def softmax_free(self) -> bool:
        """Whether attention holds no softmax, exp or fused attention but what is allowed by name; an unknown place counts as attention."""
        return not any(self._counts(one) for one in self.softmax)

    @property
    def in_swapped(self) -> tuple[GraphOperation, ...]:
        """Of those that count, the ones inside the parts that are SimA."""
        return tuple(one for one in self.softmax if one.swapped and self._counts(one))

    @staticmethod
    def _counts(one: GraphOperation) -> bool:
        return one.attention is not False and not one.allowed

    @property
    def count(self) -> int:
        """How many nodes of softmax, exp or fused attention are in attention and not allowed."""
        return sum(one.count for one in self.softmax if self._counts(one))

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "file": self.name,
            "format": self.format,
            "softmax_free": self.softmax_free,
            "count": self.count,
            "softmax": [asdict(one) for one in self.softmax],
            "transcendental": [asdict(one) for one in self.transcendental],
            "nodes": self.counts,
        }

    def __str__(self) -> str:
        verdict = (
            "no softmax and no exp in attention"
            if self.softmax_free
            else f"{self.count} nodes of softmax, exp or fused attention in attention"
        )
        lines = [f"{self.name}: {verdict}"]
        for one in self.softmax:
            place = f"in {one.path or 'an unknown place'}" + (f" [{one.module}]" if one.module else "")
            outside = " (not in attention)" if one.attention is False else ""
            note = f" (allowed: {one.allowed})" if one.allowed else outside
            lines.append(f"  {one.count:3} x {one.operation} {place}{note}")
        names = {True: "in attention", False: "outside attention", None: "somewhere"}
        besides = [f"{one.count} x {one.operation} {names[one.attention]}" for one in self.transcendental]
        lines.append(f"  transcendental besides: {', '.join(besides) or 'none'}")
        named = [f"{self.counts[name]} x {name}" for name in sorted(NAMED & self.counts.keys())]
        lines.append(f"  of {sum(self.counts.values())} nodes: {', '.join(named)}")
        return "\n".join(lines)


def certify_graph(path: str | Path, parts: list[tuple[str, str]] | None = None) -> GraphCertificate:
    """Count the nodes of an ONNX file or OpenVINO IR, with the functions and branches in it, that are softmax, exp, fused attention.

    Args:
        path: a .onnx or .xml file, of whichever exporter. Where nodes come from is read from what torch's exporter notes of them;
            in files that do not say, OpenVINO's among them, any softmax counts as attention.
        parts: paths of the models in it that are SimA, each with the name of the module in which alone it is, or ""; None: by the
            classes around each node, of which the outermost may be a larger model.

    Raises:
        ExportError: it is no such file, or damaged.
        MissingDependencyError: the package that reads it is missing.
    """
    graph = read_graph(path)
    softmax = _gather((node for node in graph.nodes if _bare(node) in SOFTMAX), parts)
    besides = Counter((node.operation, _in_attention(node)) for node in graph.nodes if _bare(node) in TRANSCENDENTAL)
    return GraphCertificate(
        Path(path).name,
        graph.format,
        softmax,
        tuple(GraphOperation(name, "", "", count, where, False) for (name, where), count in besides.items()),
        dict(Counter(node.operation for node in graph.nodes).most_common()),
    )


def _gather(nodes, parts) -> tuple[GraphOperation, ...]:
    found = Counter(nodes)
    return tuple(
        GraphOperation(
            node.operation,
            node.path,
            _last(node.classes[-1:]),
            count,
            _in_attention(node),
            _swapped(node, parts),
            allowed_reason([_last([one]) for one in node.classes[-1:]], _bare(node).lower())
            if _swapped(node, parts)
            else None,
        )
        for node, count in found.items()
    )


def _bare(node: Node) -> str:
    return node.operation.rpartition("::")[2]


def _last(classes) -> str:
    return "".join(classes).rpartition(".")[2]


def _in_attention(node: Node) -> bool | None:
    """Whether one of the modules around a node is attention, by class or name; None where the file does not say."""
    if not node.classes:
        return None
    classes = [_last([one]) for one in node.classes]
    # A layer around attention holds an MLP too; what it computes itself may be attention.
    named = [*(cls for cls in classes[:-1] if not cls.endswith(("Layer", "Block"))), *classes[-1:]]
    places = [part for part in node.path.split(".") if part.endswith(("attention", "attn"))]
    return bool(places) or any("attention" in cls.lower() or "attn" in cls.lower() for cls in named)


def _swapped(node: Node, parts: list[tuple[str, str]] | None) -> bool:
    """Whether a node is inside a model of sima_hf: one swapped, or the native one."""
    if parts is not None and node.classes:
        return any(is_under(node.path, part, within) for part, within in parts)
    return any(_last([one]).startswith(PREFIX) and one.startswith("sima_hf.") for one in node.classes)

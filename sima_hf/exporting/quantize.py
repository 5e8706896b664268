"""Static int8 of an exported ONNX graph: which products get it, which stay in float and why, and what the result still agrees on.

Transformers' `OnnxRuntimeQuantizer` writes it, with ONNX Runtime's `quantize_static`: QDQ, weights by channel.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ..errors import ExportError
from ..patching.certificate import is_under
from .agreement import leaves
from .calibration_pixels import BATCH, CalibrationPixels
from .graphs import place_of


SCHEMES = ("int8",)
PRODUCTS = ("MatMul", "Gemm", "Conv")
# What the file and the model have to agree on, of the images that gave no range.
FLOORS = {"top-1": 0.9, "cosine": 0.95}
OVER_A_NORM = (
    "one of its factors is over the norms of q or k: a norm grows with the number of tokens and the quotient shrinks with it, so "
    "that a scale of 8 bits read off at one number of tokens does not fit another"
)
NORM = "part of a norm: a sum of |q| or |k| over all tokens, which grows with their number, or its reciprocal, which shrinks"
NO_PRODUCT = "no product: computed in float between those that are"
LEFT = "the quantizer left it in float"


class QuantizationError(ExportError):
    """The graph exports, but not in int8; another choice of what is dynamic would not help."""


@dataclass(frozen=True)
class Quantization:
    """What was quantized, and what that cost.

    Attributes:
        scheme, weights, activations: in words.
        calibration_images, held_out_images: how many gave ranges, how many the agreement.
        measure: "top-1", the share of held-out images with the model's answer, or "cosine", of the first output, on average.
        agreement, floor: measured, and what it has to be at least.
        int8: nodes that take int8, by operation.
        in_float: nodes that do not, in groups: `operations`, `because`, and the `names` of products.
    """

    scheme: str
    weights: str
    activations: str
    calibration_images: int
    held_out_images: int
    measure: str
    agreement: float
    floor: float
    int8: dict[str, int]
    in_float: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        kept = sum(len(one["names"]) for one in self.in_float)
        return (
            f"{self.scheme}: {sum(self.int8.values())} products, and {kept} more in float; {self.measure} agreement with the model "
            f"{self.agreement:.3f} on {self.held_out_images} images, ranges of {self.calibration_images} others"
        )


def quantize(
    program: Any, parts: Iterable[tuple[str, str]], images: torch.Tensor, batch: int | None
) -> tuple[Any, dict]:
    """A quantized copy of an ONNX program, and the groups of its nodes: `int8` and `in_float` of `Quantization`.

    Args:
        program: an `onnx_ir.Model` as Transformers' exporter makes it.
        parts: paths of the models in it that are SimA, as `certify_graph` takes them.
        images: float32 `(N, C, H, W)` that give the ranges.
        batch: number of images that the graph takes; None where any.
    """
    from onnxruntime.quantization import QuantType
    from transformers.exporters import OnnxRuntimeQuantizer, OnnxRuntimeStaticConfig
    from transformers.exporters.configs import ExportFormat

    kept, norms = over_a_norm(program, parts)
    _part_biases(program)
    config = OnnxRuntimeStaticConfig(
        op_types_to_quantize=list(PRODUCTS),
        per_channel=True,
        # Unsigned by signed is what x86 has instructions for; signed by signed takes ONNX Runtime longer.
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=[node.name for node in kept],
        # A product's sum goes on in float: rounding it as well costs accuracy and saves no product.
        extra_options={"OpTypesToExcludeOutputQuantization": ["MatMul", "Gemm"]},
    )
    feeds = [{"pixel_values": part} for part in images.split(batch or BATCH) if batch in (None, len(part))]
    quantized = OnnxRuntimeQuantizer(config, calibration_dataset=feeds).quantize(program, feeds[0], ExportFormat.ONNX)
    return quantized, _groups(quantized, {node.name for node in kept}, {node.name for node in norms})


def _part_biases(program: Any) -> None:
    """Give biases that are added to products of three and more axes as many, `(1, ..., C)`.

    ONNX Runtime makes one Gemm of a product and a bias `(C,)` where the number of images is fixed, before it looks for int8, finds
    none with such a bias, and computes in float with weights that it dequantizes in each run: slower than float32. It leaves these.
    """
    import onnx_ir

    graph, made = program.graph, {}
    for node in graph:
        if node.op_type != "Add":
            continue
        for place, bias in enumerate(node.inputs):
            product = node.inputs[1 - place]
            of_product = product.producer() is not None and product.producer().op_type == "MatMul"
            axes = len(product.shape or ()) if of_product else 0
            if axes < 3 or bias.const_value is None or len(bias.const_value.shape) != 1:
                continue
            name = f"{bias.name}_of_{axes}_axes"
            if name not in made:
                values = bias.const_value.numpy().reshape((1,) * (axes - 1) + (-1,))
                made[name] = onnx_ir.val(name, const_value=onnx_ir.tensor(values, name=name))
                graph.register_initializer(made[name])
            node.replace_input_with(place, made[name])
            if not bias.uses() and bias.name in graph.initializers:
                graph.initializers.pop(bias.name)


def over_a_norm(program: Any, parts: Iterable[tuple[str, str]]) -> tuple[list[Any], list[Any]]:
    """Products inside SimA with a factor that was divided by a norm over tokens, and the nodes of those norms.

    A norm is found by its Abs, going back from a product to the ones before it; a product of such a product counts, too.
    """
    parts, kept, norms = list(parts), {}, {}
    for node in program.graph.all_nodes():  # in the order in which they run
        if node.op_type != "MatMul" or any(one is not None and one.const_value is not None for one in node.inputs):
            continue
        path = place_of(node.metadata_props)[0]
        if not any(is_under(path, *part) for part in parts):
            continue
        before = _before(node)
        sums = [one for one in before if one.op_type == "Abs"]
        if sums or any(one in kept for one in before):
            kept[node] = None
            behind = {one for one in before if any(two in sums for two in (one, *_before(one)))}
            norms.update(dict.fromkeys(one for one in before if one in behind))
    return list(kept), list(norms)


def _before(node: Any) -> list[Any]:
    """Nodes whose outputs reach a node, back to the products before it, those included."""
    found, waiting = {}, [node]
    while waiting:
        for value in waiting.pop().inputs:
            one = value.producer() if value is not None else None
            if one is not None and one not in found:
                found[one] = None
                if one.op_type not in PRODUCTS:
                    waiting.append(one)
    return list(found)


def _groups(quantized: Any, kept: set[str], norms: set[str]) -> dict[str, Any]:
    """Read off the file itself which nodes take int8."""
    int8, others = Counter(), {OVER_A_NORM: [], NORM: [], LEFT: [], NO_PRODUCT: []}
    for node in quantized.graph.all_nodes():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            continue
        product = node.op_type in PRODUCTS
        if product and all(_dequantized(value) for value in node.inputs[:2]):
            int8[node.op_type] += 1
        elif product:
            others[OVER_A_NORM if node.name in kept else LEFT].append(node)
        else:
            others[NORM if node.name in norms else NO_PRODUCT].append(node)
    groups = (
        {
            "because": why,
            "operations": dict(Counter(node.op_type for node in nodes).most_common()),
            "names": [node.name for node in nodes if node.op_type in PRODUCTS],
        }
        for why, nodes in others.items()
        if nodes
    )
    return {"int8": dict(int8), "in_float": tuple(groups)}


def _dequantized(value: Any) -> bool:
    return value is not None and value.producer() is not None and value.producer().op_type == "DequantizeLinear"


def measured(
    run: Callable[..., Any],
    reference: Callable[..., Any],
    pixels: CalibrationPixels,
    batch: int | None,
    classifies: bool,
    groups: dict[str, Any],
) -> Quantization:
    """The quantized file against the model on the images that are held out.

    Args:
        run, reference: file and float model, called with keyword arguments.
        pixels: the images.
        batch: as `quantize`.
        classifies: the first output is logits `(N, classes)`.
        groups: what `quantize` says of the nodes.

    Raises:
        QuantizationError: they agree on less.
    """
    measure, agreed = "top-1" if classifies else "cosine", []
    parts = [part for part in pixels.held_out.split(batch or BATCH) if batch in (None, len(part))]
    for part in parts:
        found, wanted = (leaves(one(pixel_values=part))[0] for one in (run, reference))
        if classifies:
            agreed.append((found.argmax(-1) == wanted.argmax(-1)).double())
        else:
            found, wanted = (one.detach().double().flatten(1) for one in (found, wanted))
            agreed.append(torch.nn.functional.cosine_similarity(found, wanted))
    agreement, floor = float(torch.cat(agreed).mean()), FLOORS[measure] if pixels.least is None else pixels.least
    count = sum(map(len, parts))
    if not agreement >= floor:
        raise QuantizationError(
            f"In int8 it no longer does what the model does: {measure} agreement is {agreement:.3f} on {count} images that are held "
            f"out, where {floor:g} is asked for. Give more images, and such as the model is for, ask for less by `min_agreement`, or "
            "leave `quantize` out."
        )
    weights, activations = "int8, symmetric, a scale per output channel", "uint8, a scale and a zero point per tensor"
    seen = len(pixels.seen) - (len(pixels.seen) % batch if batch else 0)
    return Quantization("int8", weights, activations, seen, count, measure, agreement, floor, **groups)

"""The section of a card on attention: what is SimA in a model, what is not, and which softmax operations were counted."""

import shlex
from pathlib import Path

from transformers import PreTrainedModel

from ...models.sima.modeling_sima import SimAPreTrainedModel
from ...patching.certificate import Certificate, Operation
from ...patching.description import Description
from ..folder import is_under
from .markdown import cell, code, table, weights_words


_GAINS = {
    "none": "`none`, the paper's formula",
    "tokens": "`tokens`: the output times the number of keys, so that its scale does not depend on the resolution",
}
_BIASES = {
    "none": "the host has none",
    "add": "added to the product of the normalised query and key",
}


def native_parts(model: PreTrainedModel) -> list[str]:
    """Paths of the outermost models in it that are SimA's own architecture; [""] for one that is so as a whole."""
    paths = [path for path, part in model.named_modules() if isinstance(part, SimAPreTrainedModel)]
    return [path for path in paths if not any(path != other and is_under(path, other) for other in paths)]


def softmax_in_sima(model: PreTrainedModel, certificate: Certificate, description: Description) -> list[Operation]:
    """Operations of softmax attention where SimA should be; in a model that has no SimA, all of them."""
    native = native_parts(model) or ([] if description.swapped else [""])
    return [
        one
        for one in certificate.operations
        if not one.allowed and (one.swapped or any(is_under(one.path, place) for place in native))
    ]


def attention_section(
    model: PreTrainedModel, certificate: Certificate, description: Description, weights: tuple[Path, ...], name: str
) -> str:
    """What is SimA, with which gain and position bias, and which softmax operations were counted where."""
    native = native_parts(model)
    rows = [
        (
            f"`{path}`" if path else "the whole model",
            "all, by its own architecture",
            _gain(model.get_submodule(path).config.attention_gain),
            "none",
        )
        for path in native
    ]
    rows += [
        (
            f"`{part.path}`" if part.path else "the whole model",
            f"{part.attentions} in `{part.host}`{f', in {part.within} alone' if part.within else ''}",
            _gain(part.gain),
            _BIASES.get(part.position_bias, part.position_bias),
        )
        for part in description.swapped
    ]
    inside = softmax_in_sima(model, certificate, description)
    outside = [one for one in certificate.operations if not one.allowed and one not in inside]
    left = {path: cls for path, cls in description.left.items() if not any(is_under(path, place) for place in native)}
    where = "where SimA is, " if outside or left else ""
    lines = [
        "## Attention",
        "",
        table(("SimA in", "attentions", "gain", "position bias"), rows),
        "",
        f"Softmax operations counted {where}in one forward of {weights_words(weights)}: "
        f"**{sum(one.count for one in inside)}**. {code(f'sima-hf certify {shlex.quote(name)}')} counts again.",
    ]
    allowed = [one for one in certificate.operations if one.allowed]
    if allowed:
        lines += ["", "These ran, and may:", "", *_bullets(allowed)]
    if outside:
        count = sum(one.count for one in outside)
        lines += [
            "",
            f"**Elsewhere in the model softmax stays**: {count} operations of softmax, exp or fused attention.",
            "",
            *_bullets(outside),
        ]
    if left:
        kept = ", ".join(f"`{path}` ({cell(cls)})" for path, cls in left.items())
        lines += ["", f"Not swapped: {kept}."]
    return "\n".join(lines)


def _gain(gain: str) -> str:
    return _GAINS.get(gain, f"`{gain}`")


def _bullets(operations: list[Operation]) -> list[str]:
    """One line for each kind of operation and module class; a stack of equal layers is one line."""
    groups: dict[tuple, list[Operation]] = {}
    for one in operations:
        groups.setdefault((one.operation, one.module, one.allowed), []).append(one)
    return [
        f"- {sum(one.count for one in group)} x `{operation}` in `{module}`"
        f"{f' (`{group[0].path}` and {len(group) - 1} more)' if len(group) > 1 else f' (`{group[0].path}`)' if group[0].path else ''}"
        f"{f': {cell(allowed)}' if allowed else ''}"
        for (operation, module, allowed), group in groups.items()
    ]

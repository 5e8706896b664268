"""What a card says of a model's attention: where it is SimA, and where softmax ran."""

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel

from ...models.sima.modeling_sima import SimAPreTrainedModel
from ...patching.attentions.mechanisms import SIMA, title_of
from ...patching.certificate import Operation
from ...peers import Mechanism, find_peer
from ..checks import is_under


if TYPE_CHECKING:
    from ..checks import CheckedFolder


def softmax_in_sima(checked: "CheckedFolder") -> list[Operation]:
    """Operations of softmax attention where SimA should be; in a model that has no SimA, all of them."""
    native = _native_parts(checked.model) or ([] if checked.description.swapped else [""])
    return [
        one
        for one in checked.certificate.operations
        if not one.allowed and (one.swapped or any(is_under(one.path, path) for path in native))
    ]


def attention_values(checked: "CheckedFolder") -> dict[str, Any]:
    """For the template: parts that are SimA, whether that is the whole model, and what ran and stays besides.

    "native" has the parts of SimA's own architecture, path -> gain; "peer" the row of what was swapped in, None for SimA, and
    "attention" its name in sentences; "allowed" and "outside" have operations, equal ones of equal modules as one list.
    """
    model, description, operations = checked.model, checked.description, checked.certificate.operations
    native = _native_parts(model)
    left = {path: cls for path, cls in description.left.items() if not any(is_under(path, one) for one in native)}
    # A host may be swapped in a part alone, and its decoder may be plain modules, which nothing but the count tells of.
    within = any(part.within for part in description.swapped)
    peer = peer_in(checked)
    return {
        "peer": peer,
        "attention": title_of(SIMA if peer is None else peer.name),
        "native": {path: model.get_submodule(path).config.attention_gain for path in native},
        "swapped": description.swapped,
        "whole": checked.certificate.softmax_free and not left and not within,
        "allowed": _grouped([one for one in operations if one.allowed]),
        "outside": _grouped([one for one in operations if not one.allowed]),
        "left": left,
    }


def peer_in(checked: "CheckedFolder") -> Mechanism | None:
    """The row of what was swapped in; None for SimA. A folder that was checked has one attention."""
    names = [part.mechanism for part in checked.description.swapped if part.mechanism != SIMA]
    return find_peer(names[0]) if names else None


def _native_parts(model: PreTrainedModel) -> list[str]:
    """Paths of the outermost models in it that are SimA's own architecture; [""] for one that is so as a whole."""
    paths = [path for path, part in model.named_modules() if isinstance(part, SimAPreTrainedModel)]
    return [path for path in paths if not any(path != other and is_under(path, other) for other in paths)]


def _grouped(operations: list[Operation]) -> list[list[Operation]]:
    groups: dict[tuple, list[Operation]] = {}
    for one in operations:
        groups.setdefault((one.operation, one.module, one.allowed), []).append(one)
    return list(groups.values())

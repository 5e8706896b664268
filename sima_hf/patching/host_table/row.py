"""What a row of the table of hosts says."""

from collections.abc import Mapping
from dataclasses import dataclass, field


# Tasks: the headings under which the docs list the rows.
IMAGE = "Image classification"
TOWER = "Vision towers and backbones"
DENSE = "Detection, segmentation, depth"
VIDEO = "Video"
LARGER = "Larger models with a tower of their own"


@dataclass(frozen=True, eq=False)
class Host:
    """One `model_type` of Transformers and what its attention is.

    Attributes:
        model_type, config: as in Transformers.
        task: heading of the README's table that it belongs to.
        summary: what is special about its attention.
        reached: how a swap reaches its attention: "interface" (Transformers', whatever else is in `forwards`), "own code" (by
            `forwards`), or "tower" for a model made of several.
        position_bias: "none", or "add" for a bias that is added to the product of the normalized query and key.
        forwards: name of a class of the host -> "file.Class" in `attentions/` that takes its forward's place.
        within: path below the model to which the swap is limited; the rest keeps its attention.
        towers: names of the sub-configs that are swapped, for a model made of several.
        class_table: name of the host's own table of attention classes by implementation, with the entry to build with.
        allowed: name of a class in which an operation stays -> (word in the operation's name, why).
        full_mask: whether it hides tokens from each other by a mask of queries and keys, not by padding alone.
        sima_alone: why none of `sima_hf.peers` is offered for it, as a clause; "" where they may be.
    """

    model_type: str
    config: str
    task: str
    summary: str
    reached: str = "interface"
    position_bias: str = "none"
    forwards: Mapping[str, str] = field(default_factory=dict)
    within: str = ""
    towers: tuple[str, ...] = ()
    class_table: tuple[str, str] | None = None
    allowed: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    full_mask: bool = False
    sima_alone: str = ""

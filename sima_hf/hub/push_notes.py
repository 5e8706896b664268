"""What whoever pushes a model should know before others see it: in the plan and in what a push prints, one sentence each."""

from .cards.known import Known
from .checks import CheckedFolder


_RANDOM = (
    "Softmax was swapped for SimA in these weights, and nothing was calibrated or trained since{noise}; the "
    "card says so. Calibrate them (sima-hf calibrate) or train them first; if they were trained by other means, say it with "
    "sima_hf.hub.write_provenance(folder, training={...})."
)
_NO_BASE = (
    "The card does not say which model this one was made from: if that is on the Hub, name it (--base-model organization/name, or "
    "base_model= in the facts)."
)


def push_notes(checked: CheckedFolder, known: Known, front: dict) -> list[str]:
    """The sentences about a model and its card.

    Args:
        checked: the folder.
        known: what the card was written from.
        front: the card's front matter.
    """
    notes = []
    if known.only_swapped:
        notes.append(_RANDOM.replace("{noise}", "" if known.has_accuracy else ", so they answer at random"))
    if checked.description.swapped and not front.get("base_model"):
        notes.append(_NO_BASE)
    return notes

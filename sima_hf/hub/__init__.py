"""Publishing: model folders checked, given a card and the code a reader needs, and pushed to the Hub."""

from typing import TYPE_CHECKING

from ..importing.lazy_imports import lazy_names


# Public name -> file that defines it, imported at first use.
_NAMES = {
    "CardFacts": ".cards.facts",
    "CheckedFolder": ".checks",
    "auto_map": "..patching.remote_code.model_files",
    "check_folder": ".checks",
    "find_facts": ".cards.facts",
    "model_card": ".cards.card",
    "plan_push": ".pushing",
    "prepare_for_hub": ".prepare",
    "push": ".pushing",
    "read_provenance": "..folders.provenance",
    "remote_code": "..patching.remote_code.model_files",
    "write_provenance": "..folders.provenance",
}

__all__ = [
    "CardFacts",
    "CheckedFolder",
    "auto_map",
    "check_folder",
    "find_facts",
    "model_card",
    "plan_push",
    "prepare_for_hub",
    "push",
    "read_provenance",
    "remote_code",
    "write_provenance",
]

__getattr__, __dir__ = lazy_names(__name__, _NAMES)

if TYPE_CHECKING:
    from ..folders.provenance import read_provenance, write_provenance
    from ..patching.remote_code.model_files import auto_map, remote_code
    from .cards.card import model_card
    from .cards.facts import CardFacts, find_facts
    from .checks import CheckedFolder, check_folder
    from .prepare import prepare_for_hub
    from .pushing import plan_push, push

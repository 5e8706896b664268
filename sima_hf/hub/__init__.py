"""Publishing: model folders checked, given a card and the code a reader needs, and pushed to the Hub."""

from ..lazy import lazy_names


# Public name -> file that defines it, imported at first use.
_NAMES = {
    "CardFacts": ".cards.facts",
    "CheckedFolder": ".folder",
    "auto_map": ".published_code",
    "check_folder": ".folder",
    "find_facts": ".cards.facts",
    "model_card": ".cards.card",
    "plan_push": ".pushing",
    "prepare_for_hub": ".prepare",
    "push": ".pushing",
    "read_provenance": ".provenance",
    "remote_code": ".published_code",
    "write_provenance": ".provenance",
}

__all__ = sorted(_NAMES)

__getattr__, __dir__ = lazy_names(__name__, _NAMES)

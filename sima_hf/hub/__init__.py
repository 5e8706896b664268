"""Publishing: model folders checked, given a card and the code a reader needs, and pushed to the Hub."""

import importlib


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


def __getattr__(name: str):
    """Imported at first use: checking a folder needs models, the command line's help does not."""
    if name not in _NAMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(sorted(_NAMES))}")
    value = globals()[name] = getattr(importlib.import_module(_NAMES[name], __name__), name)
    return value

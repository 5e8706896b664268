"""When two spellings are the name of one class."""

import unicodedata


def composed(name: object) -> str:
    """A name with its accents composed (NFC), as it is compared: macOS hands out "é" as two characters, others as one."""
    return unicodedata.normalize("NFC", str(name))


def plain_name(name: object) -> str:
    """A name regardless of letter case, of `_` for a space and of spaces around it, too."""
    return composed(" ".join(composed(name).replace("_", " ").casefold().split()))

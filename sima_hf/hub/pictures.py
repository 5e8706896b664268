"""The pictures of a model's folder that its README shows."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from urllib.parse import unquote


PICTURES = ("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.svg")
# Markdown's two ways of writing an address, <with spaces> and with none, but pairs of parentheses; and HTML's.
_SHOWN = re.compile(
    r"!\[[^\]]*\]\(\s*(?:<([^<>\n]*)>|((?:[^()\s]|\([^()\s]*\))+))|<img[^>]*\ssrc=(?:\"([^\"]+)|'([^']+))",
    re.IGNORECASE,
)


def shown_pictures(text: str) -> Iterator[PurePosixPath]:
    """The places in its folder of what a README shows, as files are named there: with spaces where an address has %20.

    Places that lead out of the folder are left out; addresses elsewhere are no files in it, which is for the caller to see.
    """
    for match in _SHOWN.finditer(text):
        address = next(filter(None, match.groups()), "")
        name = PurePosixPath(unquote(re.split("[?#]", address, maxsplit=1)[0].strip()))
        if name.parts and not name.is_absolute() and ".." not in name.parts:
            yield name

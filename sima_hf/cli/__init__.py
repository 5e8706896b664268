"""The command line, `sima-hf`: thin shells over the package's functions.

A command prints its result on stdout, for people or, with --json, for machines; progress and warnings go to stderr. A user's
mistake gives a sentence, not a traceback. Nothing heavy is imported before a command runs, so that help and completion are quick.
"""

from .root import app, main


__all__ = ["app", "main"]

"""Which errors become a sentence, because a user can fix them; all others are bugs and keep their traceback."""

import errno
import opcode
import os
import sys

from . import SimAError


HINT = (
    "If nothing in the input explains this, it is a bug in sima_hf: please report it with this traceback and the output of "
    "`sima-hf env`."
)

# Where a raise statement of others is about arguments and names that a user gave, though the error is no OSError.
_ABOUT_ARGUMENTS = (
    "transformers.training_args",
    "transformers.hf_argparser",
    "transformers.models.auto",
    "accelerate.accelerator",
    "huggingface_hub",
)
# Where one is about files and the way to them; such an OSError has a text of its own and neither a file nor a number.
_ABOUT_FILES = ("transformers", "huggingface_hub", "datasets", "fsspec")
# The machine has no more of something.
_USED_UP = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EROFS, errno.EIO, errno.ENOMEM)


def sentence_of(error: BaseException, script: str | None = None) -> str | None:
    """The sentence for an error that a user can fix; None for a bug, whose traceback is wanted.

    These are errors of sima_hf's own types, ValueErrors and OSErrors that its code raises by a `raise` statement (not what merely
    happens in it, such as an unpacking that fails), files and a full disk, missing packages, and arguments that argument parsers
    or the Hub's client refuse.

    Args:
        error: as it was caught, with its traceback.
        script: `__name__` of a script whose own `raise` statements count, too.
    """
    name = type(error).__name__
    if name in ("OutOfMemoryError", "MemoryError") or (
        isinstance(error, RuntimeError) and "allocate memory" in str(error)
    ):
        return "Out of memory: lower the batch size or the number of images, or use a smaller model."
    if name == "SafetensorError":
        return f"The weights cannot be read, perhaps half-written: {error}. Get or write them again."
    if name.startswith("StrictDataclass"):  # a config's field of another type
        return " ".join(str(error).split())
    if isinstance(error, SimAError):
        return str(error)
    place = _raised_in(error)
    if isinstance(error, (ValueError, OSError, ImportError)) and _within(place, ("sima_hf", *filter(None, [script]))):
        return str(error)
    told = _TOLD.get(next((kind for kind in _TOLD if isinstance(error, kind)), None))
    sentence = told(error, place) if told else None
    return sentence and " ".join(sentence.split())


def traceback_wanted() -> bool:
    """Whether a user's mistakes are to come with their traceback, too: SIMA_HF_DEBUG=1 in the environment."""
    return os.environ.get("SIMA_HF_DEBUG", "") not in ("", "0")


def with_hint(error: BaseException) -> None:
    """Add to the traceback of a bug how to report it."""
    if hasattr(error, "add_note"):
        error.add_note(HINT)
    else:  # Python 3.10
        print(HINT, file=sys.stderr)


def _os_error(error: OSError, place: str) -> str | None:
    if error.strerror and error.filename:
        return f"{error.strerror}: {error.filename}"
    if error.errno in _USED_UP:
        return f"{error.strerror}."
    return str(error) if error.errno is None and _within(place, _ABOUT_FILES) else None


def _import_error(error: ImportError, place: str) -> str | None:
    """A package that is not there, or a library's word that one is missing; not a name that a module lacks."""
    missing = isinstance(error, ModuleNotFoundError) and not _within(error.name or "", ("sima_hf",))
    return str(error) if missing or error.name is None else None


def _value_error(error: ValueError, place: str) -> str | None:
    return str(error) if _within(place, _ABOUT_ARGUMENTS) else None


def _runtime_error(error: RuntimeError, place: str) -> str | None:
    return str(error) if "to be installed" in str(error) else None  # as Transformers says it of a tracker


_TOLD = {OSError: _os_error, ImportError: _import_error, ValueError: _value_error, RuntimeError: _runtime_error}


def _raised_in(error: BaseException) -> str:
    """The module whose `raise` statement an error comes from; "" where it came about otherwise."""
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    if last is None or last.tb_frame.f_code.co_code[last.tb_lasti] != opcode.opmap["RAISE_VARARGS"]:
        return ""
    return last.tb_frame.f_globals.get("__name__", "")


def _within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)

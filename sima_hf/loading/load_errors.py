"""Why a model cannot be loaded by its name, in a sentence: what is not there, and what the Hub or the way to it refuses."""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HTTPError,  # httpx's, of whichever version huggingface_hub brings
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from ..errors import CheckpointError, causes_of


ADAPTER = "adapter_config.json"


def check_name(name: str) -> None:
    """Refuse what is neither a folder nor a name on the Hub, before anybody is asked for it.

    Raises:
        CheckpointError: it is a file, an address, or a path to nothing.
    """
    path = Path(name)
    if path.is_dir():
        return
    if path.exists():
        raise CheckpointError(f"{name} is a file; give the folder that a model was saved in, or its name on the Hub.")
    address = _ADDRESS.match(name)
    if address:
        raise CheckpointError(
            f"{name} is an address; give the model's name on the Hub, {address['name'].removesuffix('.git')}, or a folder."
        )
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise CheckpointError(f"There is no folder {name} with a model in it.")


def check_no_adapter(folder: Path) -> None:
    """Refuse a folder that holds a PEFT adapter in place of a model.

    Raises:
        CheckpointError: it does; the text says how to merge it.
    """
    if (folder / ADAPTER).is_file() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"{folder} holds a PEFT adapter ({ADAPTER}) and no model of its own. Merge them: load the model that it was made for and "
            "`peft.PeftModel.from_pretrained(model, folder)`, call `model = model.merge_and_unload()`, and give what "
            "`model.save_pretrained(another_folder)` writes."
        )


_ADDRESS = re.compile(
    r"(?:hf://|\w+://[^/]*/|(?:www\.)?(?:huggingface\.co|hf\.co)/)(?:models/)?(?P<name>[^/?#]+(?:/[^/?#]+)?)"
)


@contextlib.contextmanager
def loading_errors(name: str, revision: str | None = None) -> Iterator[None]:
    """What Transformers raises while it loads a model, as CheckpointErrors with the sentence of `why_not_loaded`.

    Args:
        name: folder or Hub name.
        revision: that was asked for.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__name__ != "SafetensorError":
            raise
        raise CheckpointError(why_not_loaded(name, error, revision)) from error


def why_not_loaded(name: str, error: Exception, revision: str | None = None) -> str:
    """The sentence for a model that Transformers could not load by its name: what is not there, and whether the Hub was asked.

    Args:
        name: folder or Hub name.
        error: what was raised, with its causes.
        revision: that was asked for.
    """
    reason = " ".join(str(error).split())
    folder = Path(name)
    if type(error).__name__ == "SafetensorError":
        return f"The weights in {name} cannot be read, perhaps half-written: {reason.rstrip('.')}. Get or write them again."
    if folder.is_dir():
        if (folder / "config.json").is_file() and not any([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
            return (
                f"{name} is not a complete model: it has no model.safetensors. If something was writing it, it was not finished: "
                "get or write it again."
            )
        return f"{name} cannot be loaded: {reason}"
    if constants.HF_HUB_OFFLINE:
        return (
            f"There is no folder {name}, and no model of that name in {constants.HF_HUB_CACHE}; the Hub is not asked because "
            "HF_HUB_OFFLINE is set."
        )
    return refused_by_hub(name, error, revision) or f"{name} cannot be loaded from the Hub: {reason}"


_LOG_IN = "log in with `hf auth login`, or give a token from https://huggingface.co/settings/tokens as HF_TOKEN"


def refused_by_hub(name: str, error: Exception, revision: str | None = None) -> str | None:
    """The sentence for what the Hub, or the way to it, refused of a model that is no folder here; None for other errors, and offline.

    Args:
        name, error, revision: as for `why_not_loaded`.
    """
    if constants.HF_HUB_OFFLINE:
        return None
    causes = list(causes_of(error))
    answer = next((one for one in causes if isinstance(one, HfHubHTTPError)), None)
    status = getattr(getattr(answer, "response", None), "status_code", None)
    if isinstance(answer, RevisionNotFoundError):
        return (
            f"{name} has no revision {revision or 'main'} on the Hub; name a branch, a tag or a commit that is there."
        )
    if isinstance(answer, GatedRepoError):
        return f"{name} is gated: ask for access on its page on the Hub, then {_LOG_IN}."
    if isinstance(answer, RepositoryNotFoundError):
        return (
            f"There is no folder {name}, and no model of that name on the Hub, or not for you. Check the name; if the model is private, "
            f"{_LOG_IN}."
        )
    if status == 401:
        return f"The Hub rejected the token, so {name} could not be downloaded. Remove it, or {_LOG_IN}."
    if status == 403:
        return f"The token has no read access to {name}. Use one that has: {_LOG_IN}."
    if status == 429:
        return f"The Hub limits the rate of requests, so {name} could not be downloaded. Run the same command again later."
    if status is not None and status >= 500:
        return f"The Hub failed ({status}), so {name} could not be downloaded. Run the same command again later."
    if status is None and any(
        isinstance(one, (LocalEntryNotFoundError, HTTPError, ConnectionError)) for one in causes
    ):
        last = " ".join(str(causes[-1]).split()).rstrip(".") or type(causes[-1]).__name__
        return (
            f"The Hub cannot be reached ({last}), and there is no folder {name} here, nor all of that model in the cache. Check the "
            "name and the connection."
        )
    return None

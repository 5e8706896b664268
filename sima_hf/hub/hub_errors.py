"""What the Hub or the way to it refuses, as sentences that say what to do."""

import contextlib
import traceback
from collections.abc import Iterator

from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # httpx's, of whichever version huggingface_hub brings; errors of the connection are among its children
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
)

from ..errors import PublishError, causes_of
from .tokens import without_tokens


_AGAIN = "Run the same command again"
_LONGEST = 600  # characters of another library's message
_TOKEN = "Log in with `hf auth login`, or give a token from https://huggingface.co/settings/tokens as HF_TOKEN."
# Status of the answer -> what it means and what to do; {repo} and {server} are filled in.
_MEANINGS = {
    400: "The Hub does not accept what was sent for {repo}{server}.",
    401: f"The Hub does not know this token, or there is none, so nothing was pushed to {{repo}}{{server}}. {_TOKEN}",
    403: "This token may not write to {repo}{server}. Take one with write access to that name, or a name of your own.",
    404: "There is no repository {repo} that this token may see, and none could be made{server}. Check the name. "
    + _TOKEN,
    409: f"{{repo}} was changed by somebody else at the same moment{{server}}. {_AGAIN}; it takes up what is there now.",
    412: f"{{repo}} was changed by somebody else during the push, which was stopped so as not to undo that{{server}}. {_AGAIN}.",
    413: "The Hub finds something in this push to {repo} too large{server}.",
    429: f"The Hub asks for fewer requests and took nothing more for {{repo}}{{server}}.{{wait}} {_AGAIN} then: what has arrived is "
    "not sent a second time.",
}
_TROUBLE = f"The Hub has trouble of its own ({{status}}) and took nothing for {{repo}}{{server}}. {_AGAIN} later."


@contextlib.contextmanager
def hub_errors(repo_id: str, token: str | bool | None = None) -> Iterator[None]:
    """Turn errors of huggingface_hub within the block into sentences.

    Args:
        repo_id: what the block writes to.
        token: what it writes with, which no sentence repeats.

    Raises:
        PublishError: in place of any error of the Hub, its client or the connection, which stays its cause. Others are as they are.
    """
    try:
        yield
    except PublishError:
        raise
    except Exception as error:
        said = _said_by(error)
        if said is None:
            raise  # a mistake of ours, not the Hub's
        raise PublishError(_sentence(said, repo_id, token)) from error


def why_unseen(error: Exception, token: str | bool | None = None) -> str | None:
    """Why a repository could not be looked at, as a clause; None for an error that is neither the Hub's nor the connection's.

    Args:
        error: what looking raised.
        token: what was looked with, which the clause does not repeat.
    """
    said = _said_by(error)
    if said is None:
        return None
    if isinstance(said, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    if isinstance(said, LocalTokenNotFoundError):
        return "there is no token to look with"
    if isinstance(said, HfHubHTTPError) and said.response.status_code in (401, 403, 404):
        return "there is none of that name that this token may see"
    return f"the Hub did not say: {_line(said, token)}"


def _said_by(error: Exception) -> BaseException | None:
    """The error that says most of what the Hub, the client or the connection refused; None where none of them did."""
    raised = [one for one in causes_of(error) if isinstance(one, (HTTPError, OSError))]
    if not raised and not (isinstance(error, (RuntimeError, ValueError)) and _in_the_client(error)):
        return None
    if not raised or (isinstance(error, ValueError) and error not in raised):
        return error  # it says more than its cause
    # An answer says more than what the client made of it.
    return next((one for one in raised if isinstance(one, HfHubHTTPError)), raised[0])


def _in_the_client(error: BaseException) -> bool:
    """Whether huggingface_hub was running when an error was raised."""
    frames = (frame for frame, _ in traceback.walk_tb(error.__traceback__))
    return any(frame.f_globals.get("__name__", "").partition(".")[0] == "huggingface_hub" for frame in frames)


def _sentence(error: BaseException, repo_id: str, token: str | bool | None) -> str:
    if isinstance(error, LocalTokenNotFoundError):
        return f"There is no token to push to {repo_id} with. {_TOKEN}"
    if isinstance(error, OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set, so nothing can be pushed to {repo_id}. Unset it, or look at the plan with a dry run."
    if isinstance(error, HfHubHTTPError):
        return _answered(error, repo_id, token)
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} could not be read ({error.strerror}), so nothing was pushed to {repo_id}."
    if isinstance(error, (HTTPError, OSError)):
        return (
            f"The connection to the Hub was lost or not made ({_line(error, token)}). A push is one commit, so {repo_id} has "
            f"all of it or nothing of it. {_AGAIN}; files that have arrived are not sent a second time."
        )
    return (
        f"The push to {repo_id} did not succeed: {_line(error, token)}. A push is one commit, so {repo_id} has all of it or nothing "
        "of it."
    )


def _answered(error: HfHubHTTPError, repo_id: str, token: str | bool | None) -> str:
    """What an answer with an error's status means."""
    status = error.response.status_code
    said = without_tokens(error.server_message or "", token).strip().rstrip(".")
    words = {
        "repo": repo_id,
        "server": f' (it says: "{said}")' if said else "",
        "status": status,
        "wait": _wait(error.response.headers.get("Retry-After")),
    }
    return _MEANINGS.get(status, _TROUBLE if status >= 500 else _MEANINGS[400]).format(**words)


def _wait(seconds: str | None) -> str:
    return f" It says to wait {seconds} seconds." if seconds and seconds.isdigit() and int(seconds) else ""


def _line(error: BaseException, token: str | bool | None) -> str:
    text = " ".join(without_tokens(str(error), token).split())
    return text[:_LONGEST].rstrip(".") or type(error).__name__

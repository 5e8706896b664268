"""What the Hub, its client or the connection refuses, as sentences that say what to do and never show a token."""

import contextlib
import re
from collections.abc import Iterator

from huggingface_hub import get_token
from huggingface_hub.errors import (
    HfHubHTTPError,
    HTTPError,  # httpx's, of whichever version huggingface_hub brings; errors of the connection are among its children
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RevisionNotFoundError,
)

from ..errors import PublishError, causes_of


_LOGIN = "Log in with `hf auth login`, or set HF_TOKEN to a token from https://huggingface.co/settings/tokens."
_AGAIN = "Run the same command again: what has arrived is not sent a second time."
_ATOMIC = "A push is one commit, so {repo} has all of it or nothing of it. " + _AGAIN
_TROUBLE = ("The Hub has trouble of its own ({status})", _ATOMIC)
# Status of the Hub's answer -> what it means, what to do.
_MEANINGS = {
    400: ("The Hub does not accept what was sent for {repo}", "Nothing was pushed."),
    401: ("The Hub does not know this token, or none was given", f"Nothing was pushed to {{repo}}. {_LOGIN}"),
    403: ("This token may not write to {repo}", "Use a token with write access, or a name of your own."),
    404: ("There is no repository {repo} that this token may see", f"Check the name. {_LOGIN}"),
    409: ("{repo} was changed by somebody else at the same moment", f"Nothing was pushed. {_AGAIN}"),
    412: (
        "{repo} was changed by somebody else during the push",
        f"Nothing was pushed, so as not to undo that. {_AGAIN}",
    ),
    413: ("The Hub finds something in this push to {repo} too large", "Nothing was pushed."),
    429: ("The Hub asks for fewer requests{wait}", f"Nothing was pushed to {{repo}}. {_AGAIN}"),
}
# What looks like a token, or stands where one is sent; "org/hf_model" is a repository.
_TOKEN = re.compile(r"(?<=Bearer )[^\s'\"]+|(?<![\w/.-])hf_[^\s'\"<>,;)]+")
_LONGEST = 600  # characters of another library's message


class HubError(PublishError):
    """What the Hub, its client or the connection refused; `reason` is the first clause of the text."""

    def __init__(self, reason: str, remedy: str):
        super().__init__(f"{reason}. {remedy}")
        self.reason = reason


@contextlib.contextmanager
def hub_errors(repo_id: str, token: str | bool | None = None) -> Iterator[None]:
    """Turn errors of huggingface_hub within the block into sentences.

    Args:
        repo_id: the repository that the block is about.
        token: what it is asked with, which no sentence repeats.

    Raises:
        HubError: in place of errors of the Hub, its client or the connection, which stay its cause.
        PublishError: a pull request is not there.
    """
    try:
        yield
    except PublishError:
        raise
    except RevisionNotFoundError as error:
        raise PublishError(
            f"`revision` must be a pull request that is open in {repo_id}, or a branch. Open one on its page, under Community."
        ) from error
    except (HTTPError, OSError, RuntimeError, ValueError) as error:
        raise HubError(*_told(error, repo_id, token)) from error


def _told(error: Exception, repo_id: str, token: str | bool | None) -> tuple[str, str]:
    """What happened, as a clause, and what to do, as sentences."""
    answers = [one for one in causes_of(error) if isinstance(one, HfHubHTTPError)]
    if answers and not isinstance(error, ValueError):  # which says more than the answer that it is made of
        response = answers[0].response
        status, seconds = response.status_code, response.headers.get("Retry-After", "")
        words = {"repo": repo_id, "status": status, "wait": f"; wait {seconds} seconds" if seconds.isdigit() else ""}
        what, remedy = _MEANINGS.get(status, _TROUBLE if status >= 500 else _MEANINGS[400])
        said = _shown(answers[0].server_message or "", token)
        what = what.format(**words) + (f' (it says: "{said}")' if said else "")
        return what, remedy.format(**words)
    said, atomic = _shown(str(error), token) or type(error).__name__, _ATOMIC.format(repo=repo_id)
    if isinstance(error, LocalTokenNotFoundError):
        return "There is no token to ask the Hub with", _LOGIN
    if isinstance(error, OfflineModeIsEnabled):
        return (
            "HF_HUB_OFFLINE is set",
            f"Nothing was pushed to {repo_id}. Unset it, or look at the plan with a dry run.",
        )
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename} could not be read ({error.strerror})", f"Nothing was pushed to {repo_id}."
    if any(isinstance(one, (HTTPError, OSError)) for one in causes_of(error)):
        return f"The connection to the Hub was lost or not made ({said})", atomic
    return f"The push to {repo_id} did not succeed: {said}", atomic


def checked_token(token: str | bool | None) -> str | bool | None:
    """A token without the spaces and line ends that copying leaves around it.

    Raises:
        PublishError: it, or the one of HF_TOKEN or the login where none is given, is nothing that can be sent.
    """
    token = token.strip() if isinstance(token, str) else token
    sent = token if isinstance(token, str) else None if token is False else get_token()
    if sent is not None and not re.fullmatch("[!-~]+", sent):
        where = "`token`" if isinstance(token, str) else "The token from HF_TOKEN or the login"
        raise PublishError(f"{where} must be ASCII without spaces, got something else, which is not shown. {_LOGIN}")
    return token


def without_tokens(text: str, token: str | bool | None = None) -> str:
    """Another library's words without what is, or looks like, a token."""
    if isinstance(token, str) and token.strip():
        text = text.replace(token.strip(), "***")
    return _TOKEN.sub("***", text)


def _shown(text: str, token: str | bool | None) -> str:
    return " ".join(without_tokens(text, token).split())[:_LONGEST].rstrip(".")

"""The Hub's token: one that can be sent at all, and never shown."""

import re

from ..errors import PublishError


_HELP = "Log in with `hf auth login`, or give one from https://huggingface.co/settings/tokens as HF_TOKEN."
_SHOWN = "***"
# What looks like one, or stands where one is sent, in what other libraries say; "org/hf_model" is a repository.
_LIKE = re.compile(r"(?<=Bearer )[^\s'\"]+|(?<![\w/.-])hf_[^\s'\"<>,;)]+")


def checked_token(token: str | bool | None) -> str | bool | None:
    """A token as it can be sent: without the line's end or spaces that copying leaves around it.

    Args:
        token: as `push` takes it. Where it is True or None, the one of HF_TOKEN or of the login is looked at, and left to the client.

    Raises:
        PublishError: it is empty, or has characters that no token has. The text does not repeat it.
    """
    from huggingface_hub import get_token

    if not isinstance(token, str):
        _check("The Hub's token, from HF_TOKEN or a login,", None if token is False else get_token())
        return token
    token = token.strip()
    _check("The token that was given", token)
    return token


def _check(what: str, token: str | None) -> None:
    if token is None:
        return
    if not token:
        raise PublishError(f"{what} is empty. {_HELP}")
    if not all("!" <= letter <= "~" for letter in token):
        raise PublishError(
            f"{what} has spaces, control characters or letters beyond ASCII in it, which no token has; it is not shown here. Copy it "
            f"again. {_HELP}"
        )


def without_tokens(text: str, token: str | bool | None = None) -> str:
    """Another library's words without what is, or looks like, a token."""
    if isinstance(token, str) and token.strip():
        text = text.replace(token.strip(), _SHOWN)
    return _LIKE.sub(_SHOWN, text)

"""What a push may go to: a branch by a name that git allows, or a pull request that is open already."""

import re

from ..errors import PublishError


_PULL_REQUEST = re.compile(r"refs/pr/[1-9][0-9]*")
_COMMIT = re.compile(r"[0-9a-fA-F]{40}")
# What a name is refused for, after git-check-ref-format and git-branch; the first row that fits says why.
_REFUSED = (
    (_COMMIT, "that is a commit, which stays as it is"),
    (re.compile(r"HEAD|@"), "git means by it what is checked out"),
    (re.compile(r"refs/heads/.*"), "that is a branch's full name; leave out refs/heads/"),
    (re.compile(r"refs/.*"), "of names that begin with refs/, only refs/pr/N, of a pull request, can be pushed to"),
    (re.compile(r"-.*"), "git takes it for an option"),
    (
        re.compile(r".*([\x00-\x20\x7f~^:?*\[\\]|\.\.|@\{).*", re.DOTALL),
        "git allows no spaces, none of ~^:?*[\\ and no .. or @{ in it",
    ),
    (re.compile(r"/.*|.*//.*|.*/"), "git allows slashes only between two parts of it"),
    (
        re.compile(r"(.*/)?\..*|.*\.|.*\.lock(/.*)?"),
        "git allows no part of it that begins with a dot, and none that ends with one or with .lock",
    ),
)


def is_pull_request(revision: str | None) -> bool:
    """Whether a revision is a pull request's, as the Hub writes it: refs/pr/N."""
    return revision is not None and _PULL_REQUEST.fullmatch(revision) is not None


def check_revision(revision: str | None) -> None:
    """Refuse what nothing can be pushed to, before anybody is asked; None is the main branch.

    Raises:
        PublishError: it is empty, a commit, or no name that git allows for a branch.
    """
    if revision is None or is_pull_request(revision):
        return
    if not revision.strip():
        raise PublishError("The revision to push to is empty; name a branch, or leave it out for the main one.")
    why = next((reason for pattern, reason in _REFUSED if pattern.fullmatch(revision)), None)
    if why:
        raise PublishError(
            f"Nothing can be pushed to the revision {revision!r}: {why}. Name a branch, or a pull request as refs/pr/N, or leave it "
            "out for the main one."
        )

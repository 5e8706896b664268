"""Names that the Hub takes: of repositories, branches and pull requests."""

import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..errors import PublishError


_PULL_REQUEST = re.compile(r"refs/pr/[1-9][0-9]*")
# What git-check-ref-format does not allow for a branch, and what git takes for something else: a commit, HEAD, an option.
_NO_BRANCH = re.compile(
    r"\s*|[0-9a-fA-F]{40}|HEAD|@|refs/.*|[-/.].*|.*[/.]|.*\.lock|.*([\x00-\x20\x7f~^:?*\[\\]|\.\.|//|/\.|@\{|\.lock/).*",
    re.DOTALL,
)


def check_repo_id(repo_id: str) -> str:
    """A repository's name as it is.

    Raises:
        PublishError: the Hub does not take it.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"`repo_id` must be a repository's name on the Hub, got {repo_id!r}: {error}") from error
    return repo_id


def allowed_name(name: str) -> str:
    """A folder's name as the Hub allows it: ASCII letters, digits and underscores, single dashes and dots within."""
    name = re.sub(r"[^A-Za-z0-9_]+", lambda run: "." if run[0] == "." else "-", name)
    name = name.strip("-.")[:96].rstrip("-.")
    return re.sub(r"\.git$", "-git", name) or "model"


def is_pull_request(revision: str | None) -> bool:
    """Whether a revision is a pull request, which the Hub writes as refs/pr/N."""
    return revision is not None and _PULL_REQUEST.fullmatch(revision) is not None


def check_revision(revision: str | None) -> None:
    """Refuse what nothing can be pushed to; None is the main branch.

    Raises:
        PublishError: it is neither a pull request nor a name that git allows for a branch.
    """
    if revision is None or is_pull_request(revision):
        return
    if _NO_BRANCH.fullmatch(revision):
        raise PublishError(
            f"`revision` must be a branch by a name that git allows, or a pull request as refs/pr/N, got {revision!r}. Leave it out "
            "for the main branch."
        )

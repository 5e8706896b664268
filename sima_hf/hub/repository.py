"""What a repository has before a push. Reading it changes nothing there."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

from ..errors import PublishError
from ..folders.file_names import CONFIG, json_or_nothing
from ..version import __version__
from .hub_errors import hub_errors
from .names import is_pull_request
from .stage import README, read_text
from .stale_files import is_own_code


@dataclass(frozen=True)
class Repository:
    """A repository at the commit that a push starts from.

    Attributes:
        api: to ask the Hub with.
        repo_id: with the account's name.
        revision: branch or pull request; None for the main branch.
        commit: SHA; what is removed is what is there then.
        new_branch: whether `revision` has to be made.
        names: of all its files.
        cache: folder for what is downloaded.
    """

    api: HfApi
    repo_id: str
    revision: str | None
    commit: str | None
    new_branch: bool
    names: frozenset[str]
    cache: Path

    def fetch(self, name: str) -> Path | None:
        """One of its files, under its own name in the cache; None where there is none.

        Raises:
            HubError: the Hub does not answer.
        """
        with hub_errors(self.repo_id, self.api.token):
            try:
                return Path(self.api.hf_hub_download(self.repo_id, name, revision=self.commit, cache_dir=self.cache))
            except LocalEntryNotFoundError:  # the Hub did not answer, so there may be one
                raise
            except EntryNotFoundError:
                return None

    @property
    def card(self) -> str | None:
        """Its README; None where it has none."""
        path = self.fetch(README)
        return None if path is None else read_text(path)

    @property
    def auto_map(self) -> Any:
        """Where its config.json says that the model's code is; read only where some of its files may be sima_hf's code."""
        if CONFIG not in self.names or not any(map(is_own_code, self.names)):
            return None
        path = self.fetch(CONFIG)
        return None if path is None else json_or_nothing(path).get("auto_map")


def hub_api(token: str | bool | None) -> HfApi:
    """The client that all requests of a push go through."""
    return HfApi(token=token, library_name="sima_hf", library_version=__version__)


@contextmanager
def read_repository(api: HfApi, repo_id: str, private: bool | None, revision: str | None) -> Iterator[Repository]:
    """A repository as it is now; what is downloaded of it is removed at the end of the block.

    Raises:
        PublishError: a push to it would be refused: it is public and a private one was asked for, the revision is a tag, or a pull
            request that is not there.
        HubError: the Hub does not answer, or has no such repository.
    """
    with tempfile.TemporaryDirectory(prefix="sima-hf-") as cache:
        with hub_errors(repo_id, api.token):
            repo_id = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
            main = api.repo_info(repo_id)
            if private and not main.private:
                raise PublishError(
                    f"{repo_id} exists and is public, but a private one was asked for. Nothing was pushed. Make it private in its "
                    "settings, or name another."
                )
            new = _is_new_branch(api, repo_id, revision)
            commit = main.sha if new or revision is None else api.repo_info(repo_id, revision=revision).sha
            names = frozenset(api.list_repo_files(repo_id, revision=commit))
        yield Repository(api, repo_id, revision, commit, new, names, Path(cache))


def _is_new_branch(api: HfApi, repo_id: str, revision: str | None) -> bool:
    if revision is None or is_pull_request(revision):
        return False
    refs = api.list_repo_refs(repo_id)
    if revision in {tag.name for tag in refs.tags}:
        raise PublishError(
            f"`revision` must be a branch, got {revision!r}, which is a tag in {repo_id} and stays where it is."
        )
    return revision not in {branch.name for branch in refs.branches}

"""Publish a model's folder on the Hub: first a plan that can be read, then one commit that has all of it or nothing."""

import functools
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from ..errors import PublishError
from ..folders.weights import some
from ..patching.certificate import Certificate
from ..version import __version__
from .cards.facts import CardFacts
from .checks import CONFIG, check_folder
from .hub_errors import hub_errors, why_unseen
from .names import check_revision, is_pull_request
from .plan import Publication, PushPlan, read_text
from .stage import README
from .stale_files import RepositoryFiles
from .tokens import checked_token
from .unchanged import check_unchanged


@dataclass(frozen=True)
class PushResult:
    """What a push did.

    Attributes:
        repo_id: with the account's name.
        commit: SHA of the commit that has it; None after a dry run.
        url: page of the repository at this revision; None after a dry run.
        plan: what was done, or would be.
        changed: whether there was anything to commit; a push of what is there already makes none.
    """

    repo_id: str
    commit: str | None
    url: str | None
    plan: PushPlan
    changed: bool


def plan_push(
    folder: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    facts: CardFacts | None = None,
    existing_card: str | None = None,
    certificate: Certificate | None = None,
) -> PushPlan:
    """Check a folder and say what a push of it would publish. Touches nothing and uses no network.

    What the repository holds is therefore not known, nor what of it the push would take out; see `PushPlan.removed`.

    Args:
        folder: of a SimA model, as `save_pretrained` writes it.
        repo_id: "organization/name".
        private: as for `push`, as are `revision` and `commit_message`.
        revision: shown in the plan; the card's examples load it.
        commit_message: shown in the plan.
        token: taken so that the arguments of `push` fit; nobody is asked, so it is only seen to be one.
        facts: what the card is written from; by default what the folder's own files say, see `find_facts`.
        existing_card: README of the repository, if there is one; the card is merged with it, or with the folder's own.
        certificate: see `check_folder`.

    Returns:
        The plan; printing it shows all of it.

    Raises:
        PublishError: the folder cannot be published, or a name or the token is none that the Hub takes; with the reason.
    """
    _check_names(repo_id, revision, commit_message)
    if isinstance(token, str):
        checked_token(token)
    checked = check_folder(folder, certificate)
    return Publication(checked, private, revision, commit_message, facts).plan(repo_id, existing_card)


def push(
    folder: str | Path,
    repo_id: str,
    *,
    dry_run: bool = False,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    token: str | bool | None = None,
    facts: CardFacts | None = None,
    certificate: Certificate | None = None,
) -> PushResult:
    """Publish a folder in one commit; the repository and its branch are made if need be, and its other files stay.

    What readers would load in place of this model or with it does not stay: weights, adapters, processors and sima_hf's own code of
    an earlier model are taken out in the same commit, see `PushPlan.removed`.

    An interrupted push leaves the files of the repository as they were. The next one sends only what has not arrived.

    Args:
        folder: of a SimA model, as `save_pretrained` writes it. Nothing in it is changed.
        repo_id: "organization/name", or a name in your own account.
        dry_run: stop after the plan. The repository is read, to say what of it would go, and nothing is sent or made; where it cannot
            be read, offline or without rights, the plan says so.
        private: whether a repository that is made is private; None leaves it to the account. One that is public is refused if
            private was asked for.
        revision: branch to push to, made from the main one if it does not exist; or refs/pr/N, a pull request that is open.
        commit_message: by default it names the model's class and the version of sima_hf.
        token: of the Hub; by default the one that `hf auth login` keeps, or HF_TOKEN.
        facts: as for `plan_push`.
        certificate: as for `plan_push`.

    Returns:
        Where it is, with the commit.

    Raises:
        PublishError: the folder cannot be published, or the Hub did not take it; with the reason, and what to do.
    """
    _check_names(repo_id, revision, commit_message)
    if not dry_run or isinstance(token, str):
        token = checked_token(token)
    publication = Publication(check_folder(folder, certificate), private, revision, commit_message, facts)
    if dry_run:
        plan = _would_be(publication, repo_id, checked_token(token))
        return PushResult(plan.repo_id, None, None, plan, False)
    api = _api(token)
    with hub_errors(repo_id, token), tempfile.TemporaryDirectory() as aside:
        seen = _look(api, publication, _repository(api, repo_id, private, revision), aside)
        commit = _commit(api, seen.plan, seen.start, seen.new_branch, publication.checked.hashes)
    place = f"/tree/{quote(revision, safe='')}" if revision else ""
    repo_id = seen.plan.repo_id
    return PushResult(repo_id, commit, f"{api.endpoint}/{repo_id}{place}", seen.plan, commit != seen.start)


@dataclass(frozen=True)
class _Seen:
    """A plan that knows what the repository has; the commit that it was looked at, and whether the branch has to be made."""

    plan: PushPlan
    start: str | None
    new_branch: bool


def _api(token: str | bool | None):
    from huggingface_hub import HfApi

    return HfApi(token=token, library_name="sima_hf", library_version=__version__)


def _look(api, publication: Publication, repo_id: str, aside: str) -> _Seen:
    """Read what a repository has and plan the push to it; `aside` is a folder for what is read. Nothing is changed there.

    Raises:
        PublishError: a push to it would be refused.
    """
    revision, main = publication.revision, api.repo_info(repo_id)
    if publication.private and not main.private:
        raise PublishError(
            f"{repo_id} exists and is public, but a private one was asked for. Nothing was pushed. Make it private in its "
            "settings, or name another."
        )
    new = _is_new(api, repo_id, revision)
    start = main.sha if new or revision is None else _commit_of(api, repo_id, revision)
    there = _files_of(api, repo_id, start)
    fetch = functools.partial(_fetch, api, repo_id, commit=start, cache=aside)
    plan = publication.plan(repo_id, _text_of(api, repo_id, README, start), there, fetch)
    return _Seen(plan, start, new)


def _would_be(publication: Publication, repo_id: str, token: str | bool | None) -> PushPlan:
    """The plan of a dry run: of what the repository has where that can be seen, else with the reason why not."""
    api = _api(token)
    try:
        with tempfile.TemporaryDirectory() as aside:
            full = repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"
            return _look(api, publication, full, aside).plan
    except PublishError:
        raise
    except Exception as error:
        why = why_unseen(error, token)
        if why is None:
            raise
        return replace(publication.plan(repo_id), unseen=why)


def _check_names(repo_id: str, revision: str | None, commit_message: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no name for a repository on the Hub: {error}") from error
    check_revision(revision)
    if commit_message is not None and not commit_message.strip():
        raise PublishError("The commit message is empty; write one, or leave it out for one that names the model.")


def _repository(api, repo_id: str, private: bool | None, revision: str | None) -> str:
    """The repository's full name; it is made if need be, but not for a pull request, which may be to somebody else's."""
    if not is_pull_request(revision):
        return api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    return repo_id if "/" in repo_id else f"{api.whoami()['name']}/{repo_id}"


def _is_new(api, repo_id: str, revision: str | None) -> bool:
    """Whether a branch has to be made."""
    if revision is None or is_pull_request(revision):
        return False
    refs = api.list_repo_refs(repo_id)
    if revision in {tag.name for tag in refs.tags}:
        raise PublishError(f"{revision} is a tag in {repo_id}, which stays where it is; name a branch to push to.")
    return revision not in {branch.name for branch in refs.branches}


def _commit_of(api, repo_id: str, revision: str) -> str | None:
    """The commit that a branch or a pull request is at."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return api.repo_info(repo_id, revision=revision).sha
    except RevisionNotFoundError as error:
        if not is_pull_request(revision):
            raise
        raise PublishError(
            f"There is no pull request {revision} in {repo_id}. Nothing was pushed. Open one on its page, under Community, or name a "
            "branch."
        ) from error


def _files_of(api, repo_id: str, commit: str | None) -> RepositoryFiles:
    """What a repository holds at a commit."""
    there = RepositoryFiles(frozenset(api.list_repo_files(repo_id, revision=commit)), {})
    if CONFIG not in there.names or not there.may_have_code():
        return there
    try:
        content = json.loads(_text_of(api, repo_id, CONFIG, commit) or "{}")
    except (ValueError, PublishError):  # nobody can load by it
        return there
    found = content.get("auto_map") if isinstance(content, dict) else None
    return RepositoryFiles(there.names, found if isinstance(found, dict) else {})


def _text_of(api, repo_id: str, name: str, commit: str | None) -> str | None:
    """A file at a commit of the repository; None where there is none."""
    with tempfile.TemporaryDirectory() as cache:
        path = _fetch(api, repo_id, name, commit, cache)
        return None if path is None else read_text(path)


def _fetch(api, repo_id: str, name: str, commit: str | None, cache: str) -> Path | None:
    """A file at a commit of the repository, under its own name in a folder's cache; None where there is none."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    try:
        return Path(api.hf_hub_download(repo_id, name, revision=commit, cache_dir=cache))
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):  # the Hub did not answer, so there may be one
            raise
        return None


def _commit(api, plan: PushPlan, start: str | None, new_branch: bool, hashes: Mapping[Path, str]) -> str:
    """Send the files, then make the branch if it is new, then the one commit, which also takes files out; returns its SHA.

    Args:
        api: the `HfApi` to ask.
        plan: what to send.
        start: commit that the branch, or the main one for a new branch, is at. If it has moved meanwhile, the Hub refuses.
        new_branch: whether `plan.revision` does not exist.
        hashes: of the files that were checked; the client hashes each file anew, and sends only what has that hash.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    sources = [str(file.source) if file.content is None else file.content for file in plan.files]
    additions = [CommitOperationAdd(file.name, source) for file, source in zip(plan.files, sources, strict=True)]
    sent = {
        file.source: one.upload_info.sha256.hex()
        for file, one in zip(plan.files, additions, strict=True)
        if file.content is None
    }
    check_unchanged(hashes, sent)
    api.preupload_lfs_files(plan.repo_id, additions, revision=None if new_branch else plan.revision, free_memory=False)
    # Known before the commit if the client marks them so, and in any case after it.
    ignored = [one.path_in_repo for one in additions if getattr(one, "_should_ignore", False)]
    if ignored:
        raise PublishError(
            f"The .gitignore in {plan.repo_id} keeps {some(ignored)} out of every commit, so the model would not be whole there. "
            "Nothing was pushed; take these patterns out of that file."
        )
    # A branch that was made stays where the commit fails: with a lost answer, nobody here knows that it did.
    if new_branch:
        api.create_branch(plan.repo_id, branch=plan.revision, revision=start)
    removals = [CommitOperationDelete(name, is_folder=False) for name in plan.removed or ()]
    info = api.create_commit(
        plan.repo_id,
        [*additions, *removals],
        commit_message=plan.commit_message,
        revision=plan.revision,
        parent_commit=start,  # what is taken out is what was there then
    )
    _check_arrived(api, plan, additions, plan.revision if is_pull_request(plan.revision) else info.oid)
    return info.oid


def _check_arrived(api, plan: PushPlan, additions: list, commit: str) -> None:
    """Whether a commit has all that was sent: the client leaves out what a .gitignore of the repository names."""
    there = {one.path: one for one in api.list_repo_tree(plan.repo_id, revision=commit, recursive=True)}
    lacking = [one.path_in_repo for one in additions if not _is_same(there.get(one.path_in_repo), one.upload_info)]
    if lacking:
        raise PublishError(
            f"The commit that was made in {plan.repo_id} lacks {some(lacking)} as they were sent, so the model is not whole there. If a "
            ".gitignore there names them, take these patterns out of it; then push again."
        )


def _is_same(file, sent) -> bool:
    """Whether what a repository lists under a name is what was sent, as far as the listing tells."""
    return getattr(file, "size", None) == sent.size and (file.lfs is None or file.lfs.sha256 == sent.sha256.hex())

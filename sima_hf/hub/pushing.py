"""Publish a model's folder on the Hub: first a plan that can be read, then one commit that has all of it or nothing."""

import tempfile
from dataclasses import dataclass
from pathlib import Path

from ..errors import PublishError
from ..patching.certificate import Certificate
from ..version import __version__
from .cards.facts import CardFacts
from .folder import check_folder
from .hub_errors import hub_errors
from .published_files import README
from .push_plan import Publication, PushPlan, read_text
from .weights_check import some


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

    Args:
        folder: of a SimA model, as `save_pretrained` writes it.
        repo_id: "organization/name".
        private: as for `push`, as are `revision` and `commit_message`.
        revision: shown in the plan; the card's examples load it.
        commit_message: shown in the plan.
        token: taken so that the arguments of `push` fit; nobody is asked, so it is not used.
        facts: what the card is written from; by default what the folder's own files say, see `find_facts`.
        existing_card: README of the repository, if there is one; the card is merged with it, or with the folder's own.
        certificate: see `check_folder`.

    Returns:
        The plan; printing it shows all of it.

    Raises:
        PublishError: the folder cannot be published, or the name is none that the Hub takes; with the reason.
    """
    _check_names(repo_id, revision, commit_message)
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

    An interrupted push leaves the files of the repository as they were. The next one sends only what has not arrived.

    Args:
        folder: of a SimA model, as `save_pretrained` writes it. Nothing in it is changed.
        repo_id: "organization/name", or a name in your own account.
        dry_run: stop after the plan; no network is used.
        private: whether a repository that is made is private; None leaves it to the account. One that is public is refused if
            private was asked for.
        revision: branch to push to; made from the main one if it does not exist.
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
    publication = Publication(check_folder(folder, certificate), private, revision, commit_message, facts)
    plan = publication.plan(repo_id)
    if dry_run:
        return PushResult(repo_id, None, None, plan, False)
    from huggingface_hub import HfApi

    api = HfApi(token=token, library_name="sima_hf", library_version=__version__)
    with hub_errors(repo_id):
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        main = api.repo_info(repo_id)
        if private and not main.private:
            raise PublishError(
                f"{repo_id} exists and is public, but a private one was asked for. Nothing was pushed. Make it private in its "
                "settings, or name another."
            )
        new = _is_new(api, repo_id, revision)
        start = main.sha if new or revision is None else api.repo_info(repo_id, revision=revision).sha
        plan = publication.plan(repo_id, _readme_of(api, repo_id, start))
        commit = _commit(api, plan, start, new)
    place = f"/tree/{revision}" if revision else ""
    return PushResult(repo_id, commit, f"{api.endpoint}/{repo_id}{place}", plan, commit != start)


def _check_names(repo_id: str, revision: str | None, commit_message: str | None) -> None:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise PublishError(f"{repo_id!r} is no name for a repository on the Hub: {error}") from error
    if revision is not None and not revision.strip():
        raise PublishError("The revision to push to is empty; name a branch, or leave it out for the main one.")
    if commit_message is not None and not commit_message.strip():
        raise PublishError("The commit message is empty; write one, or leave it out for one that names the model.")


def _is_new(api, repo_id: str, revision: str | None) -> bool:
    """Whether a branch has to be made."""
    if revision is None:
        return False
    refs = api.list_repo_refs(repo_id)
    if revision in {tag.name for tag in refs.tags}:
        raise PublishError(f"{revision} is a tag in {repo_id}, which stays where it is; name a branch to push to.")
    return revision not in {branch.name for branch in refs.branches}


def _readme_of(api, repo_id: str, revision: str | None) -> str | None:
    """The README at a commit of the repository; None where there is none."""
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    with tempfile.TemporaryDirectory() as cache:
        try:
            path = api.hf_hub_download(repo_id, README, revision=revision, cache_dir=cache)
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):  # the Hub did not answer, so there may be one
                raise
            return None
        return read_text(Path(path))


def _commit(api, plan: PushPlan, start: str | None, new_branch: bool) -> str:
    """Send the files, then make the branch if it is new, then the one commit; returns its SHA.

    Args:
        api: the `HfApi` to ask.
        plan: what to send.
        start: commit that the branch, or the main one for a new branch, is at. If it has moved meanwhile, the Hub refuses.
        new_branch: whether `plan.revision` does not exist.
    """
    from huggingface_hub import CommitOperationAdd

    additions = [
        CommitOperationAdd(file.name, str(file.source) if file.content is None else file.content)
        for file in plan.files
    ]
    api.preupload_lfs_files(plan.repo_id, additions, revision=None if new_branch else plan.revision, free_memory=False)
    ignored = [one.path_in_repo for one in additions if getattr(one, "_should_ignore", False)]
    if ignored:
        raise PublishError(
            f"The .gitignore in {plan.repo_id} keeps {some(ignored)} out of every commit, so the model would not be whole there. "
            "Nothing was pushed; take these patterns out of that file."
        )
    # A branch that was made stays where the commit fails: with a lost answer, nobody here knows that it did.
    if new_branch:
        api.create_branch(plan.repo_id, branch=plan.revision, revision=start)
    info = api.create_commit(
        plan.repo_id, additions, commit_message=plan.commit_message, revision=plan.revision, parent_commit=start
    )
    return info.oid

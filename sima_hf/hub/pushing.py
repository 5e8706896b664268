"""Publish a model's folder on the Hub: staged, checked, with a card, in one commit that has all of it or nothing."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from huggingface_hub import CommitOperationAdd, CommitOperationDelete

from ..errors import PublishError
from ..folders.weights import some
from ..patching.certificate import Certificate
from .cards.facts import CardFacts
from .checks import checked_stage
from .hub_errors import HubError, checked_token, hub_errors
from .names import check_repo_id, check_revision, is_pull_request
from .plan import PushPlan, make_plan
from .repository import Repository, hub_api, read_repository
from .stage import Stage


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

    What the repository holds is therefore not known, nor what of it the push would remove; see `PushPlan.removed`.

    Args:
        folder, repo_id, private, revision, commit_message: as for `push`.
        token: taken so that the arguments of `push` fit; nobody is asked.
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
    settings = {"private": private, "revision": revision, "commit_message": commit_message, "facts": facts}
    with checked_stage(folder, certificate) as (stage, checked):
        return make_plan(stage, checked, repo_id, existing_card=existing_card, **settings)


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
    an earlier model are removed in the same commit, see `PushPlan.removed`.

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
    api = hub_api(checked_token(token))
    settings = {"private": private, "revision": revision, "commit_message": commit_message, "facts": facts}
    with checked_stage(folder, certificate) as (stage, checked):

        def planned(repository: Repository | None) -> PushPlan:
            name = repo_id if repository is None else repository.repo_id
            return make_plan(stage, checked, name, repository=repository, **settings)

        if dry_run:
            return _dry_run(planned, api, repo_id, private, revision)
        if not is_pull_request(revision):  # which may be to somebody else's repository
            with hub_errors(repo_id, api.token):
                repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        with read_repository(api, repo_id, private, revision) as repository:
            plan = planned(repository)
            with hub_errors(plan.repo_id, api.token):
                commit = _commit(repository, stage, plan)
    place = f"/tree/{quote(revision, safe='')}" if revision else ""
    url = f"{api.endpoint}/{plan.repo_id}{place}"
    return PushResult(plan.repo_id, commit, url, plan, commit != repository.commit)


def _dry_run(
    planned: Callable[[Repository | None], PushPlan], api, repo_id: str, private: bool | None, revision: str | None
) -> PushResult:
    """The plan with what the repository has where that can be read, else with the reason why not."""
    try:
        with read_repository(api, repo_id, private, revision) as repository:
            plan = planned(repository)
    except HubError as error:
        plan = replace(planned(None), unseen=error.reason)
    return PushResult(plan.repo_id, None, None, plan, False)


def _check_names(repo_id: str, revision: str | None, commit_message: str | None) -> None:
    check_repo_id(repo_id)
    check_revision(revision)
    if commit_message is not None and not commit_message.strip():
        raise PublishError("`commit_message` must not be empty; leave it out for one that names the model.")


def _commit(repository: Repository, stage: Stage, plan: PushPlan) -> str:
    """Send the files, make the branch if it is new, then the one commit, which also removes files; returns its SHA."""
    api, repo_id, revision = repository.api, repository.repo_id, repository.revision
    additions = [CommitOperationAdd(file.name, str(stage.path / file.name)) for file in plan.files]
    api.preupload_lfs_files(
        repo_id, additions, revision=None if repository.new_branch else revision, free_memory=False
    )
    ignored = [one.path_in_repo for one in additions if getattr(one, "_should_ignore", False)]
    if ignored:  # known before the commit if the client marks them so, and in any case after it
        raise PublishError(
            f"The .gitignore in {repo_id} keeps {some(ignored)} out of every commit, so the model would not be whole there. Nothing was "
            "pushed; take these patterns out of that file."
        )
    stage.check_unchanged()
    # A branch that was made stays where the commit fails: with a lost answer, nobody here knows that it did.
    if repository.new_branch:
        api.create_branch(repo_id, branch=revision, revision=repository.commit)
    removals = [CommitOperationDelete(name, is_folder=False) for name in plan.removed or ()]
    info = api.create_commit(
        repo_id,
        [*additions, *removals],
        commit_message=plan.commit_message,
        revision=revision,
        parent_commit=repository.commit,  # if the branch has moved meanwhile, the Hub refuses
    )
    _check_arrived(api, repo_id, additions, revision if is_pull_request(revision) else info.oid)
    return info.oid


def _check_arrived(api, repo_id: str, additions: list[CommitOperationAdd], commit: str) -> None:
    """Whether a commit has all that was sent: the client leaves out what a .gitignore of the repository names."""
    there = {one.path: one for one in api.list_repo_tree(repo_id, revision=commit, recursive=True)}
    lacking = [one.path_in_repo for one in additions if not _is_same(there.get(one.path_in_repo), one.upload_info)]
    if lacking:
        raise PublishError(
            f"The commit that was made in {repo_id} lacks {some(lacking)} as sent, so the model is not whole there. If a .gitignore "
            "there names them, take these patterns out of it; then push again."
        )


def _is_same(file, sent) -> bool:
    """Whether what a repository lists under a name is what was sent, as far as the listing tells."""
    return getattr(file, "size", None) == sent.size and (file.lfs is None or file.lfs.sha256 == sent.sha256.hex())

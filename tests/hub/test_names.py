"""Names of repositories and branches that nothing can be pushed to are refused before the folder is looked at."""

import pytest
from huggingface_hub.utils import validate_repo_id

from sima_hf.errors import PublishError
from sima_hf.hub import plan_push, push
from sima_hf.hub.names import allowed_name, check_revision, is_pull_request


@pytest.mark.parametrize(
    "revision", [None, "main", "v1", "try/v2", "größe", "a-b_c.d", "refs/pr/12", "HEADS", "0" * 39, "refs-mine", "a@b"]
)
def test_what_can_be_pushed_to(revision):
    check_revision(revision)
    assert is_pull_request(revision) is (revision == "refs/pr/12")


COMMIT = "0123456789abcdef" * 2 + "01234567"
NO_REFS = ["refs/heads/main", "refs/pr/0", "refs/pr/x", "refs/foo/bar", "HEAD", "@", COMMIT]
NO_NAMES = [
    "",
    " ",
    "a b",
    "a\nb",
    "a~1",
    "a^",
    "a:b",
    "a?",
    "a*",
    "a[0]",
    "a\\b",
    "a@{0}",
    "../x",
    "a..b",
    "/a",
    "a/",
]
NO_PARTS = ["a//b", ".a", "a/.b", "a.", "a.lock", "a.lock/b", "-a"]


@pytest.mark.parametrize("revision", [*NO_REFS, *NO_NAMES, *NO_PARTS])
def test_what_cannot(revision, tmp_path):
    for ask in (push, plan_push):
        with pytest.raises(PublishError, match="`revision` must be"):
            ask(tmp_path / "none", "org/x", revision=revision)


@pytest.mark.parametrize("name", ["", "a/b/c", "org/", "/name", "org/sima vit", "org/sima--vit", "x" * 100])
def test_repositories_that_the_hub_does_not_take(name, tmp_path):
    with pytest.raises(PublishError, match="`repo_id` must be"):
        plan_push(tmp_path / "none", name)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("sima-vit_1.5", "sima-vit_1.5"),
        ("my model (best)", "my-model-best"),
        ("a--b..c", "a-b-c"),
        (".hidden.git", "hidden-git"),
        ("modèle", "mod-le"),
        ("模型", "model"),
        ("x" * 95 + "-y", "x" * 95),
    ],
)
def test_a_folder_whose_name_the_hub_does_not_allow(name, allowed):
    assert allowed_name(name) == allowed
    validate_repo_id(allowed)


def test_an_empty_message(tmp_path):
    with pytest.raises(PublishError, match="`commit_message`"):
        plan_push(tmp_path / "none", "org/sima-vit", commit_message="")

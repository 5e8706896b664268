"""What a push may go to: branches, and pull requests that are open; commits and names that git does not allow are refused before."""

import pytest

from sima_hf.errors import PublishError
from sima_hf.hub import plan_push, push
from sima_hf.hub.names import check_revision, is_pull_request
from tests.helpers.hub.pushes import WEIGHTS, change_weights, large, pushed, refused


@pytest.mark.parametrize(
    "revision", [None, "main", "v1", "try/v2", "größe", "a-b_c.d", "refs/pr/12", "HEADS", "0" * 39, "refs-mine", "a@b"]
)
def test_what_can_be_pushed_to(revision):
    check_revision(revision)
    assert is_pull_request(revision) is (revision == "refs/pr/12")


REFUSED = {
    "": "empty",
    " ": "empty",
    "HEAD": "git means",
    "@": "git means",
    "0123456789abcdef" * 2 + "01234567": "a commit",
    "refs/heads/main": "leave out refs/heads/",
    "refs/pr/0": "refs/pr/N",
    "refs/pr/x": "refs/pr/N",
    "refs/foo/bar": "refs/pr/N",
    "a b": "no spaces",
    "a\nb": "no spaces",
    "a~1": "no spaces",
    "a^": "no spaces",
    "a:b": "no spaces",
    "a?": "no spaces",
    "a*": "no spaces",
    "a[0]": "no spaces",
    "a\\b": "no spaces",
    "a@{0}": "no spaces",
    "../x": "no ..",
    "a..b": "no ..",
    "/a": "slashes",
    "a/": "slashes",
    "a//b": "slashes",
    ".a": "dot",
    "a/.b": "dot",
    "a.": "dot",
    "a.lock": ".lock",
    "a.lock/b": ".lock",
    "-a": "an option",
}


@pytest.mark.parametrize("revision", REFUSED)
def test_what_cannot(revision, tmp_path):
    """Before the folder is looked at, which is not there."""
    for ask in (push, plan_push):
        with pytest.raises(PublishError) as error:
            ask(tmp_path / "none", "org/x", revision=revision)
        assert REFUSED[revision] in str(error.value)
        assert "leave it out for the main one" in str(error.value)


@pytest.mark.usefixtures("clean_hub")
def test_a_pull_request(hub, client, folder):
    main = pushed(client, folder, "org/pulls")
    assert hub.open_pull_request("org/pulls") == "refs/pr/1"
    digest = change_weights(folder)
    hub.log.clear()
    done = pushed(client, folder, "org/pulls", revision="refs/pr/1")
    assert large(hub) == [digest]
    assert done["url"] == f"{hub.endpoint}/org/pulls/tree/refs%2Fpr%2F1"
    assert hub.commits("org/pulls")[0]["oid"] == main["commit"]
    assert [one["oid"] for one in hub.commits("org/pulls", "refs/pr/1")][:2] == [done["commit"], main["commit"]]
    assert not [path for method, path, _ in hub.requests if "/branch/" in path or "/repos/create" in path]
    card = hub.files("org/pulls", "refs/pr/1")["README.md"].decode()
    assert "refs/pr" not in card  # it is the main branch's as soon as the request is merged
    assert hub.files("org/pulls", "refs/pr/1")[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    again = pushed(client, folder, "org/pulls", revision="refs/pr/1")
    assert (again["commit"], again["changed"]) == (done["commit"], False)


@pytest.mark.usefixtures("clean_hub")
def test_a_pull_request_to_ones_own_by_its_short_name(hub, client, folder):
    pushed(client, folder, "pulls")
    hub.open_pull_request("somebody/pulls")
    change_weights(folder)
    assert pushed(client, folder, "pulls", revision="refs/pr/1")["repo_id"] == "somebody/pulls"


@pytest.mark.usefixtures("clean_hub")
def test_a_pull_request_that_is_not_there(hub, client, folder):
    pushed(client, folder, "org/none")
    commits = hub.commits("org/none")
    change_weights(folder)
    refused(
        client, folder, "org/none", "no pull request refs/pr/7 in org/none", "Nothing was pushed", revision="refs/pr/7"
    )
    assert large(hub)[1:] == []
    assert hub.commits("org/none") == commits
    refused(client, folder, "org/never", "no repository org/never", revision="refs/pr/1")
    assert hub.commits("org/never") == []


@pytest.mark.usefixtures("clean_hub")
def test_a_branch_with_a_slash(hub, client, folder):
    pushed(client, folder, "org/slashes")
    done = pushed(client, folder, "org/slashes", revision="try/v2")
    assert done["url"].endswith("/org/slashes/tree/try%2Fv2")

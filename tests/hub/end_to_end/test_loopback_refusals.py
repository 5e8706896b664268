"""What the loopback Hub refuses, as the real client names it: its exception classes, and words of what a user reads."""

import pytest

from tests.helpers.hub.client import Client, ClientError
from tests.helpers.hub.server import HubServer


pytestmark = pytest.mark.slow
BEFORE = """
import time
from huggingface_hub import HfApi, hf_hub_download
time.sleep = lambda seconds: None  # between the client's attempts
api = HfApi(token="hf_write")
for name in ("nine", "hidden", "gated"):
    _ = api.create_repo(f"org/{name}", private=name == "hidden")
    _ = api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id=f"org/{name}")
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server
        assert server.failures == []


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """A process, and three small repositories: one to be seen, one private, one gated."""
    folder = tmp_path_factory.mktemp("client")
    with Client(hub.environment(folder / "home"), folder / "log", BEFORE) as process:
        hub.gate("org/gated", "somebody")
        yield process


REFUSALS = {
    # what is asked, the client's exception, words of its text
    "wrong token": ("HfApi(token='hf_wrong').whoami()", "HfHubHTTPError", "Invalid user token"),
    "no token": ("HfApi(token=False).create_repo('org/nine')", "HfHubHTTPError", "401"),
    "wrong token, download": ("hf_hub_download('org/nine', 'config.json', token='hf_wrong')", "HfHubHTTPError", "401"),
    "missing repository": ("api.model_info('org/never')", "RepositoryNotFoundError", "404"),
    "missing repository, no token": ("hf_hub_download('org/never', 'x')", "RepositoryNotFoundError", "401"),
    "private": ("hf_hub_download('org/hidden', 'config.json')", "RepositoryNotFoundError", "401"),
    "private, a stranger": ("HfApi(token='hf_other').model_info('org/hidden')", "RepositoryNotFoundError", "404"),
    "gated": ("hf_hub_download('org/gated', 'config.json')", "GatedRepoError", "401"),
    "gated, a stranger": ("hf_hub_download('org/gated', 'config.json', token='hf_other')", "GatedRepoError", "403"),
    "missing file": ("hf_hub_download('org/nine', 'no.json')", "RemoteEntryNotFoundError", "404"),
    "missing revision": ("hf_hub_download('org/nine', 'config.json', revision='v9')", "RevisionNotFoundError", "404"),
    "there already": ("api.create_repo('org/nine')", "HfHubHTTPError", "409"),
    "not one's own": ("HfApi(token='hf_other').create_repo('org/tenth')", "HfHubHTTPError", "don't have the rights"),
    "to read only": (
        "api.upload_file(path_or_fileobj=b'{}', path_in_repo='x.json', repo_id='org/nine', token='hf_read')",
        "HfHubHTTPError",
        "403 Forbidden",
    ),
    "broken card": (
        "api.upload_file(path_or_fileobj=b'---\\nlicense: mine\\n---\\n', path_in_repo='README.md', repo_id='org/nine')",
        "ValueError",
        "Invalid metadata in README.md",
    ),
    "a pull request": (
        "api.upload_file(path_or_fileobj=b'{}', path_in_repo='x.json', repo_id='org/nine', create_pr=True)",
        "HfHubHTTPError",
        "opens no pull requests",
    ),
    "a commit to no pull request": (
        "api.upload_file(path_or_fileobj=b'{}', path_in_repo='x.json', repo_id='org/nine', revision='refs/pr/7')",
        "HfHubHTTPError",
        "404",
    ),
    **{
        f"a branch called {name!r}": (
            f"api.create_branch('org/nine', branch={name!r})",
            "BadRequestError",
            "Invalid ref",
        )
        for name in ("refs/pr/1", "refs/foo/bar", "HEAD", "a b", "../x", "x.lock", "0" * 40)
    },
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refusals_are_the_clients_own_exceptions(client, case):
    code, kind, words = REFUSALS[case]
    with pytest.raises(ClientError) as caught:
        client.run(code)
    assert kind in caught.value.kinds
    assert words in caught.value.text


def test_those_who_may_are_let_in(hub, client):
    assert hub.info("org/hidden")["private"]
    for repo in ("org/hidden", "org/gated"):
        for token in (hub.token, hub.read_token):
            assert client.run(f"open(hf_hub_download({repo!r}, 'config.json', token={token!r})).read()") == "{}"


def test_too_many_requests(hub, client):
    hub.log.clear()
    hub.limit_rate(1, seconds=30)
    with pytest.raises(ClientError, match="429 Too Many Requests") as caught:
        client.run("api.model_info('org/nine')")
    assert "Retry after 30 seconds" in caught.value.text
    hub.limit_rate(2, within="/preupload/")  # there the client waits and asks again
    client.run("api.upload_file(path_or_fileobj=b'[]', path_in_repo='list.json', repo_id='org/nine')")
    assert [status for _, path, status in hub.requests if "/preupload/" in path] == [429, 429, 200]
    assert hub.files("org/nine")["list.json"] == b"[]"

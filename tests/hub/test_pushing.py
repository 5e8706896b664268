"""What arrives at a Hub on loopback: one commit, again, interrupted, refused."""

import json

import pytest

from tests.helpers.hub.pushes import WEIGHTS, change_weights, large, pushed, refused
from tests.helpers.hub.saved_folder import PROCESSOR, listing


pytestmark = pytest.mark.usefixtures("clean_hub")


# On the Hub


def test_a_dry_run_changes_nothing(hub, client, folder):
    before = listing(folder)
    done = pushed(client, folder, "org/dry", dry_run=True)
    assert {one.method for one in hub.log} == {"GET"}
    assert listing(folder) == before
    assert (done["commit"], done["url"], done["changed"]) == (None, None, False)
    assert hub.commits("org/dry") == []
    assert "7 files" in done["plan"]


def test_a_push_is_one_commit(hub, client, folder):
    before = listing(folder)
    done = pushed(client, folder, "org/first", commit_message="The first")
    assert listing(folder) == before
    assert [commit["title"] for commit in hub.commits("org/first")] == ["The first", "initial commit"]
    assert hub.commits("org/first")[0]["oid"] == done["commit"]
    assert (done["repo_id"], done["url"], done["changed"]) == ("org/first", f"{hub.endpoint}/org/first", True)
    files = hub.files("org/first")
    assert set(done["names"]) == set(files) - {".gitattributes"}
    assert files[WEIGHTS] == before[WEIGHTS]
    assert not hub.info("org/first")["private"]
    assert "SimAViTForImageClassification" in files["README.md"].decode()


def test_again_sends_only_what_changed(hub, client, folder):
    first = pushed(client, folder, "org/again")
    hub.log.clear()
    same = pushed(client, folder, "org/again")
    assert (same["commit"], same["changed"]) == (first["commit"], False)
    assert large(hub) == []
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "do_resize": True}))
    second = pushed(client, folder, "org/again")
    assert large(hub) == []
    assert len(hub.commits("org/again")) == 3
    digest = change_weights(folder)
    third = pushed(client, folder, "org/again")
    assert large(hub) == [digest]
    assert len({first["commit"], second["commit"], third["commit"]}) == 3


def test_other_files_of_the_repository_stay(hub, client, folder):
    client.run(
        "from huggingface_hub import HfApi; api = HfApi(); api.create_repo('org/shared')\n"
        "_ = api.upload_file(path_or_fileobj=b'x', path_in_repo='notes.txt', repo_id='org/shared')\n"
        "_ = api.upload_file(path_or_fileobj=b'old', path_in_repo='modeling_sima_vit.py', repo_id='org/shared')"
    )
    pushed(client, folder, "org/shared")
    files = hub.files("org/shared")
    assert files["notes.txt"] == b"x"
    assert b"SimAViT" in files["modeling_sima_vit.py"]


def test_a_branch(hub, client, folder):
    main = pushed(client, folder, "org/branches")
    digest = change_weights(folder)
    hub.log.clear()
    done = pushed(client, folder, "org/branches", revision="smaller")
    assert done["url"].endswith("/org/branches/tree/smaller")
    assert hub.commits("org/branches")[0]["oid"] == main["commit"]
    assert [one["oid"] for one in hub.commits("org/branches", "smaller")][:2] == [done["commit"], main["commit"]]
    assert large(hub) == [digest]
    again = pushed(client, folder, "org/branches", revision="smaller")
    assert (again["commit"], again["changed"]) == (done["commit"], False)
    client.run("from huggingface_hub import HfApi; HfApi().create_tag('org/branches', tag='v1')")
    refused(client, folder, "org/branches", "'v1', which is a tag", revision="v1")


def test_private(hub, client, folder):
    pushed(client, folder, "org/secret", private=True)
    assert hub.info("org/secret")["private"]
    pushed(client, folder, "org/secret")
    pushed(client, folder, "org/open")
    commits = hub.commits("org/open")
    change_weights(folder)
    refused(client, folder, "org/open", "exists and is public", "Nothing was pushed", private=True)
    assert hub.commits("org/open") == commits


def test_a_name_without_an_organization_is_the_users(hub, client, folder):
    assert pushed(client, folder, "mine")["repo_id"] == "somebody/mine"
    assert "somebody/mine" in hub.files("somebody/mine")["README.md"].decode()


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
    files = hub.files("org/pulls", "refs/pr/1")
    assert "refs/pr" not in files["README.md"].decode()  # it is the main branch's as soon as the request is merged
    assert files[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert not pushed(client, folder, "org/pulls", revision="refs/pr/1")["changed"]


def test_a_pull_request_that_is_not_there(hub, client, folder):
    pushed(client, folder, "org/none")
    commits = hub.commits("org/none")
    refused(client, folder, "org/none", "`revision` must be a pull request", "org/none", revision="refs/pr/7")
    assert hub.commits("org/none") == commits
    refused(client, folder, "org/never", "no repository org/never", revision="refs/pr/1")
    assert hub.commits("org/never") == []


def test_a_branch_with_a_slash(hub, client, folder):
    done = pushed(client, folder, "org/slashes", revision="try/v2")
    assert done["url"].endswith("/org/slashes/tree/try%2Fv2")


# READMEs


def edit_on_the_hub(client, repo_id, text):
    client.run(
        "from huggingface_hub import HfApi\n"
        f"_ = HfApi().upload_file(path_or_fileobj={text.encode()!r}, path_in_repo='README.md', repo_id={repo_id!r})"
    )


def readme(hub, repo_id):
    return hub.files(repo_id)["README.md"].decode()


def test_a_readme_edited_on_the_hub_is_kept(hub, client, folder):
    pushed(client, folder, "org/cards")
    edit_on_the_hub(client, "org/cards", f"{readme(hub, 'org/cards')}\n## Limits\n\nIt has never seen a zebra.\n")
    change_weights(folder)
    pushed(client, folder, "org/cards")
    text = readme(hub, "org/cards")
    assert "never seen a zebra" in text
    assert text.count("sima_hf:start") == 1


def test_a_readme_edited_in_the_folder_is_taken(hub, client, folder):
    (folder / "README.md").write_text("# Mine\n\nFirst wording.\n")
    pushed(client, folder, "org/wording")
    (folder / "README.md").write_text("# Mine\n\nSecond wording.\n")
    pushed(client, folder, "org/wording")
    text = readme(hub, "org/wording")
    assert "Second wording." in text
    assert "First wording." not in text


def test_a_readme_that_stays_makes_no_commit(hub, client, folder):
    (folder / "README.md").write_bytes(b"---\r\nlicense: mit\r\n---\r\n# Mine\r\n\r\nWritten on Windows.\r\n")
    pushed(client, folder, "org/lines")
    assert not pushed(client, folder, "org/lines")["changed"]


def test_a_readme_edited_in_both_places_is_nobodys_to_throw_away(hub, client, folder):
    (folder / "README.md").write_text("# Mine\n\nFirst wording.\n")
    pushed(client, folder, "org/both")
    edit_on_the_hub(client, "org/both", readme(hub, "org/both").replace("First", "Better"))
    pushed(client, folder, "org/both")
    assert "Better wording." in readme(hub, "org/both")
    (folder / "README.md").write_text("# Mine\n\nSecond wording.\n")
    refused(client, folder, "org/both", "both have text of their own")
    assert "Better wording." in readme(hub, "org/both")
    (folder / "README.md").unlink()
    pushed(client, folder, "org/both")
    assert "Better wording." in readme(hub, "org/both")


# Interrupted, and refused


def test_an_upload_that_breaks_leaves_the_repository_as_it_was(hub, client, folder):
    pushed(client, folder, "org/broken")
    commits, files = hub.commits("org/broken"), hub.files("org/broken")
    digest = change_weights(folder)
    hub.drop_upload_after(1000, times=6)  # as often as the client tries
    text = refused(client, folder, "org/broken", "connection", "all of it or nothing", "same command")
    assert "Traceback" not in text
    assert hub.commits("org/broken") == commits
    assert hub.files("org/broken") == files
    hub.log.clear()
    pushed(client, folder, "org/broken")
    assert large(hub) == [digest]
    assert hub.files("org/broken")[WEIGHTS] == (folder / WEIGHTS).read_bytes()


def test_what_arrived_is_not_sent_again(hub, client, folder):
    """The commit itself is refused once; the weights were there by then."""
    hub.limit_rate(1, within="/commit/")
    refused(client, folder, "org/arrived", "fewer requests")
    assert len(large(hub)) == 1
    assert [one["title"] for one in hub.commits("org/arrived")] == ["initial commit"]
    hub.log.clear()
    pushed(client, folder, "org/arrived")
    assert large(hub) == []
    assert WEIGHTS in hub.files("org/arrived")


def test_an_answer_that_is_lost(hub, client, folder):
    """The commit is made and nobody here knows: the message does not claim otherwise, and again changes nothing."""
    pushed(client, folder, "org/lost")
    change_weights(folder)
    code = """
from huggingface_hub import _commit_api
from huggingface_hub.errors import HTTPError
send = _commit_api._send_commit
def send_and_lose(**payload):
    _commit_api._send_commit = send
    send(**payload)
    raise HTTPError("Server disconnected without sending a response.")
_commit_api._send_commit = send_and_lose
"""
    client.run(code)
    refused(client, folder, "org/lost", "all of it or nothing of it")
    commits = hub.commits("org/lost")
    assert hub.files("org/lost")[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert not pushed(client, folder, "org/lost")["changed"]
    assert hub.commits("org/lost") == commits


def test_somebody_elses_commit_in_between(hub, client, folder):
    """It comes after the README was read; the push would undo an edit of it that nobody has seen."""
    pushed(client, folder, "org/race")
    change_weights(folder)
    code = """
from huggingface_hub import HfApi
send = HfApi.preupload_lfs_files
def send_late(self, *args, **kwargs):
    HfApi.preupload_lfs_files = send
    self.upload_file(path_or_fileobj=b"# Theirs", path_in_repo="README.md", repo_id="org/race")
    return send(self, *args, **kwargs)
HfApi.preupload_lfs_files = send_late
"""
    client.run(code)
    refused(client, folder, "org/race", "changed by somebody else", "same command again")
    assert readme(hub, "org/race") == "# Theirs"
    pushed(client, folder, "org/race")
    assert readme(hub, "org/race").count("# Theirs") == 1


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_training_that_writes_into_the_folder_meanwhile(hub, client, folder, name):
    """Other weights than those that were checked are refused; small files are published as they were checked."""
    pushed(client, folder, f"org/meanwhile-{name}")
    files = hub.files(f"org/meanwhile-{name}")
    code = f"""
from huggingface_hub import HfApi
make = HfApi.create_repo
def make_late(self, *args, **kwargs):
    HfApi.create_repo = make
    pathlib.Path({str(folder / name)!r}).write_bytes(b"{{}}")
    return make(self, *args, **kwargs)
HfApi.create_repo = make_late
"""
    client.run(code)
    if name == WEIGHTS:
        refused(client, folder, f"org/meanwhile-{name}", "has changed", name, "Nothing was pushed")
    else:
        assert not pushed(client, folder, f"org/meanwhile-{name}")["changed"]
    assert hub.files(f"org/meanwhile-{name}") == files


def test_a_readme_that_could_not_be_read_is_not_taken_for_none(hub, client, folder):
    pushed(client, folder, "org/unread")
    edit_on_the_hub(client, "org/unread", "# Theirs\n")
    hub.limit_rate(100, within="README.md")
    refused(client, folder, "org/unread", "fewer requests")
    assert readme(hub, "org/unread") == "# Theirs\n"


def test_a_gitignore_that_hides_the_weights(hub, client, folder):
    """The client would leave them out and say nothing; the loopback Hub has no such rules, so its answer is changed here."""
    pushed(client, folder, "org/ignoring")
    commits = hub.commits("org/ignoring")
    change_weights(folder)
    code = """
from huggingface_hub import _commit_api
check = _commit_api._validate_preupload_info
def ignoring(info):
    _commit_api._validate_preupload_info = check
    for file in info["files"]:
        file["shouldIgnore"] = file["path"].endswith(".safetensors")
    return check(info)
_commit_api._validate_preupload_info = ignoring
"""
    client.run(code)
    refused(client, folder, "org/ignoring", ".gitignore", WEIGHTS, "Nothing was pushed")
    assert hub.commits("org/ignoring") == commits


@pytest.mark.parametrize("there", [False, True], ids=["new", "over-another"])
def test_what_the_client_leaves_out_without_a_mark_is_said(hub, client, folder, there):
    """However a later client keeps ignored files back: the commit is held against the plan, weights of before included."""
    if there:
        pushed(client, folder, f"org/left-out-{there}")
        change_weights(folder)
    code = """
from huggingface_hub import HfApi
send = HfApi.create_commit
def leaving_out(self, repo_id, operations, **more):
    HfApi.create_commit = send
    return send(self, repo_id, [one for one in operations if not one.path_in_repo.endswith(".safetensors")], **more)
HfApi.create_commit = leaving_out
"""
    client.run(code)
    (folder / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "do_resize": True}))
    refused(client, folder, f"org/left-out-{there}", "lacks model.safetensors", ".gitignore", "push again")
    assert pushed(client, folder, f"org/left-out-{there}")["changed"]
    assert hub.files(f"org/left-out-{there}")[WEIGHTS] == (folder / WEIGHTS).read_bytes()

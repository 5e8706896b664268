"""The loopback Hub against the real client: what huggingface_hub sends is kept, found again, resumed or refused.

The publishing tests rest on this server, so it is held to the client's own exception classes and to what lies on disk.
"""

import hashlib
import json
import os

import pytest

from tests.helpers.hub.client import Client, ClientError
from tests.helpers.hub.server import HubServer


pytestmark = pytest.mark.slow
BEFORE = """
import time
from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.utils import get_session
time.sleep = lambda seconds: None  # between the client's attempts
api = HfApi(token="hf_write")
def read(path): return open(path, "rb").read().hex()
def digest(path): return __import__("hashlib").sha256(open(path, "rb").read()).hexdigest()
"""
CARD = b"---\nlicense: apache-2.0\npipeline_tag: image-classification\ntags: [sima]\n---\n\n# A model\n"
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    folder = tmp_path_factory.mktemp("client")
    with Client(hub.environment(folder / "home"), folder / "log", BEFORE) as process:
        yield process


@pytest.fixture(autouse=True)
def _sound(hub):
    """A test starts with an empty record, and ends with no mistake of the double's own."""
    hub.log.clear()
    hub.end_faults()
    yield
    assert hub.failures == []


@pytest.fixture
def folder(tmp_path):
    """A model's folder: two small files and two large ones of a megabyte, bytes from the system's generator."""
    files = {
        "README.md": CARD,
        "config.json": json.dumps({"model_type": "sima_deit"}).encode(),
        "model-00001-of-00002.safetensors": os.urandom(MEGABYTE),
        "model-00002-of-00002.safetensors": os.urandom(MEGABYTE),
    }
    (tmp_path / "model").mkdir()
    for name, content in files.items():
        (tmp_path / "model" / name).write_bytes(content)
    return tmp_path / "model"


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def push(client, folder, repo, **more):
    arguments = "".join(f", {name}={value!r}" for name, value in more.items())
    client.run(f"_ = api.create_repo({repo!r}, exist_ok=True)")
    return client.run(f"api.upload_folder(folder_path={str(folder)!r}, repo_id={repo!r}{arguments}).oid")


def uploads(hub):
    """Large files that arrived: (their SHA-256, bytes)."""
    return [
        (one.path.split("?")[0].split("/")[-1], one.received) for one in hub.log if one.method == "PUT" and one.status
    ]


def test_a_folder_is_one_commit_of_small_and_large_files(hub, client, folder):
    oid = push(client, folder, "org/one", commit_message="The first one")
    sent = contents(folder)
    assert {name: hub.files("org/one")[name] for name in sent} == sent
    assert [commit["title"] for commit in hub.commits("org/one")] == ["The first one", "initial commit"]
    assert hub.commits("org/one")[0]["oid"] == oid
    large = {hashlib.sha256(sent[name]).hexdigest() for name in sent if name.endswith(".safetensors")}
    assert {sha256 for sha256, _ in uploads(hub)} == large
    assert [record for record in hub.log if record.by_storage and record.with_token] == []
    info = client.run("info = api.model_info('org/one', files_metadata=True); vars(info)")
    assert (info["sha"], info["pipeline_tag"], info["library_name"]) == (oid, "image-classification", "transformers")
    assert {"sima", "safetensors", "license:apache-2.0"} <= set(info["tags"])
    sizes = client.run("{one.rfilename: one.size for one in info.siblings}")
    assert {name: sizes[name] for name in sent} == {name: len(content) for name, content in sent.items()}
    hub.log.clear()
    assert push(client, folder, "org/one") == oid
    assert uploads(hub) == []
    assert len(hub.commits("org/one")) == 2


def test_revisions(hub, client, folder):
    first = push(client, folder, "org/two")
    client.run("api.create_tag('org/two', tag='v1'); api.create_branch('org/two', branch='smaller/one')")
    (folder / "config.json").write_text('{"model_type": "sima_vit"}')
    second = push(client, folder, "org/two", revision="smaller/one")
    download = "read(hf_hub_download('org/two', 'config.json', revision={!r}))"
    for revision in ("main", "v1", first):
        assert b"sima_deit" in bytes.fromhex(client.run(download.format(revision)))
    for revision in ("smaller/one", second):
        assert b"sima_vit" in bytes.fromhex(client.run(download.format(revision)))
    refs = "refs = api.list_repo_refs('org/two'); {one.name: one.target_commit for one in refs.branches + refs.tags}"
    assert client.run(refs) == {"main": first, "smaller/one": second, "v1": first}
    commits = client.run("[one.commit_id for one in api.list_repo_commits('org/two', revision='smaller/one')]")
    assert commits[:2] == [second, first]
    listed = client.run("sorted(one.path for one in api.list_repo_tree('org/two', recursive=True, revision='v1'))")
    assert listed == sorted(hub.files("org/two", "v1"))
    found = client.run(
        "[one.lfs.sha256 for one in api.get_paths_info('org/two', ['model-00001-of-00002.safetensors', 'no'])]"
    )
    assert found == [hashlib.sha256((folder / "model-00001-of-00002.safetensors").read_bytes()).hexdigest()]
    client.run("api.delete_file('config.json', 'org/two', revision='smaller/one')")
    assert "config.json" not in hub.files("org/two", "smaller/one")
    assert "config.json" in hub.files("org/two", second)
    client.run("api.delete_branch('org/two', branch='smaller/one')")
    assert set(client.run(refs)) == {"main", "v1"}
    assert "config.json" in hub.files("org/two", second)  # what a commit had, it has


def test_a_download_that_broke_leaves_nothing_and_can_be_repeated(hub, client, folder):
    push(client, folder, "org/five")
    download = "digest(hf_hub_download('org/five', 'model-00001-of-00002.safetensors'))"
    hub.drop_download_after(300_000, reset=True)
    with pytest.raises(ClientError) as caught:
        client.run(download)
    assert "ReadError" in caught.value.kinds
    blobs = [path.stat().st_size for path in client.home.glob("hub/models--org--five/blobs/*")]
    assert all(size < MEGABYTE for size in blobs)
    assert (
        client.run(download) == hashlib.sha256((folder / "model-00001-of-00002.safetensors").read_bytes()).hexdigest()
    )


def test_an_upload_that_broke_leaves_the_repository_as_it_was(hub, client, folder):
    before = push(client, folder, "org/six")
    for path in folder.glob("*.safetensors"):
        path.write_bytes(os.urandom(MEGABYTE))
    one, two = (hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("*.safetensors")))
    hub.drop_upload_after(300_000, times=6, within=two)  # as often as the client tries
    hub.log.clear()
    files = hub.files("org/six")
    with pytest.raises(ClientError, match="Error while uploading"):
        push(client, folder, "org/six")
    assert sum(record.status == 0 for record in hub.log) == 6
    assert hub.files("org/six") == files
    assert hub.commits("org/six")[0]["oid"] == before
    assert uploads(hub) == [(one, MEGABYTE)]
    hub.log.clear()
    push(client, folder, "org/six")
    assert uploads(hub) == [(two, MEGABYTE)]  # the other one had arrived
    assert contents(folder).items() <= hub.files("org/six").items()
    assert len(hub.commits("org/six")) == 3


def test_large_files_in_parts(tmp_path, folder):
    with HubServer(tmp_path / "hub", part_size=300_000) as server:
        environment = server.environment(tmp_path / "home", token=server.token)
        with Client(environment, tmp_path / "log", BEFORE) as process:
            push(process, folder, "org/parts")
        assert sorted(size for _, size in uploads(server)) == sorted([300_000] * 6 + [MEGABYTE - 900_000] * 2)
        assert contents(folder).items() <= server.files("org/parts").items()
        assert server.failures == []


def test_a_commit_is_whole_or_not_at_all(hub, client, folder):
    push(client, folder, "org/eight")
    files = hub.files("org/eight")
    lines = [
        {"key": "header", "value": {"summary": "half"}},
        {"key": "file", "value": {"path": "config.json", "content": "e30=", "encoding": "base64"}},
        {"key": "lfsFile", "value": {"path": "model.safetensors", "algo": "sha256", "oid": "0" * 64, "size": 1}},
    ]
    payload = "\n".join(json.dumps(line) for line in lines)
    url = f"{hub.endpoint}/api/models/org/eight/commit/main"
    post = "get_session().post({!r}, content={!r}, headers={{'Authorization': 'Bearer hf_write'}}).status_code"
    assert client.run(post.format(url, payload)) == 400
    assert hub.files("org/eight") == files


def test_large_content_is_what_its_name_says(hub, client, folder):
    push(client, folder, "org/ninth")
    client.run("""
from huggingface_hub.lfs import UploadInfo, post_lfs_batch_info
asked = {"token": "hf_write", "repo_type": "model", "repo_id": "org/ninth"}
address = post_lfs_batch_info([UploadInfo.from_bytes(b"x" * 9)], **asked)[0][0]["actions"]["upload"]["href"]
""")
    assert client.run("get_session().put(address.split('?')[0], content=b'x' * 9).status_code") == 403  # not signed
    assert client.run("get_session().put(address, content=b'y' * 9).status_code") == 400
    assert client.run("get_session().put(address, content=b'x' * 9).status_code") == 200

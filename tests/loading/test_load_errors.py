"""What is said of a model that cannot be loaded by its name: folders, addresses, and what the Hub or the way to it refuses."""

import json
import shutil

import pytest

import sima_hf
from sima_hf.errors import CheckpointError
from sima_hf.evaluation.classifiers import load_classifier
from sima_hf.loading.by_name import load_model
from tests.helpers.hosts.at_hand import make, vit
from tests.helpers.hub.client import Client, ClientError
from tests.helpers.hub.saved_folder import PROCESSOR
from tests.helpers.hub.server import HubServer


LOADERS = (load_model, load_classifier)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    sima_hf.patch_model(vit()).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory, saved):
    """A process that has pushed `org/model`, a private one, to a Hub on loopback, and waits for nothing."""
    place = tmp_path_factory.mktemp("client")
    before = f"""
import time
time.sleep = lambda seconds: None
import sima_hf
from sima_hf.hub import push
from sima_hf.loading.by_name import find_processor, load_model
from sima_hf.evaluation.classifiers import load_classifier
push({str(saved)!r}, "org/model", private=True)
"""
    with Client(hub.environment(place / "home", hub.token), place / "log", before) as process:
        yield process


def said(client, code, **more):
    """The sentence with which a load ends."""
    with pytest.raises(ClientError) as error:
        client.apart(code, **more)
    assert error.value.kinds[0] == "CheckpointError", error.value
    assert error.value.text.endswith(".")
    return error.value.text


def test_a_revision_that_is_not_there(client):
    found = said(client, "load_classifier('org/model', revision='nosuchrev')")
    assert found == "org/model has no revision nosuchrev on the Hub; name a branch, a tag or a commit that is there."


def test_config_and_weights_are_of_one_revision(client, tmp_path):
    """`main` holds a classifier; the other branch a base model of another type."""
    sima_hf.patch_model(make("swin", "SwinModel")).save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    code = f"""
push({str(tmp_path)!r}, "org/model", private=True, revision="tower")
from sima_hf.loading.saved_class import load_with_report
model, report = load_with_report("org/model", revision="tower")
[type(model).__name__, sorted(report["missing_keys"])]
"""
    assert client.apart(code) == ["SimASwinModel", []]


@pytest.mark.parametrize("load", ["load_model", "load_classifier"])
def test_who_may_not_see_it(load, client, hub):
    code = f"{load}('org/model')"
    assert "rejected the token, so org/model" in said(client, code, HF_TOKEN="bogus")
    private = (
        "There is no folder org/model, and no model of that name on the Hub, or not for you. Check the name; if the "
    )
    for token in ("", hub.other_token):
        assert said(client, code, HF_TOKEN=token).startswith(private)


def test_a_token_that_nobody_knows_where_the_model_is_in_the_cache(client):
    """The model loads; the first file that it has none of is the one that the token fails at."""
    client.run("load_classifier('org/model')[1]")
    code = "load_classifier('org/model')\nfind_processor('org/model', True)"
    assert "The Hub rejected the token" in said(client, code, empty=False, HF_TOKEN="bogus")


@pytest.mark.parametrize("load", ["load_model", "load_classifier"])
def test_without_a_network_nothing_is_said_of_the_hub(load, client):
    nowhere = "constants.HUGGINGFACE_CO_URL_TEMPLATE = 'http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}'"
    code = f"from huggingface_hub import constants\n{nowhere}\n{load}('org/nosuch')"
    words = "The Hub cannot be reached ([Errno 111] Connection refused), and there is no folder org/nosuch here, nor all of"
    assert said(client, code).startswith(words)


@pytest.mark.parametrize("load", LOADERS)
def test_the_folder_is_named_whose_weights_are_missing_or_damaged(load, saved, tmp_path):
    weights = shutil.copytree(saved, tmp_path / "model") / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:999])
    with pytest.raises(
        CheckpointError, match=r"The weights in \S+/model cannot be read, perhaps half-written: [^\n]+\.$"
    ):
        load(str(tmp_path / "model"))
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"model is not a complete model: it has no model\.safetensors\. If "):
        load(str(tmp_path / "model"))


@pytest.mark.parametrize("load", LOADERS)
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "https://huggingface.co/facebook/deit",
            "is an address; give the model's name on the Hub, facebook/deit, or a folder",
        ),
        ("https://huggingface.co/facebook/deit/tree/main", "on the Hub, facebook/deit, or"),
        ("http://127.0.0.1:9/org/a.git?b=c", "on the Hub, org/a, or"),
        ("huggingface.co/org/a", "on the Hub, org/a, or"),
        ("hf://org/a", "on the Hub, org/a, or"),
        ("https://hf.co/gpt2", "on the Hub, gpt2, or"),
        ("a/b/c", "There is no folder a/b/c with a model in it"),
        ("~/a", "There is no folder ~/a with a model in it"),
        (__file__, "test_load_errors.py is a file; give the folder"),
    ],
)
def test_names_that_are_none(name, words, load):
    with pytest.raises(CheckpointError) as error:
        load(name)
    assert words in str(error.value)

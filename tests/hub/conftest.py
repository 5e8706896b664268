"""What the tests of publishing share."""

import json
import shutil
from pathlib import Path

import pytest
import torch

import sima_hf
from tests.helpers.hosts.at_hand import vit
from tests.helpers.hub.client import Client
from tests.helpers.hub.pushes import BEFORE
from tests.helpers.hub.saved_folder import PROCESSOR
from tests.helpers.hub.server import HubServer


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """What talks to a Hub needs a process that has imported Transformers, one for each file."""
    for item in items:
        if Path(__file__).parent in item.path.parents and "client" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A patched ViT with its image processor, as a user's folder has it."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    sima_hf.patch_model(vit()).save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return folder


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "model")


@pytest.fixture
def shards(tmp_path):
    torch.manual_seed(7)
    sima_hf.patch_model(vit()).save_pretrained(tmp_path / "shards", max_shard_size="20KB")
    (tmp_path / "shards" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    return tmp_path / "shards"


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """A Hub on loopback; test files that need another define their own."""
    with HubServer(tmp_path_factory.mktemp("hub")) as server:
        yield server


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory):
    """A process that pushes to it."""
    place = tmp_path_factory.mktemp("client")
    with Client(hub.environment(place / "home", hub.token), place / "log", BEFORE) as process:
        yield process


@pytest.fixture
def clean_hub(hub):
    """Each test with an empty log and no orders left from another; and no mistakes of the Hub's own after it."""
    hub.log.clear()
    hub.end_faults()
    yield
    assert hub.failures == []

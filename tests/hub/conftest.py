"""What the tests of publishing share."""

import json
import shutil

import pytest
from hosts_at_hand import vit
from saved_folder import PROCESSOR

import sima_hf


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

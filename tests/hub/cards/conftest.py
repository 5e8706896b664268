"""Models that the tests of cards only look at."""

import pytest

import sima_hf
from tests.helpers.hub.card_models import checked, native, vit


@pytest.fixture(scope="session")
def one(tmp_path_factory):
    """SimA's own architecture with an image processor, in a folder."""
    return native(tmp_path_factory.mktemp("native") / "folder")


@pytest.fixture(scope="session")
def swapped(tmp_path_factory):
    """A ViT that was swapped, in a folder without an image processor."""
    folder = tmp_path_factory.mktemp("swapped") / "vit"
    model = sima_hf.patch_model(vit())
    model.save_pretrained(folder)
    return checked(folder, model)

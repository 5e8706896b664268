"""Every host in the table, published: loaded where sima_hf is not, it gives the same numbers to the last bit.

Saved there and loaded once more, too, for one host of each kind of code.
"""

import json
from pathlib import Path

import pytest
import torch
from transformers import CONFIG_MAPPING

from tests.helpers.hosts.at_hand import CASES, KINDS, REFUSED, UNKNOWN, type_of
from tests.helpers.hub.published import publish_and_load_apart


pytestmark = pytest.mark.slow
# The first case of every host; variants differ in sizes, not in the code that is published.
ONE_OF_EACH = {}
for case in CASES:
    if case not in UNKNOWN | set(REFUSED):
        ONE_OF_EACH.setdefault(type_of(case), case)
TWICE = {ONE_OF_EACH[type_of(case)] for case, _ in KINDS}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    rows = {case: (case, "sima") for case in ONE_OF_EACH.values()}
    return publish_and_load_apart(rows, tmp_path_factory.mktemp("published"), rows.keys() - TWICE)


# Configs whose older versions take these as keywords alone and look the tower up by its type, which needs sima_hf.
TOWER_FIELDS = {"vision-encoder-decoder": "encoder", "vision-text-dual-encoder": "vision_config"}


@pytest.mark.parametrize("case", ONE_OF_EACH.values())
def test_the_same_numbers_without_sima_hf(published, case):
    folder = published[case]
    if case in TOWER_FIELDS and TOWER_FIELDS[case] not in CONFIG_MAPPING[case].__dataclass_fields__:
        pytest.skip("this Transformers builds the tower's config by its type alone")
    problem = folder / "error.txt"
    assert not problem.exists(), problem.read_text()
    assert (folder / "class.txt").read_text().startswith("transformers_modules.")
    expected = torch.load(folder / "expected.pt")
    for name in ("got.pt", "again.pt") if case in TWICE else ("got.pt",):
        tensors_there = torch.load(folder / name)
        assert len(tensors_there) == len(expected) > 0
        assert all(torch.equal(one, other) for one, other in zip(expected, tensors_there, strict=True)), name


def test_what_is_published_is_small_and_its_own(published):
    """No import of the package, nothing relative but siblings that are there, no reference left open."""
    for folder in published.values():
        files = {path.name: path.read_text(encoding="utf-8") for path in folder.glob("*.py")}
        assert set(files) == {
            "sima_attention.py",
            "sima_base.py",
            Path(json.loads(config_of(folder))["auto_map"]["AutoConfig"]).stem + ".py",
        }
        for name, text in files.items():
            assert text.count("\n") < 750, name
            assert "all_reduce" not in text, name  # tokens are split over processes by who has sima_hf
            assert "from .." not in text
            assert "import sima_hf" not in text
            assert "from sima_hf" not in text


def config_of(folder):
    return (folder / "config.json").read_text(encoding="utf-8")

"""SimA's peers, published: the code beside the weights brings the mechanism along, and gives the same numbers without sima_hf."""

import json

import pytest
import torch

from sima_hf.peers import PEERS
from tests.helpers.hub.published import publish_and_load_apart


pytestmark = pytest.mark.slow
PUBLISHED = [(name, "vit") for name, peer in PEERS.items() if peer.drop_in and "softmax" not in peer.remaining]
PUBLISHED += [("inline", case) for case in ("cvt", "siglip", "llava", "detr")]
PUBLISHED += [
    ("relu_over_tokens", "swin"),
    ("sigmoid", "beit"),
    ("rela", "data2vec-vision"),
    ("power_softmax", "sam_vision_model"),
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    rows = {one: one[::-1] for one in PUBLISHED}
    return publish_and_load_apart(rows, tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize(("attention", "case"), PUBLISHED)
def test_the_same_numbers_without_sima_hf(published, attention, case):
    folder = published[attention, case]
    problem = folder / "error.txt"
    assert not problem.exists(), problem.read_text()
    assert (folder / "class.txt").read_text().startswith("transformers_modules.")
    expected = torch.load(folder / "expected.pt")
    for name in ("got.pt", "again.pt"):
        found = torch.load(folder / name)
        assert len(found) == len(expected) > 0
        assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True)), name
    assert attention in (folder / "again" / "config.json").read_text()


def test_the_code_is_that_of_one_mechanism(published):
    for (attention, _), folder in published.items():
        text = (folder / "sima_attention.py").read_text()
        assert text.startswith(f'"""{PEERS[attention].title} attention ({PEERS[attention].source}) in plain torch')
        assert f"def {attention}_attention(" in text
        assert "def sima_attention(" not in text
        assert [name for name in PEERS if f"def {name}_attention(" in text] == [attention]
        config = json.loads((folder / "config.json").read_text())
        assert config["auto_map"]

"""What SimA was given of its peers': what it computes, that it goes away again, and the page's table."""

from pathlib import Path

import pytest
import torch
from transformers import AttentionInterface

from sima_hf.attention import register_attention_functions, sima_attention_forward
from sima_hf.bench.tables import links_from
from sima_hf.peers.inline import inline_reference


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import sima_options

    return sima_options


def test_with_all_of_it_sima_is_softmax_to_first_order(script):
    """Where channels have one norm, here because there is one channel."""
    query, key, value = (torch.randn(2, 3, 7, channels, dtype=torch.float64) for channels in (1, 1, 5))
    option = script.Option(centered=True, mean_value=True, logits=True)
    output, maps = script.attend(None, query, key, value, option=option)
    torch.testing.assert_close(output.transpose(1, 2), inline_reference(query, key, value))
    assert maps is None
    output, _ = script.attend(None, query, key, value, option=script.Option(centered=True))
    centered = key - key.mean(dim=2, keepdim=True)
    torch.testing.assert_close(output, sima_attention_forward(None, query, centered, value, gain="tokens")[0])


def test_sima_is_what_it_was_afterwards(script):
    register_attention_functions()
    before, basis = AttentionInterface()["sima"], script.fit.choose_basis
    with script.in_place_of_sima(script.Option(mean_value=True)):
        assert AttentionInterface()["sima"] is not before
        assert script.fit.choose_basis is not basis
    assert AttentionInterface()["sima"] is before
    assert script.fit.choose_basis is basis


@pytest.mark.results
def test_the_page_holds_the_committed_results(script, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = Path("docs/peers.md")
    assert links_from(page, script.table(Path("benchmarks/results"))) in page.read_text(encoding="utf-8")

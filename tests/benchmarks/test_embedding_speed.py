"""The speed of embedding: the script measures what it says, and the page says what the file says."""

import json
from pathlib import Path

import pytest

from sima_hf.bench.tables import links_from


ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path("benchmarks/results/embedding_cpu.json")


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import embedding_speed

    return embedding_speed


@pytest.mark.results
def test_what_was_measured(script):
    results = json.loads((ROOT / RESULTS).read_text())
    found = {(row["pixels"], row["contestant"]): row for row in results["rows"]}
    assert list(found) == [(pixels, one) for pixels in script.SIZES for one in script.CONTESTANTS]
    for (pixels, _), row in found.items():
        assert (row["images"], row["batch_size"]) == script.SIZES[pixels]
        assert row["images_per_second"] == sorted(row["rates"])[script.ROUNDS // 2]
    assert found[1024, "SimA"]["images_per_second"] > 2 * found[1024, "softmax"]["images_per_second"]


@pytest.mark.results
def test_the_page_holds_the_committed_results(script, monkeypatch):
    monkeypatch.chdir(ROOT)
    page = Path("docs/embedding.md")
    shown = links_from(page, script.block(RESULTS))
    assert f"<!-- embedding:start -->\n{shown}\n<!-- embedding:end -->" in page.read_text(encoding="utf-8")


def test_a_million_is_arithmetic(script):
    assert script.days_of_a_million(1_000_000 / 86400) == pytest.approx(1)


@pytest.mark.slow
def test_it_measures(script, tmp_path):
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    found = script.measured({32: (10, 4), 48: (4, 4)}, rounds=3, image_size=32, patch_size=16, **sizes)
    assert [(row["pixels"], row["contestant"], row["images"]) for row in found["rows"]] == [
        (32, "softmax", 10),
        (32, "SimA", 10),
        (48, "softmax", 4),
        (48, "SimA", 4),
    ]
    (tmp_path / "embedding_cpu.json").write_text(json.dumps(found))
    text = script.block(tmp_path / "embedding_cpu.json")
    softmax, sima = (row["images_per_second"] for row in found["rows"][2:])
    assert f"| 48 | {softmax:.2f} | {sima:.2f} | {sima / softmax:.2f} |" in text
    assert f"{1e6 / sima / 3600 / 64:,.1f} hours of 64 processes with SimA" in text

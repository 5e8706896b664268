"""DINO on Fashion-MNIST: a tiny run that goes on where it was; what the page says is what the file says."""

import json
import sys
from pathlib import Path

import pytest
import torch

from sima_hf.bench.tables import links_from


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import self_supervision

    if not self_supervision.FashionMNIST.__init__.__globals__["FASHION"].is_dir():
        pytest.skip("needs the package dataset-fashion-mnist")
    return self_supervision


@pytest.mark.slow
def test_a_run_that_goes_on(script, tmp_path, monkeypatch):
    for name, value in {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1}.items():
        monkeypatch.setitem(script.VIT, name, value)
    page, threads = tmp_path / "page.md", torch.get_num_threads()
    page.write_text("<!-- self-supervision:start -->\n<!-- self-supervision:end -->\n", encoding="utf-8")
    sizes = ["--train_images", "128", "--held_out_images", "50", "--test_images", "60", "--seeds", "0"]
    budget = ["--epochs", "1", "--choice_epochs", "1", "--rates", "1e-3", "1e-2"]
    words = ["self_supervision", "--output_dir", str(tmp_path), "--page", str(page), *sizes, *budget]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    before = json.loads((tmp_path / "self_supervision.json").read_text(encoding="utf-8"))
    script.main()
    torch.set_num_threads(threads)
    assert json.loads((tmp_path / "self_supervision.json").read_text(encoding="utf-8")) == before
    assert [cell["step"] for cell in before["cells"]] == ["pixels", *["random"] * 2, *["choice"] * 4, *["run"] * 2]
    for run in before["cells"][-2:]:
        tried = [
            cell for cell in before["cells"] if cell["step"] == "choice" and cell["attention"] == run["attention"]
        ]
        assert run["rate"] == max(tried, key=lambda cell: cell["knn_held_out"])["rate"]
    assert (tmp_path / "self_supervision.png").is_file()
    assert f"| DINO, SimA | {run['rate']:g} | {100 * run['knn']:.1f} |" in page.read_text(encoding="utf-8")


def test_both_encoders_begin_alike_and_are_what_they_say(script):
    import sima_hf

    softmax, sima = (script.build(name, 3) for name in script.ENCODERS)
    mine = sima.state_dict()
    assert all(torch.equal(mine[name], value) for name, value in softmax.state_dict().items())
    images = torch.randn(1, 3, 28, 28)
    assert sima_hf.certify(sima, images).softmax_free
    assert not sima_hf.certify(softmax, images).softmax_free


@pytest.mark.results
def test_the_page_holds_the_committed_results(script, monkeypatch):
    from self_supervision_figure import RESULTS, conditions, markdown_table

    monkeypatch.chdir(ROOT)
    results = json.loads(Path("benchmarks/results", RESULTS).read_text(encoding="utf-8"))
    page = Path("docs/self-supervision.md")
    text = page.read_text(encoding="utf-8")
    assert markdown_table(results) in text
    assert links_from(page, conditions(results, RESULTS)) in text
    untrained = [cell["knn"] for cell in results["cells"] if cell["step"] == "random"]
    runs = [cell for cell in results["cells"] if cell["step"] == "run"]
    assert len(runs) == 4
    assert min(run["knn"] for run in runs) > max(untrained)

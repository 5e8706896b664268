"""The dense runs: what was measured is far above chance, and the page says it."""

import json
from pathlib import Path

import pytest

from sima_hf.bench.tables import links_from


ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/dense_digits.json"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import dense_digits

    return dense_digits


@pytest.fixture(scope="module")
def results():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.mark.results
def test_settings_are_those_of_the_configs(results, script):
    """The file is not of other recipes or models than those that are there to be run."""
    for task, recipe in results["recipes"].items():
        assert recipe == json.loads((script.CONFIGS / f"digits_{task}.json").read_text(encoding="utf-8"))
    for name, config in results["models"].items():
        model = script.RUNS[name][1]
        assert config == json.loads((script.CONFIGS / "models" / f"{model}.json").read_text(encoding="utf-8"))
    assert results["images"] == script.IMAGES


@pytest.mark.results
def test_segmentation_tells_digits_apart_with_softmax_and_with_sima(results):
    """Background alone gives a share of 1/11 at most; 0.85 was aimed at and is not reached."""
    found = {run["model"]: run for run in results["runs"]}
    for name in ("SegFormer, softmax", "SegFormer, SimA"):
        assert found[name]["mean IoU"] >= 0.7
    assert found["SegFormer, softmax"]["parameters"] == found["SegFormer, SimA"]["parameters"]


@pytest.mark.results
@pytest.mark.xfail(strict=True, reason="a goal that is missed")
def test_segmentation_reaches_its_goal(results):
    assert min(run["mean IoU"] for run in results["runs"] if run["model"].startswith("SegFormer")) >= 0.85


def test_the_page_has_the_results(script, monkeypatch):
    page = Path("docs/dense.md")
    monkeypatch.chdir(ROOT)
    table = links_from(page, script.markdown_table(RESULTS.relative_to(ROOT)))
    assert table in (ROOT / page).read_text(encoding="utf-8")


def test_commands_name_files_that_are_there(script, tmp_path):
    for name in script.RUNS:
        words = script.command(name, tmp_path / "images", tmp_path / "run")
        assert all(Path(word).is_file() for word in words if word.endswith((".py", ".json")))

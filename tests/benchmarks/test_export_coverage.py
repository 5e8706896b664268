"""The table of what exports: how it is made, and that the committed one reaches its goal and is on the page."""

import json
import time
from pathlib import Path

import pytest

import sima_hf


ROOT = Path(__file__).resolve().parents[2]
RESULTS, PAGE = ROOT / "benchmarks" / "results", ROOT / "docs" / "export.md"


@pytest.fixture
def coverage(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return pytest.importorskip("export_coverage")


def test_every_row_of_the_table_of_hosts_and_every_variant_is_tried(coverage):
    hosts = [row["model_type"] for row in sima_hf.supported_models()]
    assert list(coverage.cases()) == [*hosts, *sima_hf.SIMA_VARIANTS]
    assert all(coverage.cases().values())


@pytest.mark.parametrize(
    ("does", "reason"),
    [(lambda out: time.sleep(60), "not done after 1 s"), (lambda out: exit(7), "the process ended (7)")],
    ids=["slow", "dies"],
)
def test_a_row_that_takes_too_long_or_dies_is_a_row(coverage, does, reason, monkeypatch):
    monkeypatch.setattr(coverage, "try_one", lambda form, dynamic, case, out: does(out))
    start = time.monotonic()
    row = coverage.within(1, "onnx", "none", "vit", ("vit", "ViTModel"))
    assert time.monotonic() - start < 30
    assert (row["format"], row["model_type"], row["model"], row["exports"]) == ("onnx", "vit", "ViTModel", "no")
    assert row["reason"] == reason


def test_rows_are_written_as_they_come_and_not_tried_twice(coverage, tmp_path, monkeypatch):
    tried = []

    def within(limit, form, dynamic, name, case):
        tried.append(name)
        good = {"exports": "yes", "agrees": "yes", "softmax_free": "yes", "dynamic": dynamic}
        bad = {"exports": "no", "reason": "a | b"}
        return dict.fromkeys(coverage.FIELDS, "") | {"format": form, "model_type": name} | (good, bad)[name == "deit"]

    monkeypatch.setattr(coverage, "within", within)
    monkeypatch.setattr(coverage, "find_format", lambda name: None)
    page = tmp_path / "page.md"
    page.write_text("# Page\n<!-- coverage:start -->\n<!-- coverage:end -->\nend\n")
    arguments = ["", "--output_dir", str(tmp_path), "--formats", "onnx", "--page", str(page), "--models"]
    for names, more in ((["deit", "vit"], []), (["vit", "deit", "beit"], []), (["vit", "deit"], ["--again"])):
        monkeypatch.setattr("sys.argv", [*arguments, *names, *more])
        coverage.main()
    assert tried == ["deit", "vit", "beit", "deit"]
    assert [name for _, name in coverage.read(tmp_path / "export_coverage.csv")] == ["vit", "deit", "beit"]
    assert (
        "- onnx: 2 of 3 model types export and agree, none with softmax or exp in what was swapped, 2 with none at all in"
        in page.read_text()
    )
    assert "| `deit` | onnx | a / b |" in page.read_text()
    assert "| `vit` | any number |" in page.read_text()
    assert page.read_text().endswith("<!-- coverage:end -->\nend\n")


@pytest.mark.results
def test_the_committed_table_reaches_its_goal_and_is_on_the_page(coverage):
    rows = coverage.read(RESULTS / "export_coverage.csv")
    hosts = [row["model_type"] for row in sima_hf.supported_models()]
    for form in ("onnx", "openvino"):
        assert sum(rows[form, name]["agrees"] == "yes" for name in hosts) >= 95
        assert all(rows[form, name]["agrees"] == "yes" for name in sima_hf.SIMA_VARIANTS)
    # Text sides of larger models are not swapped.
    assert {row["softmax_free"] for row in rows.values() if row["agrees"] == "yes"} <= {"yes", "elsewhere"}
    assert all(row["reason"] for row in rows.values() if row["agrees"] != "yes")
    conditions = json.loads((RESULTS / "export_coverage.json").read_text())
    assert coverage.markdown(rows, conditions) in PAGE.read_text(encoding="utf-8")

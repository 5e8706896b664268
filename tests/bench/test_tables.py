"""A table takes its place between marks, with links that lead from the page."""

from pathlib import Path

import pytest

from sima_hf.bench.tables import links_from, replace_between


def test_a_table_replaces_the_one_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- bench:start -->\nold\n<!-- bench:end -->\nafter\n")
    replace_between(page, "bench", "| new |")
    assert page.read_text() == "before\n<!-- bench:start -->\n| new |\n<!-- bench:end -->\nafter\n"


def test_a_page_without_marks_is_left_alone(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("no marks")
    with pytest.raises(ValueError, match="bench:start"):
        replace_between(page, "bench", "table")
    assert page.read_text() == "no marks"


def test_links_lead_from_the_page():
    text = "[a](benchmarks/a.csv) [b](https://b.org) [c](#c)"
    assert links_from(Path("docs/page.md"), text) == "[a](../benchmarks/a.csv) [b](https://b.org) [c](#c)"
    assert links_from(Path("README.md"), text) == text

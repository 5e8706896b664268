"""Every Python block of the README runs as it stands, and the commands it names exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_there_are_examples():
    assert len(BLOCKS) >= 2


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_python_block_runs(number, tmp_path):
    run = subprocess.run(
        [sys.executable, "-c", BLOCKS[number]], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", README)) | set(
        re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE)
    )
    assert {"demo", "test"} <= named <= targets


def test_files_it_links_to_exist():
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert links
    for link in links:
        assert (ROOT / link).exists(), link


def test_variants_it_names_are_the_variants():
    from sima_hf import SIMA_VARIANTS

    sizes, patches = re.search(r"`sima_\{([^}]*)\}_p\{([^}]*)\}`", README).groups()
    named = {f"sima_{size.strip()}_p{patch.strip()}" for size in sizes.split(",") for patch in patches.split(",")}
    assert named == set(SIMA_VARIANTS)


def test_the_table_of_hosts_is_the_table():
    from sima_hf.patching.hosts import markdown_table

    assert f"<!-- models:start -->\n{markdown_table()}\n<!-- models:end -->" in README

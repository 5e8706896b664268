"""Every Python block of the README and the docs runs as it stands, and the commands they name exist."""

import re
from pathlib import Path

import pytest
import torch
from transformers import DeiTConfig, DeiTForImageClassification
from transformers.models.deit.image_processing_pil_deit import DeiTImageProcessorPil

import sima_hf
from tests.helpers.hub.client import Client
from tests.helpers.hub.server import HubServer


ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    path: path.read_text(encoding="utf-8") for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
}
# These are told in order, in one folder: tests/examples/test_stories.py and test_embedding_page.py.
TOLD = ("stories", "embedding")
BLOCKS = [
    pytest.param(code, id=f"{path.stem}-{number}")
    for path, text in PAGES.items()
    if path.stem not in TOLD
    for number, code in enumerate(re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL))
]


def test_the_readme_is_short():
    assert PAGES[ROOT / "README.md"].count("\n") <= 150


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A process that knows a Hub on loopback with what the README loads from it; it has imported nothing of sima_hf."""
    root = tmp_path_factory.mktemp("hub")
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    model = DeiTForImageClassification(DeiTConfig(**sizes, image_size=32, patch_size=8, num_labels=3))
    sima_hf.patch_model(model).save_pretrained(root / "sima-deit")
    processor = DeiTImageProcessorPil(do_center_crop=False, size={"height": 32, "width": 32})
    processor.save_pretrained(root / "sima-deit")
    sima_hf.prepare_for_hub(root / "sima-deit", repo_id="org/sima-deit")
    with HubServer(root / "server") as server:
        # Imported without a name: each block has to import what it uses.
        imports = "__import__('torch').set_num_threads(1); __import__('transformers.pipelines')"
        with Client(server.environment(root / "home", server.token), root / "log", imports) as process:
            upload = "from huggingface_hub import HfApi; _ = HfApi().create_repo('org/sima-deit'); "
            upload += f"_ = HfApi().upload_folder(repo_id='org/sima-deit', folder_path={str(root / 'sima-deit')!r})"
            process.apart(upload)
            yield process


@pytest.mark.slow
@pytest.mark.parametrize("code", BLOCKS)
def test_python_block_runs(code, tmp_path, reader):
    before = f"__import__('os').chdir({str(tmp_path)!r})\n"
    if '"org/' in code and "import sima_hf" not in code:
        before += "__import__('sys').modules['sima_hf'] = None\n"
    reader.apart(before + code)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, flags=re.MULTILINE))
    text = "\n".join(PAGES.values())
    named = set(re.findall(r"`make ([a-z-]+)`", text)) | set(re.findall(r"^make ([a-z-]+)", text, flags=re.MULTILINE))
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_files_it_links_to_exist(page):
    for link in re.findall(r"\]\((?!https?://|#)([^)#]+)[^)]*\)", PAGES[page]):
        assert (page.parent / link).exists(), link


def test_variants_it_names_are_the_variants():
    from sima_hf import SIMA_VARIANTS

    sizes, patches = re.search(r"`sima_\{([^}]*)\}_p\{([^}]*)\}`", PAGES[ROOT / "docs" / "swapping.md"]).groups()
    named = {f"sima_{size.strip()}_p{patch.strip()}" for size in sizes.split(",") for patch in patches.split(",")}
    assert named == set(SIMA_VARIANTS)


def test_the_table_of_hosts_is_the_table():
    from sima_hf.patching.hosts import markdown_table

    assert (
        f"<!-- models:start -->\n{markdown_table()}\n<!-- models:end -->"
        in PAGES[ROOT / "docs" / "supported-models.md"]
    )

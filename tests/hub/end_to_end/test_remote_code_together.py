"""Models that came with code of their own, in one process: each runs its own code, and none is turned back to softmax."""

import pytest
import torch
from transformers import AutoModelForImageClassification

import sima_hf
from sima_hf.hub import auto_map
from sima_hf.patching.remote_code.model_files import write_remote_code
from tests.helpers.fresh_process import fresh
from tests.helpers.hosts.at_hand import given, make


pytestmark = pytest.mark.slow
START = """
import sys
sys.modules["sima_hf"] = None
import json, torch, transformers
torch.set_num_threads(1)
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
from transformers import AutoModel, AutoModelForImageClassification, AutoModelForSemanticSegmentation

def load(name, auto=AutoModelForImageClassification, **options):
    return auto.from_pretrained(name, trust_remote_code=True, **options).eval()

def logits(model, images="images.pt"):
    with torch.no_grad():
        return model(torch.load(images)).logits
"""


def published(folder, case, name):
    model = sima_hf.patch_model(make(case, name), backend="eager")
    model.config.architectures = [type(model).__name__]
    model.config.auto_map = auto_map(model.config)
    model.save_pretrained(folder)
    write_remote_code(model.config, folder)
    return model


def broken(text):
    """The code of an attention that answers zero."""
    right = "    output = attend(query, key, value)\n"
    assert text.count(right) == 1
    return text.replace(right, right.replace("value)", "value * 0)"))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Two versions of a DeiT and of an UperNet around a Swin: one whose published attention is wrong, and a right one."""
    root = tmp_path_factory.mktemp("together")
    for case, name in (("deit", "DeiTForImageClassification"), ("upernet", "UperNetForSemanticSegmentation")):
        model, inputs = published(root / case, case, name), given(case, name)
        published(root / f"{case}-wrong", case, name)
        path = root / f"{case}-wrong" / "sima_attention.py"
        path.write_text(broken(path.read_text()))
        torch.save(inputs["pixel_values"], root / f"{case}.pt")
        with torch.no_grad():
            torch.save(model(inputs["pixel_values"]).logits, root / f"{case}-right.pt")
    return root


def run(place, code):
    done = fresh(f"import os\nos.chdir({str(place)!r})\n{START}{code}")
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_each_runs_its_own_code(place):
    """What one repository brings does not reach another's model, so that a pinned commit is what runs."""
    printed = run(
        place,
        """
for case, auto in (("deit", AutoModelForImageClassification), ("upernet", AutoModelForSemanticSegmentation)):
    wrong = load(f"{case}-wrong", auto)
    right = load(case, auto)
    for name, model in (("wrong", wrong), ("right", right), ("wrong again", load(f"{case}-wrong", auto))):
        print(case, name, torch.equal(logits(model, f"{case}.pt"), torch.load(f"{case}-right.pt")))
""",
    )
    assert printed.splitlines() == [
        "deit wrong False",
        "deit right True",
        "deit wrong again False",
        "upernet wrong False",
        "upernet right True",
        "upernet wrong again False",
    ]


def test_with_sima_hf_its_own_tower_serves(place):
    """Trusted or not: the parent's code may run, but what it brought for its tower does not."""
    printed = run(
        place,
        """
del sys.modules["sima_hf"]
import sima_hf
right = torch.load("upernet-right.pt")
for trust in (None, True):
    model = AutoModelForSemanticSegmentation.from_pretrained("upernet-wrong", trust_remote_code=trust).eval()
    print(type(model.backbone).__module__, torch.allclose(logits(model, "upernet.pt"), right, atol=1e-5))
""",
    )
    assert printed.splitlines() == ["sima_hf.patching.classes True"] * 2


def test_no_name_brings_softmax_back(place):
    printed = run(
        place,
        """
right = torch.load("deit-right.pt")
for name in ("sdpa", "eager", "flash_attention_2", "sima", "sima_eager", "sima_cpu", None):
    try:
        model = load("deit", attn_implementation=name)
        print(name, torch.equal(logits(model, "deit.pt"), right))
    except (ValueError, ImportError) as error:
        print(name, "|", str(error).splitlines()[0])
model = load("deit")
for name in ("sdpa", "sima_triton"):
    try:
        model.set_attn_implementation(name)
    except ValueError as error:
        print("set", name, "|", error)
print("still", torch.equal(logits(model, "deit.pt"), right))
""",
    )
    lines = dict(line.partition(" ")[::2] for line in printed.splitlines() if not line.startswith("set"))
    for name in ("sdpa", "eager", "flash_attention_2"):
        assert lines[name].startswith("|"), printed
    for name in ("sima", "sima_eager", "None", "still"):
        assert lines[name] == "True", printed
    assert "needs sima_hf: `pip install sima-hf`" in lines["sima_cpu"]
    assert "set sdpa | SimADeiT" in printed
    assert "set sima_triton | `attn_implementation='sima_triton'` needs sima_hf" in printed
    assert "unpatch_model" not in printed


def test_attention_maps_through_the_config(place):
    """Asked for when loading, they are SimA's signed maps, with and without sima_hf."""
    with torch.no_grad():
        here = AutoModelForImageClassification.from_pretrained(
            place / "deit", output_attentions=True, attn_implementation="sima_eager"
        ).eval()
        torch.save(here(torch.load(place / "deit.pt")).attentions[0], place / "map.pt")
    printed = run(
        place,
        """
model = load("deit", output_attentions=True)
with torch.no_grad():
    maps = model(torch.load("deit.pt")).attentions
print(len(maps), torch.equal(maps[0], torch.load("map.pt")), bool((maps[0] < 0).any()))
""",
    )
    assert printed.split() == ["2", "True", "True"]

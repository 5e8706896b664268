"""Whole cards, one for each kind of model, to be read: `python -m tests.hub.cards.test_block` writes them anew; and odd values."""

import ast
import dataclasses
import re
import sys
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

import sima_hf
from sima_hf.folders.provenance import write_provenance
from sima_hf.hub import find_facts, model_card
from sima_hf.hub.cards.facts import CardFacts
from sima_hf.hub.cards.readme import END, read_readme
from sima_hf.patching.certificate import Certificate, Operation
from tests.helpers.hub.card_models import BASE, SIZES, checked, clip, evaluation, native, vit, write


CARDS = Path(__file__).with_name("snapshots")
BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"
VERSIONS = {"sima_hf": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}
REPO = "org/sima-model"


def of_native(folder):
    """SimA's own architecture with its image processor, evaluated."""
    one = native(folder)
    write(folder / "evaluation.json", evaluation(one))
    return one


def of_swapped(folder):
    """A ViT that was swapped and calibrated, and timed."""
    one = checked(folder, sima_hf.patch_model(vit()))
    calibration = {"images": 48, "layers": 4, "mlp": True, "ridge": 1e-6}
    calibration |= {"unexplained_before": 0.4, "unexplained_after": 0.0192}
    facts = {"base_model": BASE, "made_by": "sima-hf patch", "versions": VERSIONS, "calibration": calibration}
    write(folder / "sima_provenance.json", facts)
    (folder / "times.csv").write_bytes(BENCHMARK.read_bytes())
    return one


def of_part_swapped(folder):
    """A CLIP whose text side keeps softmax, swapped and left so."""
    one = clip(folder)
    write(folder / "sima_provenance.json", {"made_by": "sima-hf patch", "base_model": "openai/clip-vit-base-patch32"})
    return one


def of_trained(folder):
    """SimA's own architecture after a training with its results."""
    one = native(folder)
    training = {"num_train_epochs": 45.0, "learning_rate": 2e-3, "ema_decay": 0.0, "bf16": False}
    facts = {"training": training, "dataset": "ImageNet-1k", "hub_dataset": "ILSVRC/imagenet-1k", "versions": VERSIONS}
    write(folder / "sima_provenance.json", facts)
    write(folder / "all_results.json", {"epoch": 45.0, "eval_accuracy": 0.75, "eval_loss": 1.5, "train_loss": 2.25})
    return one


KINDS = {"native": of_native, "swapped": of_swapped, "part_swapped": of_part_swapped, "trained": of_trained}


def card_of(kind, place):
    folder = Path(place) / kind
    folder.mkdir()
    one = KINDS[kind](folder)
    one.config.transformers_version = None  # the one that is installed
    card = model_card(one, f"org/{kind}", find_facts(folder, license="apache-2.0"))
    # Which of these runs depends on the machine.
    return re.sub(r"aten::_scaled_dot_product\w+", "aten::_scaled_dot_product", card)


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_of_each_kind_of_model(kind, tmp_path):
    assert card_of(kind, tmp_path) == (CARDS / f"{kind}.md").read_text(encoding="utf-8")


def section(card, title):
    """One section of a card; "" if it has none of this title."""
    found = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", card, flags=re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def code(card):
    return re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)


def test_the_code_in_the_card_runs(one, tmp_path, monkeypatch, capsys):
    """The first and the third way as they stand; the second needs a repository, and is tried against the server."""
    if getattr(transformers.AutoImageProcessor, "is_dummy", False):
        pytest.skip("AutoImageProcessor of this Transformers asks for torchvision, which is not here")
    monkeypatch.chdir(tmp_path)
    Image.effect_noise((40, 30), 80).convert("L").save("image.jpg")
    first, second, third = code(model_card(one, str(one.path), CardFacts()))
    exec(first, space := {})
    picture = space["processor"](Image.open("image.jpg").convert("RGB"), return_tensors="pt")
    with torch.no_grad():
        label = one.config.id2label[int(one.model(**picture).logits.argmax())]
    assert capsys.readouterr().out.strip() == label
    exec(third, {})
    assert f"'label': '{label}'" in capsys.readouterr().out
    compile(second, "card", "exec")
    assert "import sima_hf" not in second
    assert '"trust_remote_code": True, "code_revision": "main"' in second


def test_the_code_in_the_card_of_a_class_without_auto_class_runs(tmp_path):
    config = CLIPVisionConfig(**SIZES, image_size=32, patch_size=8)
    model = sima_hf.patch_model(CLIPVisionModelWithProjection(config))
    model.save_pretrained(tmp_path)
    (lines,) = code(model_card(checked(tmp_path, model), str(tmp_path), CardFacts()))
    exec(lines, space := {})
    assert type(space["model"]) is type(model)


def test_weights_that_were_only_swapped_are_called_noise_first(swapped, tmp_path):
    write_provenance(tmp_path, base_model=BASE, made_by="sima-hf patch")
    first = model_card(swapped, REPO, find_facts(tmp_path)).partition("# sima-model\n\n")[2].partition("\n")[0]
    assert first.startswith("**Softmax was swapped for SimA in these weights, and nothing was calibrated")
    assert "at random" in first
    write(tmp_path / "evaluation.json", evaluation(swapped))  # how they answer is in the figures
    assert "at random" not in model_card(swapped, REPO, find_facts(tmp_path))


def test_calibrations_held_out_figures_and_its_warning_are_shown(swapped, tmp_path):
    calibration = {"images": 9, "unexplained_before": 12.271, "unexplained_after": 0.1286}
    held_out = {"held_out_agreement": 0.4567, "held_out_cosine": 0.8765, "warning": "Too few <images>: take more."}
    write_provenance(tmp_path, calibration=calibration | held_out)
    text = section(model_card(swapped, REPO, find_facts(tmp_path)), "Calibration")
    for words in ("12.3 times", "0.129 of it", "45.7%", "0.876", "**Too few &lt;images>: take more.**"):
        assert words in text
    assert re.findall(r"^\| `(.*)` \|", text, flags=re.MULTILINE) == ["images"]
    write_provenance(tmp_path, calibration={"images": 9}, anew=True)
    assert "held out" not in section(model_card(swapped, REPO, find_facts(tmp_path)), "Calibration")


def test_what_is_allowed_is_named_with_its_reason(swapped):
    operations = (Operation("vit.x", "SimAThing", "aten::exp", 2, "it scales | nothing"),)
    one = dataclasses.replace(swapped, certificate=Certificate("SimAViT", operations, ("",)))
    text = section(model_card(one, None, CardFacts()), "Attention")
    assert "- 2 x `aten::exp` in `SimAThing` (`vit.x`): it scales \\| nothing" in text


def test_limits_say_what_is_not_known(swapped, tmp_path):
    results = write(tmp_path / "all_results.json", {"train_loss": 1.0})
    text = section(model_card(swapped, REPO, CardFacts(base_model=BASE, results=results)), "Intended use and limits")
    for words in ("training data is not recorded", "its answers are is not recorded", "cost of the swap is unknown"):
        assert words in text
    assert "[" not in text


def test_names_of_classes(swapped, monkeypatch):
    for names, words in (
        (("a | b", "<c>"), "into 2 classes: a \\| b, &lt;c>; there"),
        (("LABEL_0", "LABEL_1"), "into 2 classes without names; there"),
    ):
        monkeypatch.setattr(swapped.model.config, "id2label", dict(enumerate(names)))
        assert words in model_card(swapped, REPO, CardFacts())


def test_odd_names_of_folders_data_metrics_and_files(one, tmp_path):
    """As code that runs, and as text that stays in its place."""
    name = 'a "b" | c <!-- sima_hf:end --> `d`\\'
    odd = dataclasses.replace(one, path=tmp_path / name)
    odd.path.mkdir()
    write(tmp_path / "my [results] | x.json", {"eval_f|1 <b>": 0.25, "eval_loss": 1.0})
    write(tmp_path / "evaluation.json", evaluation(one, of_data=f"{name}\n# c, validation split"))
    facts = CardFacts(results=(tmp_path / "my [results] | x.json", tmp_path / "evaluation.json"))
    card = model_card(odd, None, facts)
    assert read_readme(card).after.count(END) == 0
    assert model_card(odd, None, facts, card) == card
    for lines in code(card):
        strings = [node.value for node in ast.walk(ast.parse(lines)) if isinstance(node, ast.Constant)]
        assert name in strings
    assert '# a "b" \\| c &lt;!-- sima_hf:end --> `d`\\\n' in card
    for row in re.findall(r"^\|.*\d.*\|$", section(card, "Results"), flags=re.MULTILINE):
        assert len(re.findall(r"(?<!\\)\|", row)) == 5
    assert "| f\\|1 &lt;b> | 0.2500 |" in card
    assert "[my \\[results\\] \\| x.json](my%20%5Bresults%5D%20%7C%20x.json)" in card


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        for name in sys.argv[1:] or KINDS:
            (CARDS / f"{name}.md").write_text(card_of(name, place), encoding="utf-8")

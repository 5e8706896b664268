"""Whole cards, one for each kind of model, to be read: `python tests/hub/test_card_snapshots.py` writes them anew."""

import re
import sys
import tempfile
from pathlib import Path

import pytest

import sima_hf
from sima_hf.hub import find_facts, model_card
from tests.helpers.hub.card_models import BASE, checked, clip, evaluation, native, vit, write


CARDS = Path(__file__).with_name("cards")
BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"
VERSIONS = {"sima_hf": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0"}


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
    return re.sub(
        r"aten::_scaled_dot_product\w+", "aten::_scaled_dot_product", card
    )  # which one runs depends on the machine


@pytest.mark.parametrize("kind", KINDS)
def test_the_card_of_each_kind_of_model(kind, tmp_path):
    assert card_of(kind, tmp_path) == (CARDS / f"{kind}.md").read_text(encoding="utf-8")


if __name__ == "__main__":
    CARDS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as place:
        for name in sys.argv[1:] or KINDS:
            (CARDS / f"{name}.md").write_text(card_of(name, place), encoding="utf-8")

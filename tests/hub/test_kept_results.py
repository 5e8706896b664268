"""Results that the published card shows and a push does not bring: they stay with their file, if it is of these weights."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from sima_hf.folders.weights_hash import hash_of, weights_hash
from sima_hf.hub import plan_push
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts
from sima_hf.hub.cards.readme import read_readme
from sima_hf.hub.kept_results import kept_results
from tests.helpers.hub.card_models import evaluation, native, write
from tests.helpers.hub.pushes import change_weights, pushed


BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return native(tmp_path_factory.mktemp("native") / "folder")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"of_weights_sha256": "0" * 64}, "is of other weights"),
        ({"of_weights_sha256": None}, "does not say of which weights"),
        ({"accuracy": 95.8}, "cannot be read as results of this model"),
        ({"of_class": "Another"}, "cannot be read as results of this model"),
        (None, "neither the folder nor the repository has that file"),
    ],
)
def test_the_repositorys_file_decides(changes, words, one, tmp_path):
    results = write(tmp_path / "evaluation.json", evaluation(one, of_weights_sha256=weights_hash(one.weights)))
    card = model_card(one, "org/x", CardFacts(results=results))
    names = {"README.md", *(["evaluation.json"] if changes is not None else [])}
    if changes:
        content = json.loads(results.read_text())
        for name, value in changes.items():
            (content["settings"] if name.startswith("of_") else content)[name.removeprefix("of_")] = value
        write(results, content)
    repository = SimpleNamespace(names=names, fetch=lambda name: results)
    kept, dropped = kept_results((card, None), CardFacts(), one, repository)
    assert kept == ([] if words else [results])
    assert [words in why for why in dropped.values()] == ([True] if words else [])
    assert kept_results((card,), CardFacts(results=results), one, repository) == ([], {}), (
        "what is given is not asked for"
    )


def test_times_go_and_a_plan_without_network_says_what_it_does_not_know(folder):
    (folder / "times.csv").write_bytes(BENCHMARK.read_bytes())
    write(folder / "evaluation.json", {"accuracy": 0.5, "num_images": 9, "settings": {"data": "org/photos"}})
    card = plan_push(folder, "org/x").card
    assert plan_push(folder, "org/x", existing_card=card).notes == plan_push(folder, "org/x").notes
    for name in ("times.csv", "evaluation.json"):
        (folder / name).unlink()
    notes = plan_push(folder, "org/x", existing_card=card).notes
    assert "evaluation.json, because the repository was not read" in notes[0]
    assert "times.csv, because no such file was given" in notes[1]


@pytest.mark.usefixtures("clean_hub")
def test_results_stay_while_the_weights_do(hub, client, folder, tmp_path):
    """Pushed with its results, then without, then with other weights."""
    bare = shutil.copytree(folder, tmp_path / "bare")
    settings = {"class": "SimAViTForImageClassification", "data": "photos, val", "weights_sha256": hash_of(folder)}
    write(folder / "evaluation.json", {"accuracy": 0.75, "num_images": 8, "settings": settings})
    first = pushed(client, folder, "org/kept")
    card = hub.files("org/kept")["README.md"].decode()
    assert read_readme(card).data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    again = pushed(client, bare, "org/kept")
    assert (again["commit"], again["changed"]) == (first["commit"], False)
    change_weights(bare)
    last = pushed(client, bare, "org/kept")
    assert "evaluation.json, because the repository's file is of other weights." in last["plan"]
    text = hub.files("org/kept")["README.md"].decode()
    assert "75.00%" not in text
    assert not {"model-index", "metrics"} & set(read_readme(text).data)
    assert "evaluation.json" in hub.files("org/kept")  # it is its owner's

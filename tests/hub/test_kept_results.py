"""Figures that the published card shows and a push does not bring: they stay with their file, if it is of these weights."""

import json
import shutil
from pathlib import Path

import pytest

from sima_hf.folders.weights_hash import hash_of, weights_hash
from sima_hf.hub import plan_push
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts
from sima_hf.hub.cards.readme import read_readme
from sima_hf.hub.kept_results import kept_results
from tests.helpers.hub.card_models import evaluation, native, write
from tests.helpers.hub.pushes import change_weights, pushed
from tests.helpers.hub.saved_folder import PROCESSOR


BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return native(tmp_path_factory.mktemp("native") / "folder")


def measure(one, path, **changes):
    return write(path, evaluation(one, of_weights_sha256=weights_hash(one.weights), **changes))


def test_a_card_says_which_files_its_figures_are_from(one, tmp_path):
    odd = measure(one, tmp_path / "my [eval] | 1 -->.json", of_data="a | b, test split")
    (tmp_path / "my times.csv").write_bytes(BENCHMARK.read_bytes())
    card = model_card(one, "org/x", CardFacts(results=odd, benchmark=tmp_path / "my times.csv"))
    for text in (card, card.replace("\n", "\r\n")):
        assert read_readme(text).state["files"] == [odd.name, "my times.csv"]
    assert read_readme(model_card(one, "org/x", CardFacts())).state["files"] == []


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
    results = measure(one, tmp_path / "evaluation.json")
    card = model_card(one, "org/x", CardFacts(results=results))
    asked, names = [], {"evaluation.json", "README.md"} if changes is not None else {"README.md"}
    if changes:
        content = json.loads(results.read_text())
        for name, value in changes.items():
            (content["settings"] if name.startswith("of_") else content)[name.removeprefix("of_")] = value
        write(results, content)
    found = kept_results((card, None), CardFacts(), one, names, lambda name: asked.append(name) or results)
    assert found.files == (() if words else (results,))
    assert asked == ([] if changes is None else ["evaluation.json"])
    notes = [f"Dropped from the card: the figures of evaluation.json, because {why}." for why in found.gone.values()]
    assert found.notes == notes
    assert len(notes) == bool(words)
    assert all(words in note for note in notes)
    again = kept_results((card,), CardFacts(results=results), one, names, asked.append)
    assert (again.files, again.gone) == ((), {})  # what is given is not asked for


def test_times_go_with_a_word_and_a_plan_without_network_says_what_it_does_not_know(folder, tmp_path):
    (folder / "times.csv").write_bytes(BENCHMARK.read_bytes())
    content = {"accuracy": 0.5, "num_images": 9, "settings": {"data": "org/photos"}}
    write(folder / "evaluation.json", content)
    card = plan_push(folder, "org/x").card
    assert plan_push(folder, "org/x", existing_card=card).notes == plan_push(folder, "org/x").notes
    for name in ("times.csv", "evaluation.json"):
        (folder / name).unlink()
    first, second = plan_push(folder, "org/x", existing_card=card).notes[:2]
    assert "the figures of evaluation.json, because the repository was not read" in first
    assert "the figures of times.csv, because no such file was given" in second
    assert f"Note: {first}" in str(plan_push(folder, "org/x", existing_card=card))


# On the Hub


@pytest.mark.usefixtures("clean_hub")
def test_results_stay_while_the_weights_do(hub, client, folder, tmp_path):
    """Pushed with its results, then without, then with other weights."""
    write(
        tmp_path / "evaluation.json",
        {
            "accuracy": 0.75,
            "num_images": 8,
            "settings": {
                "class": "SimAViTForImageClassification",
                "data": "photos, val",
                "weights_sha256": hash_of(folder),
            },
        },
    )
    bare = tmp_path / "bare"
    shutil.copytree(folder, bare)
    (folder / "evaluation.json").write_bytes((tmp_path / "evaluation.json").read_bytes())
    first = pushed(client, folder, "org/kept")
    published = hub.files("org/kept")["README.md"].decode()
    assert read_readme(published).data["model-index"][0]["results"][0]["metrics"][0]["value"] == 0.75
    again = pushed(client, bare, "org/kept")
    assert (again["commit"], again["changed"]) == (first["commit"], False)
    assert "Dropped from the card" not in again["plan"]
    (bare / "preprocessor_config.json").write_text(json.dumps({**PROCESSOR, "do_resize": True}))
    assert pushed(client, bare, "org/kept")["changed"]
    assert hub.files("org/kept")["README.md"].decode() == published
    change_weights(bare)
    last = pushed(client, bare, "org/kept")
    assert "the figures of evaluation.json, because the repository's file is of other weights." in last["plan"]
    text = hub.files("org/kept")["README.md"].decode()
    assert "75.00%" not in text
    assert not {"model-index", "metrics"} & set(read_readme(text).data)
    assert "evaluation.json" in hub.files("org/kept")  # it is its owner's

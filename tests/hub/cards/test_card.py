"""The card of a model, read as a stranger and as the Hub read it: facts, their files, nothing guessed, and the author's part kept."""

import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from sima_hf.errors import PublishError
from sima_hf.folders.provenance import write_provenance
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts, card_files, find_facts
from sima_hf.hub.cards.readme import START, read_readme
from tests.helpers.hub.card_models import checked, evaluation, trainer_text, vit, write


BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"
REPO = "org/sima-model"


@pytest.fixture
def evaluated(one, tmp_path):
    """Facts of a native model that was evaluated."""
    return CardFacts(license="apache-2.0", results=write(tmp_path / "evaluation.json", evaluation(one)))


def data_of(card):
    return ModelCard(card).data


def values(card):
    return [(result.dataset_type, result.metric_value) for result in data_of(card).eval_results or []]


def test_the_hub_reads_what_was_measured(one, evaluated):
    data = data_of(model_card(one, REPO, evaluated))
    assert (data.library_name, data.pipeline_tag, data.license) == (
        "transformers",
        "image-classification",
        "apache-2.0",
    )
    assert data.tags == ["sima", "softmax-free", "vision", "image-classification"]
    assert data.model_name == "sima-model"
    report = json.loads(evaluated.results[0].read_text())
    found = {result.metric_name: result for result in data.eval_results}
    assert found["Top-1 accuracy"].metric_value == report["accuracy"]
    assert found["Top-5 accuracy"].metric_value == report["top_5_accuracy"]
    for result in found.values():
        assert (result.task_type, result.dataset_name) == ("image-classification", "digits")
        assert result.dataset_split == "validation"
        assert result.source_url.endswith(f"/{REPO}/blob/main/evaluation.json")
    assert data.datasets is None  # scikit-learn's digits are no data set of the Hub
    branch = data_of(model_card(one, REPO, evaluated, revision="try/v2")).eval_results[0]
    assert branch.source_url.endswith(f"/{REPO}/blob/try%2Fv2/evaluation.json")


def test_every_file_that_is_named_is_to_be_published(one, tmp_path):
    """And the other way: what is to be published with the card is named in it, and known to the next push."""
    (tmp_path / "bench.csv").write_bytes(BENCHMARK.read_bytes())
    write(tmp_path / "evaluation.json", evaluation(one))
    write_provenance(tmp_path, calibration={"images": 48}, training={"seed": 1})
    facts = find_facts(tmp_path)
    card = model_card(one, REPO, facts)
    names = {path.name for path in card_files(facts)}
    assert names == {"evaluation.json", "bench.csv", "sima_provenance.json"}
    assert {name for name, place in re.findall(r"\[([^]]+)\]\((?!http)([^)]+)\)", card) if name == place} == names
    assert read_readme(card).state["files"] == ["evaluation.json", "bench.csv"]


def test_nothing_known_nothing_said(one):
    card = model_card(one, REPO, CardFacts())
    assert not re.findall(r"^## (Results|Speed|Training|Calibration)", card, flags=re.MULTILINE)
    assert set(data_of(card).to_dict()) == {"library_name", "pipeline_tag", "tags"}
    assert "license" not in card
    assert "None" not in card


def test_no_card_for_softmax(tmp_path):
    with pytest.raises(PublishError, match="ran 2 operations of softmax"):
        model_card(checked(tmp_path, vit()), REPO, CardFacts())


def test_only_swapped_is_not_finetuned(swapped, tmp_path):
    write_provenance(tmp_path, base_model="org/base")
    data = data_of(model_card(swapped, REPO, find_facts(tmp_path)))
    assert (data.base_model, data.get("base_model_relation")) == ("org/base", None)
    write_provenance(tmp_path, training={"seed": 1})
    assert data_of(model_card(swapped, REPO, find_facts(tmp_path))).base_model_relation == "finetune"


def test_somebodys_folders_are_not_told(one, tmp_path):
    path = write(tmp_path / "evaluation.json", evaluation(one, of_data="/home/somebody/imagenet/val"))
    card = model_card(one, REPO, CardFacts(results=path))
    assert "somebody" not in card
    found = data_of(card).eval_results[0]
    assert (found.dataset_name, found.dataset_type, found.dataset_split) == ("imagenet", "imagenet", "val")
    card = model_card(one, REPO, CardFacts(results=path, evaluated_on="ILSVRC/imagenet-1k"))
    assert data_of(card).eval_results[0].dataset_type == "ILSVRC/imagenet-1k"


@pytest.mark.parametrize("name", [None, "folder"])
def test_a_folder_prepared_without_a_name_claims_no_address(name, one, evaluated):
    """A folder's name is none of a repository, and huggingface.co/folder may be somebody's."""
    assert "huggingface.co" not in model_card(one, name, evaluated).partition(START)[0]


# A README that is there


def test_twice_is_once_and_the_author_wins(one, evaluated, tmp_path):
    existing = "---\nlicense: apache-2.0\nbase_model: org/said\nlanguage: [en]\n---\n# Mine\n\nMy words.\n"
    card = model_card(one, REPO, evaluated, existing)
    assert model_card(one, REPO, evaluated, card) == card
    assert read_readme(card).own == "# Mine\n\nMy words."
    assert "# sima-model" not in card  # an author's title is the only one
    assert data_of(card).base_model == "org/said"
    assert "It was made from `org/said`." in card
    write_provenance(tmp_path, base_model="org/found", training={"seed": 1})
    card = model_card(one, REPO, find_facts(tmp_path), card)
    assert data_of(card).base_model == "org/said"
    assert data_of(card).get("base_model_relation") == "finetune"
    assert "org/found" not in card


def test_what_an_earlier_provenance_gave_goes_with_it(one, tmp_path):
    write_provenance(tmp_path, base_model="org/first", hub_dataset="org/data", dataset="data", training={"seed": 1})
    card = model_card(one, REPO, find_facts(tmp_path), "---\ndatasets: [org/mine]\n---\n# Mine\n")
    assert (data_of(card).base_model, data_of(card).datasets) == ("org/first", ["org/mine", "org/data"])
    write_provenance(tmp_path, base_model="org/second", anew=True)
    card = model_card(one, REPO, find_facts(tmp_path), card)
    assert (data_of(card).base_model, data_of(card).datasets) == ("org/second", ["org/mine"])
    assert data_of(card).get("base_model_relation") is None
    assert data_of(model_card(one, REPO, CardFacts(), card)).base_model == "org/second"  # nothing says otherwise


@pytest.mark.slow
def test_measurements_go_with_their_file(one, evaluated, tmp_path):
    card = model_card(one, None, evaluated, "# Mine\n")
    write(tmp_path / "evaluation.json", evaluation(one, of_data="photos, test split", accuracy=0.125))
    card = model_card(one, REPO, evaluated, card)
    assert values(card) == [("photos", 0.125), ("photos", 0.9944444444444445)]
    assert "95.83%" not in card
    card = model_card(one, REPO, CardFacts(), card)
    assert not {"model-index", "metrics"} & set(read_readme(card).data)
    assert "12.50%" not in card
    assert model_card(one, REPO, CardFacts(), card) == card


@pytest.mark.slow
def test_trainers_text_goes_where_its_settings_are_in_a_file(one, tmp_path):
    text = trainer_text()
    state = CardFacts(training=write(tmp_path / "trainer_state.json", {"global_step": 12}))
    card = model_card(one, REPO, state, text)
    assert "generated automatically" not in card
    assert "# sima-model" in card
    assert data_of(card).license == "mit"
    assert values(card) == []  # of a model that may be trained on since, and of no file
    kept = model_card(one, REPO, CardFacts(), text)
    assert read_readme(text).own in kept
    assert model_card(one, REPO, CardFacts(), kept) == kept
    given = model_card(one, REPO, CardFacts(training=state.training, license="apache-2.0"), text)
    assert data_of(given).license == "apache-2.0"  # nobody had decided on the other

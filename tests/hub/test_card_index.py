"""The whole life of a README's model-index: prepared, pushed here and there, measured again, its file gone; the author's entries stay."""

import copy

import pytest
import yaml
from huggingface_hub import ModelCard

from sima_hf.errors import PublishError
from sima_hf.folders.provenance import write_provenance
from sima_hf.hub import plan_push, prepare_for_hub
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts, find_facts
from sima_hf.hub.cards.readme import END, START, read_readme, readme_to_merge, with_pushed
from tests.helpers.hub.card_models import evaluation, native, write


TASK = {"type": "image-classification"}
DIGITS = {"name": "digits", "type": "digits", "split": "validation"}


def entry(value, name="Top-1 accuracy", dataset=DIGITS, source=None, **more):
    metric = {"type": "accuracy", "value": value, "name": name, **more}
    found = {"task": TASK, "dataset": dataset, "metrics": [metric]}
    return {**found, "source": {"name": "x", "url": source}} if source else found


# What an author may have written: each looks like one of ours in some way.
THEIRS = {
    "another source": entry(0.97, source="https://example.org/board/evaluation.json"),
    "the same of another model": entry(0.97, source="https://huggingface.co/org/teacher/blob/main/evaluation.json"),
    "another model, other data": entry(
        0.8,
        dataset={"name": "birds", "type": "birds"},
        source="https://huggingface.co/org/t/blob/main/evaluation.json",
    ),
    "no source, other data": entry(0.25, dataset={"name": "CIFAR-10", "type": "cifar10"}),
    "no source, another split": entry(0.25, dataset={**DIGITS, "split": "test"}),
    "no source, another value": entry(0.97),
    "another metric": {"task": TASK, "dataset": DIGITS, "metrics": [{"type": "f1", "value": 0.4}]},
    "another accuracy": entry(0.6, name="Balanced accuracy"),
    "signed": entry(0.5, verified=True, verifyToken="abc"),
    "no metrics": {"task": TASK, "dataset": DIGITS, "metrics": []},
}


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return native(tmp_path_factory.mktemp("native") / "folder")


def measured(one, place, accuracy, name="evaluation.json", **changes):
    report = evaluation(one, accuracy=accuracy, **changes)
    del report["top_5_accuracy"]
    return CardFacts(results=write(place / name, report))


def index(card):
    return read_readme(card).data.get("model-index")


def figures(card):
    """(model, value, source) of each measurement."""
    return [
        (model["name"], metric["value"], (result.get("source") or {}).get("url", "").removeprefix("https://"))
        for model in index(card) or []
        for result in model["results"]
        for metric in result["metrics"]
    ]


def at(repo, name="evaluation.json", branch="main"):
    return f"huggingface.co/{repo}/blob/{branch}/{name}"


def with_entries(card, entries):
    """A card whose author added to its model-index by hand."""
    data = read_readme(card).data
    found = copy.deepcopy(data.get("model-index") or [{"name": "mine", "results": []}])
    found[0]["results"] = [*found[0]["results"], *entries]
    front = yaml.safe_dump({**data, "model-index": found}, sort_keys=False)
    return f"---\n{front}---\n{read_readme(card).body}"


def test_prepared_then_pushed_here_and_there(one, tmp_path):
    card = model_card(one, None, measured(one, tmp_path, 0.9))
    assert figures(card) == [("folder", 0.9, "")]
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9), card)
    assert figures(card) == [("x", 0.9, at("org/x"))]
    card = model_card(one, "org/x", measured(one, tmp_path, 0.5), card, revision="try/v2")
    assert figures(card) == [("x", 0.5, at("org/x", branch="try%2Fv2"))]
    card = model_card(one, "org/y", measured(one, tmp_path, 0.25), card)
    assert figures(card) == [("y", 0.25, at("org/y"))]
    card = model_card(one, None, measured(one, tmp_path, 0.75), card)  # trained on, in a clone
    assert figures(card) == [("folder", 0.75, "")]
    card = model_card(one, "org/y", CardFacts(), card)
    assert index(card) is None
    assert "model-index" not in card
    assert "75.00%" not in card
    assert model_card(one, "org/y", CardFacts(), card) == card


def test_a_folder_prepared_without_a_name_claims_no_address(one, tmp_path):
    """A folder's name is none of a repository, and huggingface.co/folder may be somebody's."""
    for name in (None, "folder"):
        assert "huggingface.co" not in model_card(one, name, measured(one, tmp_path, 0.9)).partition(START)[0]


def test_in_the_folder_itself(tmp_path):
    folder = native(tmp_path / "pr").path
    one = native(folder)
    measured(one, folder, 0.9)
    prepare_for_hub(folder)
    assert figures(plan_push(folder, "org/x").card) == [("x", 0.9, at("org/x"))]
    measured(one, folder, 0.5)
    pushed = plan_push(folder, "org/x").card
    assert figures(pushed) == [("x", 0.5, at("org/x"))]
    (folder / "evaluation.json").unlink()
    for existing in (None, pushed):
        assert figures(plan_push(folder, "org/x", existing_card=existing).card) == []
    prepare_for_hub(folder)
    assert "value:" not in (folder / "README.md").read_text()


def test_results_of_another_name_go_as_well(one, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    given = measured(one, tmp_path / "elsewhere", 0.9, "my eval (1).json")
    card = model_card(one, "org/x", given)
    assert figures(card) == [("x", 0.9, at("org/x", "my%20eval%20%281%29.json"))]
    assert figures(model_card(one, "org/x", find_facts(tmp_path), card)) == []
    assert figures(model_card(one, "org/y", measured(one, tmp_path, 0.5), card)) == [("y", 0.5, at("org/y"))]


def test_results_of_a_training_and_of_data_named_by_hand(one, tmp_path):
    write_provenance(tmp_path, training={"seed": 1}, dataset="photos | of, all")
    write(tmp_path / "all_results.json", {"eval_accuracy": 0.75, "eval_top_5_accuracy": 0.9})
    card = model_card(one, None, find_facts(tmp_path))
    assert [value for _, value, _ in figures(card)] == [0.75, 0.9]
    assert len(figures(model_card(one, "org/x", find_facts(tmp_path), card))) == 2
    (tmp_path / "all_results.json").unlink()
    assert figures(model_card(one, "org/x", find_facts(tmp_path), card)) == []
    measured(one, tmp_path, 0.5)
    card = model_card(one, "org/a", find_facts(tmp_path, evaluated_on="org/data"))
    again = model_card(one, "org/b", find_facts(tmp_path, evaluated_on="org/other"), card)
    assert [result.dataset_name for result in ModelCard(again).data.eval_results] == ["org/other"]


@pytest.mark.parametrize("mine", THEIRS.values(), ids=THEIRS)
@pytest.mark.parametrize("first", [None, "org/x"])
def test_an_authors_entry_stays_as_it_is_through_all_of_it(first, mine, one, tmp_path):
    card = with_entries(model_card(one, first, measured(one, tmp_path, 0.9)), [mine])
    life = (("org/x", 0.9), ("org/x", 0.5), ("org/y", 0.25), ("org/y", None), (None, None), ("org/x", 0.75))
    for repo, accuracy in life:
        facts = measured(one, tmp_path, accuracy) if accuracy else CardFacts()
        card = model_card(one, repo, facts, card)
        assert model_card(one, repo, facts, card) == card
        ours = [result for model in index(card) for result in model["results"] if result != mine]
        assert mine in index(card)[0]["results"]
        assert [result["metrics"][0]["value"] for result in ours] == ([accuracy] if accuracy else [])


@pytest.mark.parametrize("mine", [one for name, one in THEIRS.items() if name != "no source, another value"])
def test_an_authors_entry_stays_where_there_was_no_card_of_ours(mine, one, tmp_path):
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9), with_entries("# Mine\n", [mine]))
    assert index(card)[0]["results"][0] == mine
    assert len(index(card)[0]["results"]) == 2
    assert index(model_card(one, "org/x", CardFacts(), card)) == [{"name": "mine", "results": [mine]}]


def test_the_same_measurement_without_a_source_is_replaced_once(one, tmp_path):
    """By the first card, as what Trainer and the quickstart write; the README has no figure of ours yet that it could be beside."""
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9), with_entries("# Mine\n", [entry(0.5)]))
    assert figures(card) == [("mine", 0.9, at("org/x"))]


def test_a_metric_that_was_added_to_ours_stays(one, tmp_path):
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9))
    added = index(card)
    added[0]["results"][0]["metrics"].append({"type": "f1", "value": 0.4})
    card = f"---\n{yaml.safe_dump({'model-index': added})}---\n{read_readme(card).body}"
    found = figures(model_card(one, "org/y", measured(one, tmp_path, 0.5), card))
    assert [value for _, value, _ in found] == [0.4, 0.5]
    (left,) = index(model_card(one, "org/y", CardFacts(), card))
    assert left["results"][0]["metrics"] == [{"type": "f1", "value": 0.4}]


def test_a_name_that_the_author_gave_stays(one, tmp_path):
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9)).replace("- name: x\n", "- name: My model\n")
    assert figures(model_card(one, "org/y", measured(one, tmp_path, 0.5), card)) == [("My model", 0.5, at("org/y"))]
    assert "model-index" not in model_card(
        one, "org/y", CardFacts(), card
    )  # nothing is left that it would be the name of


@pytest.mark.parametrize("metrics", [["accuracy"], ["accuracy", "f1"], "accuracy", None])
def test_the_list_of_metrics_goes_with_the_last_figure(metrics, one, tmp_path):
    """Where it is what was written; with a word of its author's it stays."""
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9))
    data = {name: value for name, value in read_readme(card).data.items() if name != "metrics"}
    data |= {"metrics": metrics} if metrics else {}
    card = f"---\n{yaml.safe_dump(data)}---\n{read_readme(card).body}"
    found = read_readme(model_card(one, "org/x", CardFacts(), card)).data
    assert found.get("metrics") == (["accuracy", "f1"] if metrics and "f1" in metrics else None)
    kept = with_entries(card, [THEIRS["no source, other data"]])
    assert read_readme(model_card(one, "org/x", CardFacts(), kept)).data.get("metrics") == metrics


def test_our_model_takes_no_place_in_another(one, tmp_path):
    other = {"name": "their other model", "results": [THEIRS["another source"]]}
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9))
    front = yaml.safe_dump({"model-index": [*index(card), other]})
    card = f"---\n{front}---\n{read_readme(card).body}"
    renamed, *rest = index(model_card(one, "org/y", measured(one, tmp_path, 0.5), card))
    assert (renamed["name"], rest) == ("y", [other])
    assert index(model_card(one, "org/y", CardFacts(), card)) == [other]


def test_a_figure_rounded_by_hand_is_still_the_files(one, tmp_path):
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9583333)).replace("0.9583333", "0.96")
    assert figures(card)[0][1] == 0.96
    assert figures(model_card(one, "org/x", CardFacts(), card)) == []


def test_without_the_block_the_source_speaks(one, tmp_path):
    card = model_card(one, "org/x", measured(one, tmp_path, 0.9))
    bare = card.partition(START)[0] + "# Mine\n" + card.partition(END)[2]
    assert figures(model_card(one, "org/x", CardFacts(), bare)) == []
    assert figures(model_card(one, "org/y", CardFacts(), bare)) == [("x", 0.9, at("org/x"))]


def test_an_edited_readme_is_still_told_apart_after_a_renewal(one, tmp_path):
    """The digests in the published card: untouched on the Hub, edited in the folder, and measured again meanwhile."""
    local = model_card(one, None, measured(one, tmp_path, 0.9), "# Mine\n\nFirst.\n")
    published = None
    for accuracy in (0.9, 0.5):
        facts = measured(one, tmp_path, accuracy)
        merged = readme_to_merge(local, published, "org/x")
        card = model_card(one, "org/x", facts, merged)
        published = with_pushed(card, local, published, merged)
        assert figures(published) == [("x", accuracy, at("org/x"))]
    edited = local.replace("First.", "Second.")
    assert readme_to_merge(edited, published, "org/x") == edited
    elsewhere = published.replace("First.", "Third.")
    assert readme_to_merge(local, elsewhere, "org/x") == elsewhere


@pytest.mark.parametrize("theirs", [[], None, [{"name": "x"}]])
def test_nothing_there_and_nothing_measured_is_left_alone(theirs, one):
    front = yaml.safe_dump({"model-index": theirs})
    if theirs:
        with pytest.raises(PublishError, match="is not what the Hub takes"):
            model_card(one, "org/x", CardFacts(), f"---\n{front}---\n")
    else:
        assert read_readme(model_card(one, "org/x", CardFacts(), f"---\n{front}---\n")).data["model-index"] == theirs

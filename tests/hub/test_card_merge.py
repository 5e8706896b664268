"""A README that is there already: its author's text and front matter stay, measurements are brought up to date, twice is once."""

import json
import re

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers.modelcard import TrainingSummary
from transformers.utils.hub import create_and_tag_model_card

from sima_hf.errors import PublishError
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts
from sima_hf.hub.cards.readme import END, START, is_generated, is_trainer_text, read_readme
from tests.helpers.hub.card_models import evaluation, native, write


REPO = "org/sima-model"
FRONT = """---
# kept as it is
license: mit   # said by its author
language:
    - en
tags: [mine,
  sima]
model-index:
- name: my model
  results:
  - task: {type: image-classification}
    dataset: {name: digits, type: digits, split: validation}
    metrics:
    - {type: accuracy, value: 0.5, name: Top-1 accuracy}
    - {type: f1, value: 0.4}
  - task: {type: image-classification}
    dataset: {name: CIFAR-10, type: cifar10}
    metrics:
    - {type: accuracy, value: 0.3}
    source: {name: a board, url: "https://example.org/board"}
widget:
- src: image.jpg
# the end
---
"""
# Its source is no mapping.
INDEX = """---
model-index:
- name: x
  results: [{{task: {{type: a}}, dataset: {{type: b, name: b}}, metrics: [{metrics}], source: a.org}}]
---
"""
BODY = "# My title\n\nMy words, `code` and | a table |.  \n\n\n* * *\n"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return native(tmp_path_factory.mktemp("native") / "folder")


@pytest.fixture
def facts(one, tmp_path):
    return CardFacts(results=write(tmp_path / "evaluation.json", evaluation(one)))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "existing",
    [
        "",
        "\n",
        BODY,
        FRONT,
        FRONT + BODY,
        "---\n---\n",
        "---\nlicense: mit\n---",
        "\ufeff" + FRONT + BODY,
        "---\n\n" + BODY,
    ],
    ids=["empty", "line", "body", "front", "both", "empty front", "front's end", "mark of order", "rule"],
)
def test_twice_is_once_and_the_authors_text_stays(existing, newline, one, facts):
    existing = existing.replace("\n", newline)
    card = model_card(one, REPO, facts, existing)
    assert model_card(one, REPO, facts, card) == card
    assert card.count(START) == card.count(END) == 1
    assert ("\r\n" in card) is ("\r\n" in existing)
    if "\r\n" in card:
        assert "\n" not in card.replace("\r\n", "")
    assert ModelCard(card).data.eval_results
    before = read_readme(existing)
    assert before.body.strip() in card
    assert "\ufeff" not in card
    assert ("license: mit" in card) is ("license: mit" in existing)
    after = yaml.safe_load(read_readme(card).front)
    assert {name: after[name] for name in before.data if name not in ("tags", "model-index")} == {
        name: value for name, value in before.data.items() if name not in ("tags", "model-index")
    }
    assert ("# sima-model" in card) is not bool(before.body.strip())  # an author's title is the only one


def test_front_matter_that_stays_keeps_its_wording(one):
    front = "---\nlicense: mit   # said by its author\ntags: [vision, sima,\n  softmax-free, image-classification]\n"
    front += "library_name: transformers\npipeline_tag: image-classification\n---\n"
    card = model_card(one, REPO, CardFacts(), front + BODY)
    assert card.startswith(front)
    tags = read_readme(model_card(one, REPO, CardFacts(), "---\ntags: [mine, sima]\n---\n")).data["tags"]
    assert tags == ["mine", "sima", "softmax-free", "vision", "image-classification"]


def test_measurements_are_replaced_and_others_kept(one, facts):
    report = json.loads(facts.results[0].read_text())
    (model,) = yaml.safe_load(read_readme(model_card(one, REPO, facts, FRONT + BODY)).front)["model-index"]
    assert model["name"] == "my model"
    found = [
        (result["dataset"]["type"], metric["type"], metric.get("name"), metric["value"])
        for result in model["results"]
        for metric in result["metrics"]
    ]
    assert found == [
        ("digits", "f1", None, 0.4),
        ("cifar10", "accuracy", None, 0.3),
        ("digits", "accuracy", "Top-1 accuracy", report["accuracy"]),
        ("digits", "accuracy", "Top-5 accuracy", report["top_5_accuracy"]),
    ]


@pytest.mark.parametrize("repo", [REPO, None])
def test_what_an_earlier_card_measured_goes_with_its_file(repo, one, facts, tmp_path):
    """evaluation.json is about other data now; a figure of the old one would have no file."""
    card = model_card(one, repo, facts, FRONT)
    write(tmp_path / "evaluation.json", evaluation(one, of_data="photos, test split", accuracy=0.125))
    text = model_card(one, repo, facts, card)
    data = ModelCard(text).data
    found = [(result.dataset_type, result.metric_value) for result in data.eval_results]
    assert found == [("digits", 0.4), ("cifar10", 0.3), ("photos", 0.125), ("photos", 0.9944444444444445)]
    assert "95.83%" not in text
    assert "my model" in card


@pytest.mark.parametrize(
    ("url", "stays"),
    [
        ("h/org/sima-model/blob/main/evaluation.json", False),
        ("h/org/sima-model/blob/try%2Fv2/by-hand.json", False),
        ("h/org/other/blob/main/evaluation.json", True),
        ("h/myorg/sima-model/blob/main/evaluation.json", True),
    ],
)
def test_a_source_in_the_repository_is_ours_and_one_elsewhere_is_not(url, stays, one, facts):
    index = FRONT.replace("https://example.org/board", url).replace(
        "{type: accuracy, value: 0.3}", "{type: accuracy, value: 0.3, name: Top-1 accuracy}"
    )
    assert ("value: 0.3" in model_card(one, REPO, facts, index)) is stays


def test_a_broken_state_is_none(one, facts):
    """As somebody's editor may leave it; nothing of it is trusted."""
    card = model_card(one, REPO, facts, BODY)
    for state in (
        "{",
        "{}",
        '{"results": 5, "files": {"a": 1}, "pushed": "x", "front": []}',
        '{"files": [5, "../x"], "results": [{}]}',
    ):
        broken = re.sub(r"(?<=sima_hf:state )\{.*\}(?= -->)", lambda _, state=state: state, card)
        assert (broken == card) is False
        assert model_card(one, REPO, facts, broken) == card


def test_only_the_block_is_exchanged(one, facts):
    existing = f"---\nlicense: mit\n---\nBefore.\n\n{START}\nold text 12.3%\n{END}   \nAfter.\n\n\n"
    card = model_card(one, REPO, facts, existing)
    assert "old text" not in card
    body = read_readme(card).body
    assert body.startswith(f"Before.\n\n{START}\n")
    assert body.endswith(f"\n{END}   \nAfter.\n\n\n")


@pytest.mark.parametrize(
    ("existing", "words"),
    [
        ("---\nlicense: [mit\n---\nText", "cannot be read as YAML.*line 2"),
        ("---\n- a\n- b\n---\n", "got a list"),
        ("---\nlicense: mit\n\nText", "has no end"),
        (f"{START}\n", "got 1 and 0"),
        (f"{END}\n{START}\n", "one pair"),
        (f"{START}{END}{START}{END}", "got 2 and 2"),
        ("---\nmodel-index: good\n---\n", "model-index of README.md must be a list"),
        ("---\nmodel-index:\n- name: x\n  results:\n  - metrics: [{type: a}]\n---\n", "must be a list of models"),
        ("---\nmodel-index:\n- results: []\n---\n", "is not what the Hub takes"),
        (INDEX.format(metrics="{type: c, value: 1}"), "must be a list of models"),
        (INDEX.format(metrics=""), "is not what the Hub takes"),
        ("---\nself: me\n---\n", "is not what the Hub takes"),
        ("---\na: b\ndate: 2024-13-45\n---\n", "cannot be read as YAML.*month must be in"),
        ("---\na: 0x_\n---\n", "cannot be read as YAML.*invalid literal"),
        ("---\na: b\non: push\n---\n", "must be text, got True"),
    ],
)
def test_what_cannot_be_merged_is_a_sentence(existing, words, one, facts):
    with pytest.raises(PublishError, match=f"(?s){words}"):
        model_card(one, REPO, facts, existing)


@pytest.mark.parametrize(
    "value", ["[{a: b}]", "{vision: yes}", "[[a], [a]]", "5", "[1, true, a, a]", "[sima, accuracy]"]
)
def test_lists_of_anything_are_joined(value, one, facts):
    """The Hub says what it takes; nothing of it is lost or changed here."""
    names = {
        "tags": ["sima", "softmax-free", "vision", "image-classification"],
        "metrics": ["accuracy"],
        "datasets": [],
    }
    existing = "".join(f"{name}: {value}\n" for name in names)
    card = model_card(one, REPO, facts, f"---\n{existing}---\n")
    said = yaml.safe_load(value)
    said = said if isinstance(said, list) else [said]
    for name, ours in names.items():
        wanted = [*said, *(word for word in ours if word not in said)] if ours else yaml.safe_load(value)
        assert repr(read_readme(card).data[name]) == repr(wanted)
    assert model_card(one, REPO, facts, card) == card


@pytest.mark.parametrize("said", ["5", "{a: b}", "[{a: b}]"])
def test_odd_values_contradict_what_is_given(said, one):
    with pytest.raises(PublishError, match="'org/c' was given"):
        model_card(one, REPO, CardFacts(base_model="org/c"), f"---\nbase_model: {said}\n---\n")


def test_what_is_given_and_contradicts_the_author_is_not_decided(one):
    existing = "---\nlicense: mit\nbase_model: [org/a, org/b]\n---\n"
    with pytest.raises(PublishError, match=r"says `license: mit`, but 'apache-2\.0' was given"):
        model_card(one, REPO, CardFacts(license="apache-2.0"), existing)
    with pytest.raises(PublishError, match="'org/c' was given"):
        model_card(one, REPO, CardFacts(base_model="org/c"), existing)
    card = model_card(one, REPO, CardFacts(license="MIT", base_model="org/b"), existing)
    assert "| license | mit |" in card
    assert ModelCard(card).data.base_model == ["org/a", "org/b"]


def test_the_authors_base_model_wins_over_one_that_was_found(one, tmp_path):
    found = {"base_model": "org/found", "training": {"seed": 1}}
    facts = CardFacts(provenance=write(tmp_path / "sima_provenance.json", found))
    card = model_card(one, REPO, facts, "---\nbase_model: org/said\n---\n")
    assert ModelCard(card).data.base_model == "org/said"
    assert "It was made from `org/said`." in card
    assert "org/found" not in card


def trainer_text(**settings) -> str:
    """What `Trainer.create_model_card` writes."""
    lines = [{"Training Loss": 2.3, "Epoch": 1.0, "Step": 6, "Accuracy": 0.05}]
    facts = {
        "model_name": "folder",
        "license": "mit",
        "dataset": "digits",
        "eval_results": {"Loss": 2.3, "Accuracy": 0.05},
        "eval_lines": lines,
        "hyperparameters": {"learning_rate": 0.002, "seed": 42},
    }
    return TrainingSummary(**{**facts, **settings}).to_model_card()


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"finetuned_from": "org/base"},
        {"finetuned_from": ""},
        {"eval_results": None, "eval_lines": None, "hyperparameters": None, "dataset": None},
        {"dataset": ["a", "b"]},
    ],
)
def test_trainers_text_is_known_and_an_authors_word_in_it_as_well(settings):
    body = read_readme(trainer_text(**settings)).body
    assert is_trainer_text(body)
    assert is_trainer_text(body.replace("\n", "\r\n"))
    assert not is_trainer_text(body + "\nOne more word.\n")
    assert not is_trainer_text(body.replace("More information needed", "Digits of 64 pixels.", 1))
    assert not is_trainer_text(body.replace("<!-- This model", "<!-- My model"))
    assert not is_trainer_text(BODY)


def test_trainers_text_goes_where_its_settings_are_in_a_file(one, tmp_path):
    text = trainer_text()
    state = CardFacts(training=write(tmp_path / "trainer_state.json", {"global_step": 12}))
    card = model_card(one, REPO, state, text)
    assert "generated automatically" not in card
    assert "# sima-model" in card
    assert ModelCard(card).data.license == "mit"
    kept = model_card(one, REPO, CardFacts(), text)
    assert read_readme(text).body.strip() in kept
    assert model_card(one, REPO, CardFacts(), kept) == kept
    given = model_card(one, REPO, CardFacts(training=state.training, license="apache-2.0"), text)
    assert ModelCard(given).data.license == "apache-2.0"  # nobody had decided on the other


def test_the_text_of_push_to_hub_goes_unless_someone_wrote_into_it(one, monkeypatch):
    def missing(*_, **__):
        raise EntryNotFoundError("no README yet")

    monkeypatch.setattr(ModelCard, "load", missing)
    stock = str(create_and_tag_model_card(REPO, ["sima"]))
    assert is_generated(read_readme(stock).body)
    card = model_card(one, REPO, CardFacts(), stock)
    assert "More Information Needed" not in card
    for author in (
        stock + "\nA word of mine.\n",
        stock.replace("- **License:** [More Information Needed]", "- **License:** MIT"),
        stock.replace("## Uses", "## Uses in my laboratory"),
    ):
        assert author != stock
        assert read_readme(author).body.strip() in model_card(one, REPO, CardFacts(), author)

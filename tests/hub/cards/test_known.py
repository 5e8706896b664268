"""What a card is written from: facts, what their files say, and what the README's author says."""

import pytest

from sima_hf.errors import PublishError
from sima_hf.folders.provenance import write_provenance
from sima_hf.hub.cards.facts import CardFacts, find_facts
from sima_hf.hub.cards.known import gather
from tests.helpers.hub.card_models import BASE, evaluation, write


@pytest.mark.parametrize(
    ("given", "words"),
    [({"license": "apache-2.0"}, r"'mit', got 'apache-2\.0'"), ({"base_model": "org/c"}, "'org/a', 'org/b'.*'org/c'")],
)
def test_what_is_given_and_contradicts_the_author_is_not_decided(given, words, one):
    theirs = {"license": "mit", "base_model": ["org/a", "org/b"]}
    with pytest.raises(PublishError, match=words):
        gather(one, CardFacts(**given), theirs)
    known = gather(one, CardFacts(license="MIT", base_model="org/b"), theirs)
    assert (known.license, known.base_model) == ("mit", "org/b")


def test_the_authors_base_model_wins_over_one_that_was_found(one, tmp_path):
    facts = CardFacts(provenance=write_provenance(tmp_path, base_model="org/found"))
    assert gather(one, facts, {"base_model": "org/said"}).base_model == "org/said"
    known = gather(one, facts, {})
    assert (known.base_model, known.file_of("base_model")) == ("org/found", facts.provenance)


def test_a_base_model_is_a_name_on_the_hub(one):
    with pytest.raises(PublishError, match=r"`base_model`.*\.\./my model"):
        gather(one, CardFacts(base_model="../my model"), {})


def test_a_data_set_is_linked_by_its_full_name_only(one, tmp_path, monkeypatch):
    """One word may be a stranger's data set on the Hub; and what folders lie around changes no card."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "val").mkdir()
    for name in ("birds", "val", "org/birds", "photos of birds"):
        known = gather(one, CardFacts(dataset=name), {})
        assert (known.dataset, known.hub_dataset) == (name, name if "/" in name else "")
    (tmp_path / "org" / "birds").mkdir(parents=True)
    with pytest.raises(PublishError, match=r"'org/birds'.*'\./org/birds'"):
        gather(one, CardFacts(dataset="org/birds"), {})
    known = gather(one, CardFacts(dataset="./org/birds"), {})
    assert (known.dataset, known.hub_dataset) == ("birds", "")


@pytest.mark.parametrize(
    ("weights", "told"),
    [(("ema", "ema"), True), (("both", "ema"), True), (("raw", "ema"), False), (("both", "raw"), False)],
)
def test_accuracy_of_weights_that_were_not_saved_is_not_told(weights, told, one, tmp_path):
    settings = dict(zip(("eval_weights", "save_weights"), weights, strict=True))
    write_provenance(tmp_path, training={"ema_decay": 0.99, **settings}, dataset="photos")
    write(tmp_path / "all_results.json", {"eval_accuracy": 0.75, "eval_raw_accuracy": 0.25, "train_loss": 1.0})
    (measured,) = gather(one, find_facts(tmp_path), {}).measured
    assert measured.figures == ({"accuracy": 0.75} if told else {})
    assert measured.data == "photos"
    assert measured.training == {"train_loss": 1.0}


def test_an_evaluation_without_its_data_is_of_no_known_data(one, tmp_path):
    write_provenance(tmp_path, dataset="photos", training={"seed": 1})
    write(tmp_path / "evaluation.json", evaluation(one, of_data=None))
    for given in (None, "org/other"):
        (measured,) = gather(one, find_facts(tmp_path, evaluated_on=given), {}).measured
        assert measured.data == given


@pytest.mark.parametrize(
    ("later", "only"),
    [({}, True), ({"calibration": {"images": 3}}, False), ({"training": {"seed": 3}}, False)],
)
def test_weights_that_were_only_swapped(later, only, one, tmp_path):
    write_provenance(tmp_path, base_model=BASE, made_by="sima-hf patch", **later)
    assert gather(one, find_facts(tmp_path), {}).only_swapped is only
    write(tmp_path / "trainer_state.json", {"global_step": 3})
    assert not gather(one, find_facts(tmp_path), {}).only_swapped


def test_trainers_state(one, tmp_path):
    history = [{"learning_rate": 1e-3, "grad_norm": float("nan")}, {"learning_rate": 5e-4}, {"eval_loss": 1.0}]
    path = write(tmp_path / "trainer_state.json", {"num_train_epochs": 2, "global_step": 12, "log_history": history})
    found = {"num_train_epochs": 2, "global_step": 12, "highest_logged_learning_rate": 1e-3}
    assert gather(one, CardFacts(training=path), {}).trainings == [(found, path)]
    for content in ({"log_history": [5]}, {"log_history": [{"learning_rate": "x"}, {"learning_rate": 1}]}, 5):
        write(path, content)
        with pytest.raises(PublishError, match=r"trainer_state\.json"):
            gather(one, CardFacts(training=path), {})

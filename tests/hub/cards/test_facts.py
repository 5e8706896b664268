"""Which files a card is written from."""

from pathlib import Path

import pytest

from sima_hf.errors import PublishError
from sima_hf.folders.provenance import write_provenance
from sima_hf.hub.cards.facts import CardFacts, card_files, find_facts
from tests.helpers.hub.card_models import write


BENCHMARK = Path(__file__).resolve().parents[3] / "benchmarks/results/model_deit-small_forward_cpu_float32.csv"
EVALUATION = {"accuracy": 0.5, "num_images": 8, "settings": {}}


def test_what_is_found_in_the_folder(tmp_path):
    write(tmp_path / "evaluation.json", EVALUATION)
    write(tmp_path / "results.json", [1, 2])  # of something else
    (tmp_path / "times.csv").write_bytes(BENCHMARK.read_bytes())
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    write(tmp_path / "trainer_state.json", {"global_step": 3})
    facts = find_facts(tmp_path)
    assert [path.name for path in card_files(facts)] == ["evaluation.json", "times.csv", "trainer_state.json"]
    write_provenance(tmp_path, training={"seed": 1})  # says it better than Trainer's state
    assert [path.name for path in card_files(find_facts(tmp_path))][2:] == ["sima_provenance.json"]
    assert card_files(CardFacts()) == ()


def test_a_broken_file_is_not_passed_over_and_a_link_that_leads_out_is(tmp_path):
    (tmp_path / "model").mkdir()
    write(tmp_path / "evaluation.json", EVALUATION)
    (tmp_path / "model" / "evaluation.json").symlink_to(tmp_path / "evaluation.json")
    assert find_facts(tmp_path / "model").results == ()
    (tmp_path / "evaluation.json").write_text('{"accuracy": 0.9')
    with pytest.raises(PublishError, match=r"evaluation\.json"):
        find_facts(tmp_path)


def test_what_was_given_wins_over_what_is_found(tmp_path):
    folder, elsewhere = tmp_path / "folder", tmp_path / "elsewhere"
    for place in (folder, elsewhere):
        place.mkdir()
        write(place / "evaluation.json", EVALUATION)
    given = find_facts(folder, results=str(elsewhere), license=None, base_model="org/base", benchmark=())
    assert given.results == (elsewhere / "evaluation.json",)
    assert (given.license, given.base_model) == (None, "org/base")
    both = CardFacts(results=(folder / "evaluation.json", elsewhere / "evaluation.json"))
    with pytest.raises(PublishError, match=r"both be published as evaluation\.json"):
        card_files(both)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"benchmark": "none.csv"}, PublishError, r"no file none\.csv"),
        ({"results": "."}, PublishError, "`results`"),
        ({"color": "red"}, TypeError, "color"),
    ],
)
def test_what_is_not_there_is_a_sentence(given, error, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=words):
        find_facts(tmp_path, **given)

"""A README that is there already: its author's text stays, only the block is exchanged, and of two edited ones none is lost."""

import re

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from transformers.utils.hub import create_and_tag_model_card

from sima_hf.errors import PublishError
from sima_hf.hub.cards.readme import (
    END,
    START,
    is_generated,
    is_trainer_text,
    read_readme,
    readme_to_merge,
    with_pushed,
    without_pushed,
    written,
)
from tests.helpers.hub.card_models import trainer_text


FRONT = "---\n# kept as it is\nlicense: mit   # said by its author\ntags: [mine,\n  sima]\n---\n"
BODY = "# My title\n\nMy words, `code` and | a table |.  \n\n\n* * *\n"
STATE = {"files": ["a --> b.json"], "pushed": ["0", None]}


def card(existing, block="Ours.", state=STATE, **data):
    readme = read_readme(existing)
    return written(readme, {**readme.data, **data}, block, state)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize(
    "existing", [None, "", "\n", BODY, FRONT, FRONT + BODY, "---\n---\n", "\ufeff" + FRONT + BODY]
)
def test_twice_is_once_and_the_authors_text_stays(existing, newline):
    existing = existing and existing.replace("\n", newline)
    before, text = read_readme(existing), card(existing, datasets=["org/data"])
    assert card(text) == text
    assert text.count(START) == text.count(END) == 1
    assert "\n" not in (text.replace("\r\n", "") if "\r\n" in (existing or "") else "")
    after = read_readme(text)
    assert after.own == before.own
    assert after.data == {**before.data, "datasets": ["org/data"]}
    assert list(after.data)[: len(before.data)] == list(before.data)
    assert after.state == STATE
    assert ModelCard(text).data.datasets == ["org/data"]


def test_front_matter_that_stays_keeps_its_wording():
    assert card(FRONT + BODY).startswith(FRONT)


def test_only_the_block_is_exchanged():
    text = card(f"{FRONT}Before.\n\n{START}\nold text 12.3%\n{END}   \nAfter.\n\n\n")
    body = text.removeprefix(FRONT)
    assert "old text" not in text
    assert body.startswith(f"Before.\n\n{START}\nOurs.\n")
    assert body.endswith(f"\n{END}   \nAfter.\n\n\n")


@pytest.mark.parametrize(
    "state",
    ["{", "{}", '{"results": 5, "files": {"a": 1}, "pushed": "x", "front": []}', '{"model": ["x"], "else": 1}'],
)
def test_a_broken_state_is_none(state):
    """As somebody's editor may leave it; nothing of it is trusted."""
    broken = re.sub(r"(?<=sima_hf:state )\{.*\}(?= -->)", lambda _: state, card(BODY))
    assert read_readme(broken).state == {}
    assert card(broken) == card(BODY)


@pytest.mark.parametrize(
    ("existing", "words"),
    [
        ("---\nlicense: [mit\n---\nText", "front matter.*line 1"),
        ("---\n- a\n- b\n---\n", "front matter"),
        ("---\nmodel-index: good\n---\n", "front matter"),
        ("---\nmodel-index:\n- name: x\n  results:\n  - metrics: [{type: a}]\n---\n", "front matter"),
        ("---\nmodel-index:\n- results: []\n---\n", "front matter"),
        ("---\nself: me\n---\n", "front matter"),
        ("---\na: b\ndate: 2024-13-45\n---\n", "front matter.*month must be in"),
        ("---\na: b\non: push\n---\n", "front matter"),
        (f"{START}\n", "got 1 and 0"),
        (f"{END}\n{START}\n", "got 1 and 1"),
        (f"{START}{END}{START}{END}", "got 2 and 2"),
    ],
)
def test_what_cannot_be_merged_is_a_sentence(existing, words):
    with pytest.raises(PublishError, match=f"(?s){words}"):
        read_readme(existing)


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
def test_trainers_text_is_nobodys_until_someone_writes_into_it(settings):
    own = read_readme(trainer_text(**settings)).own
    assert is_trainer_text(own)
    assert is_generated(own)
    assert not is_generated(own + "\n\nOne more word.")
    assert not is_generated(own.replace("More information needed", "Digits of 64 pixels.", 1))
    assert not is_generated(own.replace("<!-- This model", "<!-- My model"))
    assert not is_generated(BODY)


def test_push_to_hubs_text_is_nobodys_until_someone_writes_into_it(monkeypatch):
    def missing(*_, **__):
        raise EntryNotFoundError("no README yet")

    monkeypatch.setattr(ModelCard, "load", missing)
    own = read_readme(str(create_and_tag_model_card("org/x", ["sima"]))).own
    assert is_generated(own)
    assert not is_trainer_text(own)
    for author in (own + "\nA word of mine.", own.replace("## Uses", "## Uses in my laboratory")):
        assert author != own
        assert not is_generated(author)


# A push


def test_of_two_readmes_the_edited_one_is_merged_and_of_two_edited_ones_none_is_lost():
    local = "# Mine\n\nFirst.\n"
    assert readme_to_merge(local, None, "org/x") == readme_to_merge(None, local, "org/x") == local
    published = with_pushed(card(local), local, None, local)
    assert readme_to_merge(local, published, "org/x") == published  # nobody edited anything
    edited, elsewhere = local.replace("First", "Second"), published.replace("First", "Third")
    assert readme_to_merge(edited, published, "org/x") == edited
    assert readme_to_merge(local, elsewhere, "org/x") == elsewhere
    with pytest.raises(PublishError, match="org/x"):
        readme_to_merge(edited, elsewhere, "org/x")
    with pytest.raises(PublishError, match="org/x"):
        readme_to_merge(edited, "# Theirs\n", "org/x")
    assert readme_to_merge(trainer_text(), elsewhere, "org/x") == elsewhere
    assert readme_to_merge(edited, trainer_text(), "org/x") == edited


def test_what_was_written_on_the_hub_is_not_lost_after_a_push_that_kept_it():
    """The folder never had those words, so an edited README of the folder is no newer one."""
    local = "# Mine\n\nFirst.\n"
    first = with_pushed(card(local), local, None, local)
    elsewhere = first.replace("First", "Third")
    again = with_pushed(card(elsewhere, "Renewed."), local, elsewhere, elsewhere)
    assert readme_to_merge(local, again, "org/x") == again
    with pytest.raises(PublishError, match="org/x"):
        readme_to_merge(local.replace("First", "Second"), again, "org/x")
    unchanged = with_pushed(card(first, "Renewed."), local, first, first)
    edited = local.replace("First", "Second")
    assert readme_to_merge(edited, unchanged, "org/x") == edited


def test_a_folders_card_knows_of_no_push():
    text = card(BODY)
    assert read_readme(without_pushed(text)).state == {"files": STATE["files"]}
    assert with_pushed(without_pushed(text), None, None, None) != text

"""Front matter of two: the author's entries stay as they are, the measurements of this package come and go."""

import copy

import pytest

from sima_hf.hub.cards.front_matter import merged_data


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
    "of a longer name": entry(0.97, source="https://huggingface.co/my-org/x/blob/main/evaluation.json"),
    "no source, other data": entry(0.25, dataset={"name": "CIFAR-10", "type": "cifar10"}),
    "no source, another split": entry(0.25, dataset={**DIGITS, "split": "test"}),
    "no source, another value": entry(0.97),
    "another metric": {"task": TASK, "dataset": DIGITS, "metrics": [{"type": "f1", "value": 0.4}]},
    "another accuracy": entry(0.6, name="Balanced accuracy"),
    "signed": entry(0.5, verified=True, verifyToken="abc"),
    "no metrics": {"task": TASK, "dataset": DIGITS, "metrics": []},
}


def at(repo, name="evaluation.json"):
    return f"https://huggingface.co/{repo}/blob/main/{name}"


def ours(repo, value):
    """Our front matter for a repository; None: prepared without a name, so that there is no address."""
    name = (repo or "org/folder").partition("/")[2]
    results = [entry(value, source=at(repo) if repo else None)]
    return {"metrics": ["accuracy"], "model-index": [{"name": name, "results": results}]}


def figures(data):
    return [
        (model["name"], metric["value"], (result.get("source") or {}).get("url"))
        for model in data.get("model-index") or []
        for result in model["results"]
        for metric in result["metrics"]
    ]


def test_prepared_then_pushed_here_and_there():
    data, state = {}, {}
    for repo, value in ((None, 0.9), ("org/x", 0.9), ("org/x", 0.5), ("org/y", 0.25), (None, 0.75)):
        data, state = merged_data(data, ours(repo, value), state, repo)
        assert merged_data(data, ours(repo, value), state, repo) == (data, state)
        assert figures(data) == [((repo or "org/folder")[4:], value, at(repo) if repo else None)]
    assert merged_data(data, {}, state, "org/y") == ({}, {})


@pytest.mark.parametrize("mine", THEIRS.values(), ids=THEIRS)
@pytest.mark.parametrize("first", [True, False], ids=["author first", "card first"])
def test_an_authors_entry_stays_as_it_is_through_all_of_it(mine, first):
    data, state = {}, {}
    if not first:
        data, state = merged_data(data, ours(None, 0.9), state, None)
    index = copy.deepcopy(data.get("model-index", [{"name": "mine", "results": []}]))
    index[0]["results"].append(mine)
    data = {**data, "model-index": index}
    for repo, value in (("org/x", 0.9), ("org/x", 0.5), ("org/y", 0.25), ("org/y", None), ("org/x", 0.75)):
        data, state = merged_data(data, ours(repo, value) if value else {}, state, repo)
        (model,) = data["model-index"]
        assert mine in model["results"]
        found = [result["metrics"][0]["value"] for result in model["results"] if result != mine]
        assert found == ([value] if value else [])


def test_a_source_in_the_repository_is_ours_without_a_state():
    data = {"model-index": [{"name": "x", "results": [entry(0.9, source=at("org/x", "by-hand.json"))]}]}
    assert figures(merged_data(data, {}, {}, "org/x")[0]) == []
    assert figures(merged_data(data, ours("org/y", 0.5), {}, "org/y")[0]) == [
        ("x", 0.9, at("org/x", "by-hand.json")),
        ("x", 0.5, at("org/y")),
    ]


def test_a_metric_that_was_added_to_ours_stays():
    data, state = merged_data({}, ours("org/x", 0.9), {}, "org/x")
    data = copy.deepcopy(data)
    data["model-index"][0]["results"][0]["metrics"].append({"type": "f1", "value": 0.4})
    assert [value for _, value, _ in figures(merged_data(data, ours("org/x", 0.5), state, "org/x")[0])] == [0.4, 0.5]
    assert [value for _, value, _ in figures(merged_data(data, {}, state, "org/x")[0])] == [0.4]


def test_names_and_other_models_of_the_author_stay():
    data, state = merged_data({}, ours("org/x", 0.9), {}, "org/x")
    named = {"model-index": [{**data["model-index"][0], "name": "My model"}]}
    assert figures(merged_data(named, ours("org/y", 0.5), state, "org/y")[0]) == [("My model", 0.5, at("org/y"))]
    other = {"name": "their other model", "results": [THEIRS["another source"]]}
    both = {"model-index": [*data["model-index"], other]}
    renewed, *rest = merged_data(both, ours("org/y", 0.5), state, "org/y")[0]["model-index"]
    assert (renewed["name"], rest) == ("y", [other])
    assert merged_data(both, {}, state, "org/y")[0]["model-index"] == [other]


@pytest.mark.parametrize("metrics", [["accuracy"], ["accuracy", "f1"], "accuracy", None])
def test_the_list_of_metrics_goes_with_the_last_figure(metrics):
    """Where it is what was written; with a word of its author's it stays."""
    data, state = merged_data({}, ours("org/x", 0.9), {}, "org/x")
    data = {**data, "metrics": metrics}
    left = merged_data(data, {}, state, "org/x")[0]
    assert left.get("metrics") == (metrics if metrics and "f1" in metrics else None)
    index = [{"name": "x", "results": [*data["model-index"][0]["results"], THEIRS["no source, other data"]]}]
    assert merged_data({**data, "model-index": index}, {}, state, "org/x")[0]["metrics"] == metrics


@pytest.mark.parametrize("theirs", [[], None])
def test_an_empty_index_is_left_alone(theirs):
    assert merged_data({"model-index": theirs}, {}, {}, "org/x") == ({"model-index": theirs}, {})


@pytest.mark.parametrize("said", [[{"a": "b"}], {"vision": True}, [["a"], ["a"]], 5, [1, True, "a", "a"], ["sima"]])
def test_lists_of_anything_are_joined(said):
    """The Hub says what it takes; nothing of it is lost or changed here."""
    listed = said if isinstance(said, list) else [said]
    data, _ = merged_data({"tags": said, "license": "mit"}, {"tags": ["sima", "vision"], "license": "x"}, {}, None)
    assert data == {"tags": [*listed, *(one for one in ("sima", "vision") if one not in listed)], "license": "mit"}

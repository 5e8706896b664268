"""The comparison of attentions: a tiny run that goes on where it was, what its contestants compute, what its table says."""

import json
import sys
from pathlib import Path

import pytest
import torch

from sima_hf.bench.tables import links_from
from sima_hf.peers import PEERS


ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import compare_attentions

    return compare_attentions


@pytest.fixture
def run(script, tmp_path, monkeypatch):
    """Run the script on digits with arguments; returns the folder of the results."""

    def call(*arguments):
        page = tmp_path / "page.md"
        page.write_text("<!-- peers:start -->\n<!-- peers:end -->\n", encoding="utf-8")
        folders = ["--output_dir", str(tmp_path), "--kept", str(tmp_path / "kept"), "--page", str(page)]
        sizes = ["--epochs", "1", "--choice_epochs", "1", "--width", "8", "--depth", "1", "--batch_size", "64"]
        chosen = ["--data", "digits", "--seeds", "0", *(() if "--rates" in arguments else ("--rates", "1e-3", "4e-3"))]
        monkeypatch.setattr(sys, "argv", ["compare_attentions", *folders, *sizes, *chosen, *arguments])
        script.main()
        return tmp_path

    threads = torch.get_num_threads()
    yield call
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_a_run_that_goes_on(run, script):
    folder = run("--only", "train", "--attentions", "softmax", "inline")
    path = folder / "peers_digits.json"
    before = json.loads(path.read_text(encoding="utf-8"))
    run("--only", "train", "time", "--attentions", "softmax", "inline", "rela", "--tokens", "65", "--seconds", "0")
    after = json.loads(path.read_text(encoding="utf-8"))
    assert after["cells"][: len(before["cells"])] == before["cells"]  # nothing was measured again
    for name in ("softmax", "inline", "rela"):
        choices = [cell for cell in after["cells"] if (cell["step"], cell["attention"]) == ("choice", name)]
        (found,) = (cell for cell in after["cells"] if (cell["step"], cell["attention"]) == ("run", name))
        rates = [cell["rate"] for cell in choices]
        assert rates[:2] == [1e-3, 4e-3]
        assert found["rate"] == max(choices, key=lambda cell: cell["accuracy"])["rate"]
        assert min(rates) < found["rate"] < max(rates)
    settings = after["settings"]
    assert (settings["epochs"], settings["width"], settings["image_size"]) == (1, 8, 12)
    model = script.build("softmax", script.fields(settings))
    model.load_state_dict(torch.load(folder / "kept" / "peers_digits_0.pt"))
    data = script.digits(False, settings)
    (run_of_softmax,) = (cell for cell in before["cells"] if cell["step"] == "run" and cell["attention"] == "softmax")
    assert script.accuracy(model, data) == run_of_softmax["accuracy"]
    text = (folder / "page.md").read_text(encoding="utf-8")
    assert f"| softmax | softmax | {100 * run_of_softmax['accuracy']:.1f} (" in text
    assert "ReLA, scale and gate" in text
    assert "elu+1" not in text


def test_rates_are_widened_where_an_end_does_best(script, tmp_path):
    cells = script.Cells(tmp_path / "cells.json", {"data": "none", "settings": {}})
    tried = []

    def measure(rate):
        tried.append(rate)
        return {"accuracy": -abs(rate - best)}

    best = 0.008
    assert script.choose(cells, "inline", [0.001, 0.002], measure) == 0.008
    assert tried == [0.001, 0.002, 0.004, 0.008, 0.016]
    assert script.choose(cells, "inline", [0.001, 0.032], measure) == 0.008  # of all that was ever tried
    assert tried[5:] == [0.032]
    best = 0.0005
    assert script.choose(cells, "elu", [0.001, 0.002], measure) == 0.0005
    assert tried[6:] == [0.001, 0.002, 0.0005, 0.00025]


def test_a_better_rate_is_trained_again(script, tmp_path, monkeypatch):
    """What was measured stays when rates are added, but for runs at what is no longer the best, and what came of their weights."""
    import peers_figure

    path, found = tmp_path / "peers_digits.json", {1e-3: 0.2, 2e-3: 0.4, 4e-3: 0.3, 8e-3: 0.1}
    settings, trained = {"epochs": 2, "choice_epochs": 1}, []

    def model_of(name, seed, rate, settings, epochs, data):
        trained.append((name, seed, rate, epochs))
        model = torch.nn.Linear(1, 1)
        model.num_parameters, model.rate = (lambda: 2), rate
        return model

    monkeypatch.setattr(script, "trained", model_of)
    monkeypatch.setattr(script, "accuracy", lambda model, data: found[model.rate])
    source = script.DataSet("digits", lambda choose, settings: None, settings)

    def train(names, rates):
        cells = script.Cells(path, {"data": "digits", "settings": settings})
        script.train_all(cells, source, names, [0, 1], rates, tmp_path)
        return cells

    cells = train(["softmax", "elu"], [1e-3, 2e-3, 4e-3])
    for name in ("elu", "inline"):
        cells.add(dict, step="conversion", attention=name, seed=0)
    before = cells.facts["cells"]
    trained.clear()
    assert train(["softmax", "elu"], [1e-3, 2e-3, 4e-3, 8e-3]).find(step="run") == [
        cell for cell in before if cell["step"] == "run"
    ]
    assert {run[2:] for run in trained} == {(8e-3, 1)}  # the choice alone
    found[3e-3] = 0.5
    cells = train(["elu"], [3e-3])
    assert [cell["rate"] for cell in cells.find(step="run", attention="elu")] == [3e-3, 3e-3]
    assert len(cells.find(step="conversion")) == 2
    cells.add(lambda: {"accuracy": 0.5}, step="choice", attention="softmax", rate=3e-3)
    assert peers_figure.cells({"digits": json.loads(path.read_text())}, "digits", "run", "softmax") == []  # not yet
    cells = train(["softmax"], [1e-3])
    assert [cell["rate"] for cell in cells.find(step="run", attention="softmax")] == [3e-3, 3e-3]
    assert cells.find(step="conversion") == []
    assert sorted(one.name for one in tmp_path.glob("*.pt")) == ["peers_digits_0.pt", "peers_digits_1.pt"]


def test_contestants_compute_what_they_say(script):
    from peer_models import CONTESTANTS, RELA_IN_PARTS, build

    assert {name for name, peer in PEERS.items() if peer.drop_in} | {"softmax", "sima", "soft"} <= set(CONTESTANTS)
    images = torch.randn(2, 1, 12, 12)
    settings = {**script.DATA["digits"].settings, "width": 8, "depth": 1}
    plain = build("softmax", script.fields(settings)).num_parameters()
    for name, contestant in CONTESTANTS.items():
        model = build(name, script.fields(settings))
        attention = model.vit.layers[0].attention
        assert model.config._attn_implementation == (contestant.implementation or "sdpa")
        if contestant.implementation is None:
            assert type(attention).__name__ == "SoftAttention"
            assert attention.normalize == (name == "soft_plus")
        with torch.profiler.profile() as profile:
            model(images).logits.sum().backward()
        ran = {event.name.removeprefix("aten::") for event in profile.events()}
        softmax = any("softmax" in one or "scaled_dot_product" in one for one in ran)
        exp = bool(ran & {"exp", "elu", "sigmoid"})
        assert contestant.remaining == ("softmax" if softmax else "exp" if exp else "none"), name
        if contestant.implementation is not None:
            assert model.num_parameters() == plain + (2 * 8 if contestant.implementation == RELA_IN_PARTS else 0)


def test_operations_are_counted(script):
    from attention_costs import count_operations

    heads, channels = 6, 64
    tokens = 100
    pairs, each = tokens * tokens * heads, tokens * channels * heads
    # Scaling, two products, one softmax.
    assert count_operations("softmax", tokens) == each + 2 * 2 * pairs * channels + pairs
    # Two norms and their divisions, the sum; no product.
    assert count_operations("hydra", tokens) < 20 * each
    inline, relu = (
        count_operations(name, 1024) / count_operations(name, 256) for name in ("inline", "relu_over_tokens")
    )
    assert inline == pytest.approx(4, rel=0.02)
    assert relu == pytest.approx(16, rel=0.02)


@pytest.mark.results
def test_the_page_holds_the_committed_results(script, monkeypatch):
    import peers_figure

    monkeypatch.chdir(ROOT)
    results = peers_figure.read(Path("benchmarks/results"))
    page = Path("docs/peers.md")
    text = page.read_text(encoding="utf-8")
    assert links_from(page, peers_figure.markdown_table(results)) in text
    assert links_from(page, peers_figure.conditions(results)) in text
    for data in set(peers_figure.DATA) & set(results):
        runs = [cell for cell in results[data]["cells"] if cell["step"] == "run"]
        for run in runs:
            choices = peers_figure.cells(results, data, "choice", run["attention"])
            assert run["rate"] == max(choices, key=lambda cell: cell["accuracy"])["rate"]


@pytest.mark.results
@pytest.mark.parametrize("data", ["digits", "fashion_mnist"])
def test_every_attention_was_trained_from_two_seeds(script, data, monkeypatch):
    import peers_figure

    monkeypatch.chdir(ROOT)
    runs = [cell for cell in peers_figure.read(Path("benchmarks/results"))[data]["cells"] if cell["step"] == "run"]
    seeds = {name: {cell["seed"] for cell in runs if cell["attention"] == name} for name in script.CONTESTANTS}
    assert all(len(found) >= 2 for found in seeds.values())

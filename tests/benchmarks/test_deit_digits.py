"""DeiT from scratch on digits, by the training script: what was measured, and that SimA's keeps up with softmax's."""

import json
import statistics
from pathlib import Path

import pytest

from sima_hf.bench.tables import links_from
from tests.helpers.script_runs import losses, run


pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks/results/deit_digits.json"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import deit_digits

    return deit_digits


@pytest.fixture(scope="module")
def results():
    return json.loads(RESULTS.read_text(encoding="utf-8"))


@pytest.mark.results
def test_what_was_measured(results, script):
    """All settings are in the file, and the file is not of another version of the script."""
    assert results["measured_on"] == "test images"
    assert results["contestants"] == script.CONTESTANTS
    assert results["recipe"] == script.RECIPE
    found = {(run["attention"], run["seed"]): run["learning_rate"] for run in results["runs"]}
    assert found == {(attention, seed): script.LEARNING_RATE for attention in script.CONTESTANTS for seed in (0, 1, 2)}
    assert len(results["runs"]) == len(found)


@pytest.mark.results
def test_fresh_sima_deit_is_within_a_point_of_softmax(results):
    accuracy = {
        attention: statistics.mean(100 * run["accuracy"] for run in results["runs"] if run["attention"] == attention)
        for attention in results["contestants"]
    }
    assert accuracy["softmax"] > 90
    assert accuracy["sima"] >= accuracy["softmax"] - 1
    assert accuracy == pytest.approx({key: 100 * value for key, value in results["mean_accuracy"].items()})


def test_the_page_has_the_results(script, monkeypatch):
    page = Path("docs/results.md")
    monkeypatch.chdir(ROOT)
    table = links_from(page, script.markdown_table(RESULTS.relative_to(ROOT)))
    assert table in (ROOT / page).read_text(encoding="utf-8")


def test_its_command_trains_a_fresh_sima_deit(script, tmp_path):
    """Twenty steps, after which the loss was nan when tokens started at zero."""
    counts = script.write_digits(tmp_path / "digits", choose=True)
    assert counts == {"train": 1047, "measured": 250}
    words = script.command("sima", 0, 1e-3, tmp_path / "digits", tmp_path / "run")[2:]
    options = dict(zip((word.removeprefix("--") for word in words[::2]), words[1::2], strict=True))
    options |= {"max_train_images": 640, "num_train_epochs": 1, "warmup_epochs": 0}
    options |= {"logging_steps": 1, "save_strategy": "epoch"}
    folder = Path(options.pop("output_dir"))
    run("run_image_classification.py", folder, **options)
    found = list(losses(folder).values())
    assert len(found) == 20
    assert statistics.mean(found[-5:]) < found[0]

"""Files of results: real ones are read, and what cannot be, or is about another model, is refused with a sentence."""

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

import sima_hf
from sima_hf.errors import PublishError
from sima_hf.folders.weights_hash import weights_hash
from sima_hf.hub.cards.card import model_card
from sima_hf.hub.cards.facts import CardFacts, find_facts
from sima_hf.hub.cards.results import Measured, check_measured, read_measured
from sima_hf.hub.cards.speed import speed_table
from tests.helpers.hub.card_models import NAMES, checked, evaluation, native, vit, write


RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/results"
# The front matter of examples/model_card.py.
QUICKSTART_CARD = """---
model-index:
- name: demo
  results:
  - task: {{type: image-classification}}
    dataset: {{name: scikit-learn digits, type: scikit-learn digits, split: held out}}
    metrics:
    - {{type: accuracy, value: {accuracy}}}
---
# demo
"""
BENCHMARK = RESULTS / "model_deit-small_forward_cpu_float32.csv"


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return native(tmp_path_factory.mktemp("native"))


@pytest.mark.slow
def test_what_the_evaluation_script_writes_is_read(one, tmp_path):
    """The script itself, on digits: every figure comes through, and the card takes it."""
    from sima_hf.evaluation.report import write_report
    from sima_hf.evaluation.run import EvaluationOptions, run_evaluation

    folder = one.path
    found = run_evaluation(EvaluationOptions(model_name_or_path=str(folder), dataset="digits", labels_by_index=True))
    write_report(found, tmp_path)
    measured = read_measured(tmp_path / "evaluation.json")
    check_measured(measured, one.model, weights_hash(one.weights))
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert measured.figures == {name: content[name] for name in ("accuracy", "top_5_accuracy", "loss")}
    assert (measured.data, measured.split, measured.images) == ("digits", "20% held out", content["num_images"])
    assert set(measured.labels) == set(NAMES.values())
    assert measured.versions["sima_hf"] == sima_hf.__version__
    card = model_card(one, None, find_facts(folder, results=tmp_path))
    assert (
        f"| top-1 accuracy | {content['accuracy']:.2%} | digits, 20% held out; {content['num_images']} images |"
        in card
    )


def test_the_quickstarts_results_are_read(one, tmp_path):
    content = {
        "accuracy": 0.975,
        "test_images": 360,
        "parameters": one.model.num_parameters(),
        "data": "scikit-learn digits",
        "image_size": 64,
        "epochs": 12.0,
        "labels": list(NAMES.values()),
        "device": "cpu",
        "torch": "2.13.0",
    }
    measured = read_measured(write(tmp_path / "results.json", content))
    check_measured(measured, one.model)
    assert (measured.figures, measured.images) == ({"accuracy": 0.975}, 360)
    assert measured.training == {"epochs": 12.0}
    card = model_card(one, None, find_facts(tmp_path))
    assert (
        "| top-1 accuracy | 97.50% | scikit-learn digits, held out; 360 images | [results.json](results.json) |"
        in card
    )
    existing = QUICKSTART_CARD.format(accuracy=0.5)
    (result,) = ModelCard(model_card(one, None, find_facts(tmp_path), existing)).data.eval_results
    assert result.metric_value == 0.975
    write(tmp_path / "results.json", {**content, "labels": ["a", "b"]})
    with pytest.raises(PublishError, match="2 labels, but the folder holds one of 10"):
        check_measured(read_measured(tmp_path / "results.json"), one.model)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accuracy": 97.5}, "accuracy must be .* from 0 to 1, got 97.5. It looks like percent"),
        ({"accuracy": -0.1}, "from 0 to 1, got -0.1"),
        ({"top_5_accuracy": 1.01}, "top_5_accuracy must be"),
        ({"accuracy": float("nan")}, "NaN where a number should be"),
        ({"loss": float("inf")}, "Infinity where a number should be"),
        ({"accuracy": "high"}, "got 'high'"),
        ({"accuracy": True}, "got True"),
        ({"num_images": True}, "number of images must be a whole number of at least 1, got True"),
        ({"loss": -1}, "loss must be a finite number of at least 0, got -1"),
        ({"loss": 10**400}, "loss must be a finite number"),
        ({"of_eval_crop_pct": "x"}, "eval_crop_pct must be a finite number of at least 0, got 'x'"),
        ({"of_eval_crop_pct": -0.5}, "eval_crop_pct must be .* got -0.5"),
        ({"not_a_number": "x"}, "not_a_number must be a whole number of at least 0, got 'x'"),
        ({"left_out": 1.5}, "left_out must be a whole number"),
        ({"of_parameters": "many"}, "number of parameters must be a whole number of at least 1, got 'many'"),
        ({"num_images": 0}, "number of images must be .* got 0"),
        ({"per_class": [3]}, "is not as the script that wrote it leaves it"),
        ({"of_class": "SimADeiTForImageClassification"}, "was measured on a SimADeiTForImageClassification"),
        ({"of_parameters": 5}, "a model of 5 parameters"),
        (
            {"per_class": [{"label": f"digit {index}"} for index in range(12)]},
            "of 12 labels, but the folder holds one of 10",
        ),
        ({"per_class": [{"label": "cat"}]}, "with the class 'cat'"),
    ],
)
def test_an_evaluation_that_cannot_be_this_models_is_refused(changes, words, one, tmp_path):
    path = write(tmp_path / "evaluation.json", evaluation(one, **changes))
    with pytest.raises(PublishError, match=words):
        model_card(one, None, CardFacts(results=path))


def test_results_of_the_softmax_model_are_not_those_of_the_swapped_one(tmp_path):
    teacher = checked(tmp_path, vit())
    path = write(tmp_path / "evaluation.json", evaluation(teacher))
    swapped = checked(tmp_path, sima_hf.patch_model(vit()))
    check_measured(read_measured(path), teacher.model)
    with pytest.raises(PublishError, match="on a ViTForImageClassification, but the folder holds a SimAViTFor"):
        model_card(swapped, None, CardFacts(results=path))


@pytest.mark.parametrize("name", ["evaluation.json", "all_results.json", "results.json"])
def test_results_of_other_weights_are_refused(name, one, tmp_path):
    """Same class, same size, same labels, trained on since: the accuracy is not this model's."""
    content = {
        "evaluation.json": {**evaluation(one), "accuracy": 0.9},
        "all_results.json": {"eval_accuracy": 0.9},
        "results.json": {"accuracy": 0.9, "test_images": 9, "parameters": one.model.num_parameters(), "data": "x"},
    }[name]
    of = content["settings"] if name == "evaluation.json" else content
    of["weights_sha256"] = weights_hash(one.weights)
    assert "90.00%" in model_card(one, None, CardFacts(results=write(tmp_path / name, content)))
    of["weights_sha256"] = "0" * 64
    with pytest.raises(PublishError, match="was measured on other weights, whose hash begins with 00000000"):
        model_card(one, None, CardFacts(results=write(tmp_path / name, content)))


@pytest.mark.parametrize(("text", "words"), [('{"accuracy": 0.9', "is not JSON"), ("[]", "is not a file of results")])
def test_no_results_at_all(text, words, one, tmp_path):
    path = tmp_path / "evaluation.json"
    path.write_text(text)
    with pytest.raises(PublishError, match=words):
        model_card(one, None, CardFacts(results=path))
    with pytest.raises(PublishError, match="There is no file of results"):
        read_measured(tmp_path / "none.json")


def test_a_loss_of_ones_own_may_be_negative(tmp_path):
    """Trainer's results may be of any loss; evaluate_model.py has a cross-entropy."""
    path = write(tmp_path / "all_results.json", {"eval_loss": -1.5, "train_loss": -2.0, "eval_accuracy": 0.5})
    assert read_measured(path).figures == {"loss": -1.5, "accuracy": 0.5}


@pytest.mark.parametrize("text", ['{"accuracy": ' + "1" * 5000 + "}", "[" * 100_000])
def test_json_that_python_does_not_read_is_a_sentence(text, tmp_path):
    (tmp_path / "evaluation.json").write_text(text)
    with pytest.raises(PublishError, match="is not JSON"):
        read_measured(tmp_path / "evaluation.json")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"log_history": [{"learning_rate": "x"}, {"learning_rate": 1}]}, "learning_rate is 'x'"),
        ({"log_history": [{"learning_rate": float("nan")}]}, "learning_rate is nan"),
        ({"num_train_epochs": float("nan")}, "num_train_epochs is nan"),
        ({"global_step": "many"}, "global_step is 'many'"),
        ({"global_step": True}, "global_step is True"),
        ({"log_history": [5]}, "not the state that Trainer saves"),
    ],
)
def test_a_trainers_state_with_odd_values_is_refused(content, words, one, tmp_path):
    write(tmp_path / "trainer_state.json", content)
    with pytest.raises(PublishError, match=words):
        model_card(one, None, find_facts(tmp_path))


def test_what_a_trainers_history_has_besides_is_its_own(one, tmp_path):
    """A gradient that overflowed is logged as NaN; the card does not say it."""
    history = [{"learning_rate": 0.5, "grad_norm": float("nan")}, {"eval_loss": 1.0}]
    write(tmp_path / "trainer_state.json", {"global_step": 3, "log_history": history})
    card = model_card(one, None, find_facts(tmp_path))
    assert "| highest learning rate logged | 0.5 |" in card
    assert "nan" not in card


def test_many_classes_are_looked_up_at_once(one):
    """ImageNet-21k: one look through a list for each of them took seconds."""

    class Name(str):
        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other):
            Name.compared += 1
            return str.__eq__(self, other)

    labels = tuple(Name(f"class {index}") for index in range(2000))
    config = SimpleNamespace(id2label={index: str(label) for index, label in enumerate(labels)})
    model = SimpleNamespace(config=config, parameters=lambda: ())
    check_measured(Measured(Path("evaluation.json"), "evaluation", {}, labels=labels, all_labels=True), model)
    assert Name.compared <= 2 * len(labels)


def test_a_broken_file_in_the_folder_is_not_passed_over(one, tmp_path):
    (tmp_path / "evaluation.json").write_text('{"accuracy": 0.9')
    with pytest.raises(PublishError, match="half written"):
        model_card(one, None, find_facts(tmp_path))


def test_training_results_are_checked_as_well(one, tmp_path):
    for content, words in (
        ({"eval_accuracy": 75.0}, "looks like percent"),
        ({"train_loss": float("nan")}, "NaN"),
        ({"eval_loss": None}, "loss must be a finite number, got None"),
    ):
        with pytest.raises(PublishError, match=words):
            read_measured(write(tmp_path / "all_results.json", content))


@pytest.mark.parametrize(
    ("column", "value", "words"),
    [
        ("median_ms", "-1", "median_ms must be a number above 0, got '-1'"),
        ("median_ms", "nan", "median_ms must be .* got 'nan'"),
        ("ratio_to_baseline", "", "ratio_to_baseline must be .* got ''"),
        ("contestant", "softmax", "no row with SimA"),
    ],
)
def test_times_that_cannot_be_are_refused(column, value, words, tmp_path):
    with BENCHMARK.open(newline="") as file:
        rows = list(csv.DictReader(file))
    path = tmp_path / "times.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, column: value} for row in rows)
    with pytest.raises(PublishError, match=words):
        speed_table(path)


def test_a_csv_of_something_else_is_refused(tmp_path):
    with pytest.raises(PublishError, match="is not a CSV that `sima-hf bench model` wrote"):
        speed_table(RESULTS / "attention_cpu_float32.csv")
    with pytest.raises(PublishError, match="There is no file of times"):
        speed_table(tmp_path / "none.csv")


def test_native_and_compiled_times_are_told_as_such():
    native_times = speed_table(RESULTS / "model_sima_small_12_p16_forward_cpu_float32.csv")
    assert native_times["contestants"][:2] == ["SimA's formula as written", "SimA"]
    assert native_times["baseline"] == "SimA's formula as written"
    compiled = speed_table(RESULTS / "model_deit-small_forward_compiled_cpu_float32.csv")
    assert (compiled["model"], compiled["compiled"], native_times["compiled"]) == ("deit-small", True, False)
    assert speed_table(RESULTS / "model_deit-small_train_cpu_float32.csv")["rows"][0]["mode"] == "training step"

"""Results files: real ones are read, and what cannot be, or is about another model, is refused."""

import json

import pytest

import sima_hf
from sima_hf.errors import PublishError
from sima_hf.folders.weights_hash import weights_hash
from sima_hf.hub.cards.results import check_measured, read_measured
from tests.helpers.hub.card_models import checked, evaluation, vit, write


@pytest.mark.slow
def test_what_an_evaluation_writes_is_read(one, tmp_path):
    from sima_hf.evaluation.report import write_report
    from sima_hf.evaluation.run import EvaluationOptions, run_evaluation

    found = run_evaluation(EvaluationOptions(model_name_or_path=str(one.path), dataset="digits", labels_by_index=True))
    write_report(found, tmp_path)
    measured = read_measured(tmp_path / "evaluation.json")
    check_measured(measured, one.model, weights_hash(one.weights))
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert measured.figures == {name: content[name] for name in ("accuracy", "top_5_accuracy", "loss")}
    assert (measured.data, measured.split, measured.images) == ("digits", "20% held out", content["num_images"])
    assert measured.versions["sima_hf"] == sima_hf.__version__


def test_the_quickstarts_results_are_read(one, tmp_path):
    content = {
        "accuracy": 0.975,
        "test_images": 360,
        "parameters": one.model.num_parameters(),
        "data": "scikit-learn digits",
        "image_size": 64,
        "epochs": 12.0,
        "device": "cpu",
        "torch": "2.13.0",
    }
    measured = read_measured(write(tmp_path / "results.json", content))
    check_measured(measured, one.model)
    assert (measured.figures, measured.images, measured.training) == ({"accuracy": 0.975}, 360, {"epochs": 12.0})
    assert (measured.data, measured.split) == ("scikit-learn digits", "held out")


def test_trainings_results_are_read(tmp_path):
    """A loss of one's own may be negative; the raw weights and the run's times are not about the model."""
    content = {"eval_loss": -1.5, "eval_accuracy": 0.5, "eval_raw_accuracy": 0.4, "eval_runtime": 3.0, "epoch": 2}
    measured = read_measured(write(tmp_path / "all_results.json", content))
    assert (measured.figures, measured.training) == ({"loss": -1.5, "accuracy": 0.5}, {"epoch": 2})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accuracy": 97.5}, "accuracy must be .* from 0 to 1, got 97.5"),
        ({"top_5_accuracy": 1.01}, "top_5_accuracy must be"),
        ({"accuracy": float("nan")}, "NaN"),
        ({"loss": float("inf")}, "Infinity"),
        ({"accuracy": "high"}, "got 'high'"),
        ({"accuracy": True}, "got True"),
        ({"num_images": "many"}, "'many'"),
        ({"of_parameters": "many"}, "'many'"),
    ],
)
def test_figures_that_cannot_be_are_refused(changes, words, one, tmp_path):
    path = write(tmp_path / "evaluation.json", evaluation(one, **changes))
    with pytest.raises(PublishError, match=words):
        read_measured(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"of_class": "SimADeiTForImageClassification"}, "got SimADeiTForImageClassification"),
        ({"of_parameters": 5}, r"number of parameters.*got 5"),
        ({"of_weights_sha256": "0" * 64}, "got 00000000"),
    ],
)
def test_an_evaluation_of_another_model_is_refused(changes, words, one, tmp_path):
    measured = read_measured(write(tmp_path / "evaluation.json", evaluation(one, **changes)))
    with pytest.raises(PublishError, match=words):
        check_measured(measured, one.model, "1" * 64)


def test_results_of_the_softmax_model_are_not_those_of_the_swapped_one(swapped, tmp_path):
    teacher = checked(tmp_path, vit())
    measured = read_measured(write(tmp_path / "evaluation.json", evaluation(teacher)))
    check_measured(measured, teacher.model)
    with pytest.raises(PublishError, match=r"SimAViTForImageClassification, got ViTForImageClassification"):
        check_measured(measured, swapped.model)


@pytest.mark.parametrize("name", ["evaluation.json", "all_results.json", "results.json"])
def test_results_of_other_weights_are_refused(name, one, tmp_path):
    """Same class, same size, same labels, trained on since: the accuracy is not this model's."""
    content = {
        "evaluation.json": evaluation(one),
        "all_results.json": {"eval_accuracy": 0.9},
        "results.json": {"accuracy": 0.9, "test_images": 9, "parameters": one.model.num_parameters(), "data": "x"},
    }[name]
    mine = weights_hash(one.weights)
    of = content["settings"] if name == "evaluation.json" else content
    of["weights_sha256"] = mine
    check_measured(read_measured(write(tmp_path / name, content)), one.model, mine)
    of["weights_sha256"] = "0" * 64
    with pytest.raises(PublishError, match="00000000"):
        check_measured(read_measured(write(tmp_path / name, content)), one.model, mine)


@pytest.mark.parametrize("text", ['{"accuracy": 0.9', "[]", '{"a": 1}', '{"accuracy": ' + "1" * 5000 + "}", None])
def test_what_are_no_results_is_a_sentence(text, tmp_path):
    path = tmp_path / "evaluation.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PublishError, match=r"evaluation\.json"):
        read_measured(path)

"""The confusion matrix: counted, put into words, drawn for few and for very many classes."""

import numpy as np
import pytest
from PIL import Image

from sima_hf.errors import DataError
from sima_hf.evaluation.confusion import (
    count_confusions,
    draw_confusion,
    draw_confusion_figure,
    most_confused,
    shortened,
)
from sima_hf.machine.plotting import pyplot


@pytest.fixture
def axis():
    plt = pyplot()
    figure, axis = plt.subplots()
    yield axis
    plt.close(figure)


def random_answers(classes, seed=0):
    generator = np.random.default_rng(seed)
    true = generator.integers(0, classes, 20 * classes)
    predicted = np.where(generator.random(len(true)) < 0.8, true, generator.integers(0, classes, len(true)))
    return true, predicted


def test_counts_are_those_of_a_loop():
    true, predicted = random_answers(6)
    confusion = count_confusions(true.tolist(), predicted.tolist(), 7)
    for row in range(7):
        for column in range(7):
            assert confusion[row, column] == sum((true == row) & (predicted == column))
    assert confusion.dtype == np.int64


def test_the_commonest_mistakes_come_first():
    confusion = np.array([[5, 3, 0], [0, 1, 3], [9, 0, 90]])
    found = most_confused(confusion, ["a", "b", "c"])
    assert found == [
        {"true": "c", "predicted": "a", "count": 9, "images": 99},
        {"true": "b", "predicted": "c", "count": 3, "images": 4},
        {"true": "a", "predicted": "b", "count": 3, "images": 8},
    ]
    assert most_confused(confusion, ["a", "b", "c"], most=1) == found[:1]
    assert most_confused(np.eye(3, dtype=int), ["a", "b", "c"]) == []


def test_few_classes_have_their_counts_and_only_mistakes_are_colored(axis):
    confusion = np.array([[5, 3, 0], [0, 1, 3], [9, 0, 90]])
    draw_confusion(axis, confusion, ["ant", "bee", "cat"], "a title")
    written = {(round(text.get_position()[1]), round(text.get_position()[0])): text.get_text() for text in axis.texts}
    assert written == {(0, 0): "5", (0, 1): "3", (1, 1): "1", (1, 2): "3", (2, 0): "9", (2, 2): "90"}
    assert [tick.get_text() for tick in axis.get_yticklabels()] == ["ant", "bee", "cat"]
    (picture,) = axis.images
    shown = np.asarray(picture.get_array())
    assert (np.diag(shown) == 0).all()
    assert shown[2, 0] == 9 == picture.get_clim()[1]
    assert axis.get_title() == "a title"


@pytest.mark.parametrize(("classes", "squares"), [(21, 21), (100, 100), (101, 51), (250, 84), (1000, 100)])
def test_many_classes_share_squares_that_count_all_mistakes(axis, classes, squares):
    confusion = count_confusions(*random_answers(classes), classes)
    draw_confusion(axis, confusion, [str(index) for index in range(classes)])
    (picture,) = axis.images
    shown = np.asarray(picture.get_array()) ** 2
    assert shown.shape == (squares, squares)
    assert round(shown.sum()) == confusion.sum() - np.trace(confusion)
    together = -(-classes // squares)
    mistakes = confusion - np.diag(np.diag(confusion))
    assert shown[1, 2] == pytest.approx(mistakes[together : 2 * together, 2 * together : 3 * together].sum())
    assert not axis.texts


@pytest.mark.parametrize("classes", [2, 10, 37, 1000])
def test_the_figure_is_written_with_the_mistakes_in_words(classes, tmp_path, monkeypatch):
    plt, figures = pyplot(), []
    monkeypatch.setattr(plt, "close", figures.append)
    confusion = count_confusions(*random_answers(classes), classes)
    names = [f"class {index}, with a synonym" for index in range(classes)]
    path = draw_confusion_figure(confusion, names, tmp_path / "below" / "confusion.png", "a model\non images")
    monkeypatch.undo()
    (figure,) = figures
    said = [text.get_text() for text in figure.axes[1].texts]
    first = most_confused(confusion, names)[0]
    assert said[0] == f"{first['count']} of {first['images']}"
    assert said[1] == f"{first['true'].split(',')[0]} → {first['predicted'].split(',')[0]}"
    assert len(said) == 2 * len(most_confused(confusion, names, 20))
    with Image.open(path) as picture:
        assert picture.width > 1000
        edge = np.asarray(picture.convert("L"))
    assert (edge[[0, -1]] == 255).all()  # nothing is cut off
    assert (edge[:, [0, -1]] == 255).all()
    plt.close(figure)


def test_a_perfect_classifier_has_a_picture_too(tmp_path):
    path = draw_confusion_figure(np.diag([3, 4]), ["a", "b"], tmp_path / "confusion.png", "all right")
    assert path.stat().st_size > 10_000


def test_names_must_be_as_many_as_classes(axis):
    with pytest.raises(DataError, match="of 3 classes needs as many names, got 2"):
        draw_confusion(axis, np.eye(3, dtype=int), ["a", "b"])


def test_long_names_are_cut():
    assert shortened("great white shark, white shark, man-eater") == "great white shark"
    assert shortened("European fire salamander") == "European fire salaman…"
    assert len(shortened("x" * 99)) == 22

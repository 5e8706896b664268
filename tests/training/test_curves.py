"""The picture of a run: what it shows of a history, and that nothing in it covers anything else."""

import math

import numpy as np
import pytest
from PIL import Image

from sima_hf.errors import DataError, MissingDependencyError
from sima_hf.machine.plotting import pyplot
from sima_hf.training import curves
from sima_hf.training.curves import draw_curves, running_mean


def a_run(epochs=12, raw=True):
    """As Trainer logs it: the loss three times an epoch, then the evaluation of each kind of weights, then a summary."""
    history = []
    for epoch in range(1, epochs + 1):
        for third in (1, 2, 3):
            step = 30 * (epoch - 1) + 10 * third
            history.append({"step": step, "epoch": step / 30, "loss": 2.5 / step, "learning_rate": 1e-3 / step})
        accuracy = 0.9 - 0.8 / epoch
        history.append({"step": 30 * epoch, "epoch": float(epoch), "eval_loss": 2 / epoch, "eval_accuracy": accuracy})
        if raw:
            history.append({"step": 30 * epoch, "epoch": float(epoch), "eval_raw_accuracy": accuracy - 0.05})
    history.append({"step": 30 * epochs, "epoch": float(epochs), "train_runtime": 3.0, "train_loss": 1.0})
    return history


@pytest.fixture
def drawn(monkeypatch, tmp_path):
    """Draw, and return the figure with its size in pixels checked against the file's."""
    plt = pyplot()
    figures = []
    monkeypatch.setattr(plt, "close", figures.append)

    def draw(history, title="a run"):
        path = draw_curves(history, tmp_path / "below" / "curves.png", title)
        figure = figures[-1]
        with Image.open(path) as picture:
            assert picture.size == tuple((figure.get_size_inches() * 110).round().astype(int))
            assert len(np.unique(np.asarray(picture.convert("L")))) > 10
        return figure

    yield draw
    monkeypatch.undo()
    for figure in figures:
        plt.close(figure)


def lines_of(axis):
    return {line.get_label(): line.get_xydata() for line in axis.lines}


def panels(figure):
    return {axis.get_ylabel(): axis for axis in figure.axes}


def test_each_number_is_where_it_belongs(drawn):
    history = a_run()
    figure = drawn(history, "SimA on digits\nseed 7")
    found = panels(figure)
    assert set(found) == {"loss", "learning rate", "accuracy, %"}
    loss, accuracy = lines_of(found["loss"]), lines_of(found["accuracy, %"])
    expected = [(entry["epoch"], entry["loss"]) for entry in history if "loss" in entry]
    assert loss["training"].tolist() == [list(point) for point in expected]
    assert set(loss) == {"training", "validation"}
    assert set(accuracy) == {"validation, averaged", "validation, raw"}
    for key, label in (("eval_accuracy", "validation, averaged"), ("eval_raw_accuracy", "validation, raw")):
        percent = [[entry["epoch"], 100 * entry[key]] for entry in history if key in entry]
        assert accuracy[label] == pytest.approx(np.array(percent))
    (rates,) = lines_of(found["learning rate"]).values()
    assert rates[0].tolist() == [1 / 3, 1e-4]
    title = figure.get_suptitle()
    assert title.startswith("SimA on digits\nseed 7\n12 epochs, 360 steps; averaged weights 83.33 % (best 83.33 % at")
    assert found["loss"].get_yscale() == "log"  # from 0.25 to 0.007
    assert {axis.get_xlabel() for axis in found.values()} == {"", "epoch"}


@pytest.mark.parametrize("epochs", [1, 12, 60])
def test_no_legend_lies_on_data_and_all_is_inside(drawn, epochs):
    figure = drawn(a_run(epochs))
    everything = figure.bbox
    for axis in figure.axes:
        legend = axis.get_legend()
        if legend is not None:
            box = legend.get_window_extent()
            assert box.y0 >= axis.get_window_extent().y1 - 1
            assert everything.x0 <= box.x0
            assert box.x1 <= everything.x1
            assert box.y1 <= everything.y1
    boxes = [axis.get_legend().get_window_extent() for axis in figure.axes if axis.get_legend()]
    assert not any(one.overlaps(two) for one in boxes for two in boxes if one is not two)


def test_a_noisy_loss_gets_its_mean(drawn):
    figure = drawn(a_run(60))
    labels = set(lines_of(panels(figure)["loss"]))
    assert "training, running mean" in labels
    line = [(float(x), float(x * x)) for x in range(200)]
    found = running_mean(line)
    assert found[100] == (100.0, pytest.approx(np.mean([x * x for x in range(96, 105)])))
    assert found[0][1] == pytest.approx(np.mean([x * x for x in range(5)]))


def test_what_is_not_a_number_is_marked_and_the_rest_is_drawn(drawn):
    history = a_run(raw=False)
    history[4]["loss"], history[10]["loss"], history[3]["eval_accuracy"] = math.nan, math.inf, math.nan
    figure = drawn(history)
    loss = lines_of(panels(figure)["loss"])
    assert np.isnan(loss["training"][:, 1]).sum() == 2
    assert loss["not a finite number"][:, 0].tolist() == [history[4]["epoch"], history[10]["epoch"]]
    assert "accuracy 83.33 %" in figure.get_suptitle()


def test_a_run_without_evaluation_counts_steps(drawn):
    figure = drawn([{"step": step, "loss": 1.0 + step, "learning_rate": 0.1} for step in (10, 20, 30)])
    assert set(panels(figure)) == {"loss", "learning rate"}
    assert panels(figure)["learning rate"].get_xlabel() == "step"
    assert figure.get_suptitle().endswith("30 steps")
    assert panels(figure)["loss"].get_yscale() == "linear"


@pytest.mark.parametrize(
    "record",
    [{"step": 5, "loss": 2.0}, {"epoch": 1.0, "eval_accuracy": 0.5}, {"step": 1, "epoch": 1.0, "eval_loss": math.nan}],
    ids=["loss", "accuracy", "nan"],
)
def test_a_single_point_is_enough(drawn, record):
    figure = drawn([record])
    low, high = figure.axes[0].get_xlim()
    assert low < (record.get("epoch") or record["step"]) < high
    assert "1 epochs" not in figure.get_suptitle()


def test_going_on_from_a_checkpoint_does_not_go_back_in_time(drawn):
    """A log that was appended to has the steps after the checkpoint twice; the later record counts."""
    records = [{"step": step, "loss": 1.0} for step in (1, 2, 3, 4)] + [
        {"step": step, "loss": 2.0} for step in (3, 4, 5)
    ]
    line = lines_of(panels(drawn(records))["loss"])["training"]
    assert line.tolist() == [[1, 1], [2, 1], [3, 2], [4, 2], [5, 2]]


def test_what_cannot_be_drawn_is_said(tmp_path, monkeypatch):
    png = tmp_path / "curves.png"
    for history in ([], [{"loss": 1.0}, {"step": 3, "loss": "high"}]):
        with pytest.raises(DataError, match=rf"nothing to draw.*has {len(history)} records"):
            draw_curves(history, png)
    assert not png.exists()
    monkeypatch.setattr(curves, "pyplot", _missing)
    with pytest.raises(MissingDependencyError):
        draw_curves(a_run(1), png)


def _missing():
    raise MissingDependencyError("Pictures need matplotlib: pip install 'sima-hf[plot]'")

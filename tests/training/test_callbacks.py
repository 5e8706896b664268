"""A run that makes a trained model worse says so, once."""

from types import SimpleNamespace

from sima_hf.training.callbacks import RegressionWarning, WarnBelowStartCallback


def test_it_speaks_when_a_run_falls_below_its_start_and_not_again_until_it_has_come_back():
    watch = RegressionWarning()
    said = [watch.record(accuracy, step) for step, accuracy in enumerate((0.9, 0.86, 0.84, 0.3, 0.88, 0.95, 0.2))]
    assert [one is not None for one in said] == [False, False, True, False, False, False, True]
    assert said[2].startswith("After step 2 the accuracy is 84.0%, below the 90.0% that the run began with")


def test_without_a_start_nothing_is_below_it():
    watch = RegressionWarning()
    assert [watch.record(accuracy, step) for step, accuracy in ((5, 0.9), (6, 0.1))] == [None, None]


def test_the_callback_reads_the_accuracy_of_the_weights_that_are_saved(caplog):
    callback = WarnBelowStartCallback()
    for step, metrics in ((0, {"eval_accuracy": 0.9}), (4, {"eval_raw_accuracy": 0.1}), (4, None)):
        callback.on_evaluate(
            None, SimpleNamespace(global_step=step, is_world_process_zero=True), None, metrics=metrics
        )
    assert caplog.text == ""
    for main in (False, True):
        callback.watch.below = False
        state = SimpleNamespace(global_step=8, is_world_process_zero=main)
        callback.on_evaluate(None, state, None, metrics={"eval_accuracy": 0.5})
        assert ("After step 8 the accuracy is 50.0%" in caplog.text) == main

"""Runs that are killed at any moment and go on: the same losses, to the last bit, as a run that nobody disturbed."""

import functools
import random
import signal

import pytest
import torch
from safetensors.torch import load_file

from sima_hf.folders.manifest import checkpoints, damage, step_of
from tests.helpers.script_runs import TINY_ARGUMENTS, Run, command, losses, run


pytestmark = pytest.mark.slow
SCRIPTS = {
    "run_image_classification.py": {
        "report_to": "none",
        "disable_tqdm": True,
        "save_strategy": "steps",
        "save_steps": 2,
    },
    "run_image_classification_no_trainer.py": {"checkpointing_steps": 2},
}
KILLS = 4


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """Losses and final weights of each script, run once."""
    found = {}

    def of(script):
        if script not in found:
            folder = tmp_path_factory.mktemp("undisturbed") / "run"
            run(script, folder, **TINY_ARGUMENTS, **SCRIPTS[script])
            found[script] = losses(folder), load_file(folder / "model.safetensors")
        return found[script]

    return of


def at_work_on(folder, step):
    """Whether a run is writing the checkpoint of a step, or has it."""
    return (folder / f".incomplete-checkpoint-{step}").exists() or any(
        step_of(path) >= step for path in checkpoints(folder)
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_killed_runs_go_on_as_if_nothing_had_been(script, undisturbed, tmp_path):
    """With two workers; the undisturbed run has none, and neither have those that are stopped below."""
    chance = random.Random(script)
    arguments = {
        **TINY_ARGUMENTS,
        **SCRIPTS[script],
        "dataloader_num_workers": 2,
        "resume_from_checkpoint": "auto",
    }
    folder = tmp_path / "run"
    for attempt in range(KILLS):
        last = step_of(checkpoints(folder)[-1]) if checkpoints(folder) else 0
        target = last + chance.choice((0, 2))
        started = Run(script, command(output_dir=folder, **arguments), tmp_path / f"{attempt}.log")
        # Sometimes while a checkpoint is being written, sometimes between two, sometimes before the first.
        started.wait_for(functools.partial(at_work_on, folder, target))
        threading_pause = chance.random() * 0.1
        started.process.join(threading_pause)
        started.send(signal.SIGKILL)
        started.wait()
        assert started.process.exitcode in (0, -signal.SIGKILL), started.text[-3000:]
        assert all(damage(path) is None for path in checkpoints(folder))
    arguments["overwrite_output_dir"] = False
    run(script, folder, **arguments)
    expected_losses, expected_weights = undisturbed(script)
    assert losses(folder) == expected_losses
    for name, value in load_file(folder / "model.safetensors").items():
        assert torch.equal(value, expected_weights[name]), name


@pytest.mark.parametrize("script", SCRIPTS)
def test_sigterm_saves_and_ends_cleanly(script, undisturbed, tmp_path):
    arguments = {**TINY_ARGUMENTS, **SCRIPTS[script]}
    folder = tmp_path / "run"
    started = Run(script, command(output_dir=folder, **arguments), tmp_path / "log")
    started.wait_for(lambda: checkpoints(folder))
    started.send(signal.SIGTERM)
    assert started.wait() == 0, started.text[-3000:]
    stopped_at = step_of(checkpoints(folder)[-1])
    assert f"Stopped by SIGTERM after step {stopped_at}." in started.text
    assert not (folder / "all_results.json").exists()
    run(script, folder, **arguments, resume_from_checkpoint="last")
    assert losses(folder).items() >= undisturbed(script)[0].items()


@pytest.mark.parametrize("script", SCRIPTS)
def test_ctrl_c_says_where_to_go_on(script, tmp_path):
    folder = tmp_path / "run"
    started = Run(script, command(output_dir=folder, **TINY_ARGUMENTS, **SCRIPTS[script]), tmp_path / "log")
    started.wait_for(lambda: checkpoints(folder))
    started.send(signal.SIGINT)
    assert started.wait() == 130, started.text[-3000:]
    assert "interrupted. The last good checkpoint is" in started.text
    assert "Traceback" not in started.text

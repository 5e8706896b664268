"""Checkpoints are whole or not there, damage is recognized, and the good one before is named."""

import itertools
import multiprocessing
import re
import shutil
import time

import pytest

from sima_hf.errors import CheckpointError, TrainingError
from sima_hf.folders.manifest import MANIFEST
from sima_hf.training.checkpoints import folders as module
from tests.helpers.fresh_process import fresh


def write(run_dir, step, text="weights"):
    with module.writing(run_dir, step) as folder:
        (folder / "model.bin").write_text(text * 100)
        (folder / "ema").mkdir()
        (folder / "ema" / "model.bin").write_text("average")
    return run_dir / f"checkpoint-{step}"


def test_a_checkpoint_appears_whole(tmp_path):
    with module.writing(tmp_path, 5) as folder:
        (folder / "model.bin").write_text("half")
        assert module.checkpoints(tmp_path) == []
    assert [path.name for path in module.checkpoints(tmp_path)] == ["checkpoint-5"]
    assert module.damage(tmp_path / "checkpoint-5") is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-5"]


def test_order_is_by_step_and_other_names_are_no_checkpoints(tmp_path):
    for step in (9, 10, 100):
        write(tmp_path, step)
    (tmp_path / "checkpoint-best").mkdir()
    (tmp_path / "checkpoint-7").write_text("a file")
    assert [module.step_of(path) for path in module.checkpoints(tmp_path)] == [9, 10, 100]


def fail(run_dir, step, error):
    with module.writing(run_dir, step) as folder:
        (folder / "model.bin").write_text("half")
        raise error


def test_an_error_while_writing_leaves_the_earlier_one_and_names_it(tmp_path):
    write(tmp_path, 1)
    words = r"step 2 could not be written .*: broken\. The last good checkpoint is .*checkpoint-1;"
    with pytest.raises(TrainingError, match=words):
        fail(tmp_path, 2, ValueError("broken"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


@pytest.mark.parametrize(
    "text", ["[Errno 28] No space left on device", "I/O error: No space left on device (os error 28)"]
)
def test_a_full_disk_is_called_that(tmp_path, text):
    with pytest.raises(TrainingError, match=r"the disk is full; free some space.*There is no earlier checkpoint"):
        fail(tmp_path, 2, RuntimeError(text))


@pytest.mark.slow
def test_a_limit_on_file_sizes_stands_for_a_full_disk(tmp_path):
    """The real thing: the operating system refuses to write more, in the middle of a file."""
    code = f"""
import resource, signal
from sima_hf.training.checkpoints.folders import writing
for step, size in ((1, 1000), (2, 100_000)):
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
    with writing({str(tmp_path)!r}, step) as folder:
        (folder / "model.bin").write_bytes(b"x" * size)
"""
    run = fresh(code)
    assert run.returncode == 1
    assert "checkpoint-1; go on with --resume_from_checkpoint last" in run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-1"]


def test_writing_a_step_again_replaces_it(tmp_path):
    write(tmp_path, 3, "old")
    folder = write(tmp_path, 3, "new")
    assert (folder / "model.bin").read_text().startswith("new")
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-3"]


def cut(folder):
    (folder / "model.bin").write_text("wei")


def change(folder):
    text = (folder / "model.bin").read_text()
    (folder / "model.bin").write_text("X" + text[1:])


def lose(folder):
    (folder / "ema" / "model.bin").unlink()


def unseal(folder):
    (folder / MANIFEST).unlink()


def scramble(folder):
    (folder / MANIFEST).write_text("{")


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (cut, r"model\.bin has 3 bytes instead of 700"),
        (change, r"model\.bin is not what was written"),
        (lose, r"lacks the file ema/model\.bin"),
        (unseal, r"not a complete checkpoint"),
        (scramble, r"cannot be read"),
    ],
)
@pytest.mark.parametrize("wanted", ["last", "path"])
def test_damage_is_recognized_and_the_one_before_offered(tmp_path, harm, words, wanted):
    write(tmp_path, 1)
    write(tmp_path, 2)
    newest = write(tmp_path, 3)
    cut(tmp_path / "checkpoint-2")
    harm(newest)
    with pytest.raises(
        CheckpointError, match=rf"checkpoint-3 .*{words}.*--resume_from_checkpoint .*checkpoint-1"
    ) as caught:
        module.checkpoint_to_resume(tmp_path, str(newest) if wanted == "path" else wanted)
    offered = re.search(r"--resume_from_checkpoint (\S+)", str(caught.value)).group(1)
    assert module.checkpoint_to_resume(tmp_path, offered) == tmp_path / "checkpoint-1"


def test_a_job_that_restarts_by_itself_goes_on_from_the_newest_whole_checkpoint(tmp_path, caplog):
    for step in (1, 2, 3):
        write(tmp_path, step)
    lose(tmp_path / "checkpoint-2")
    change(tmp_path / "checkpoint-3")
    assert module.checkpoint_to_resume(tmp_path, "auto") == tmp_path / "checkpoint-1"
    assert "checkpoint-3 is damaged: model.bin is not what was written. The run goes on from" in caplog.text
    cut(tmp_path / "checkpoint-1")
    with pytest.raises(CheckpointError, match=r"checkpoint-3 is damaged: .* No good one is before it"):
        module.checkpoint_to_resume(tmp_path, "auto")


def test_a_checkpoint_of_the_model_alone_is_nothing_to_go_on_from(tmp_path):
    whole, alone = tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"
    for step, files in ((1, ("optimizer.pt", "scheduler.pt", "trainer_state.json")), (2, ("trainer_state.json",))):
        with module.writing(tmp_path, step) as folder:
            for name in ("model.bin", *files):
                (folder / name).write_text("{}")
    for wanted in ("last", str(alone)):
        words = r"checkpoint-2 holds the model alone \(--save_only_model\), .*--model_name_or_path .*is good: .*checkpoint-1"
        with pytest.raises(CheckpointError, match=words):
            module.checkpoint_to_resume(tmp_path, wanted)
    assert module.checkpoint_to_resume(tmp_path, "auto") == whole
    assert "The last good checkpoint is" in module.last_good_sentence(tmp_path)
    assert str(whole) in module.last_good_sentence(tmp_path)
    assert module.last_good(tmp_path) == alone  # to evaluate, it is as good


def test_what_resuming_means(tmp_path):
    assert module.checkpoint_to_resume(tmp_path, None) is None
    assert module.checkpoint_to_resume(tmp_path / "none", "auto") is None
    with pytest.raises(CheckpointError, match="no checkpoint to go on from"):
        module.checkpoint_to_resume(tmp_path, "last")
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        module.checkpoint_to_resume(tmp_path, str(tmp_path / "checkpoint-9"))
    write(tmp_path, 1)
    write(tmp_path, 2)
    for wanted in ("last", "auto", "True", str(tmp_path / "checkpoint-2")):
        assert module.checkpoint_to_resume(tmp_path, wanted) == tmp_path / "checkpoint-2"


def test_the_newest_are_kept_and_one_protected(tmp_path):
    for step in range(1, 7):
        write(tmp_path, step)
    module.keep_newest(tmp_path, 2, protected=tmp_path / "checkpoint-1")
    assert [module.step_of(path) for path in module.checkpoints(tmp_path)] == [1, 5, 6]
    module.keep_newest(tmp_path, None)
    assert len(module.checkpoints(tmp_path)) == 3


def test_what_came_after_a_step_is_put_aside(tmp_path):
    for step in (2, 4, 6):
        write(tmp_path, step, text=f"{step}")
    assert [path.name for path in module.set_aside_newer(tmp_path, 2)] == [
        "abandoned-checkpoint-4",
        "abandoned-checkpoint-6",
    ]
    assert [path.name for path in module.checkpoints(tmp_path)] == ["checkpoint-2"]
    write(tmp_path, 4, text="new")
    module.set_aside_newer(tmp_path, 2)
    assert (tmp_path / "abandoned-checkpoint-4" / "model.bin").read_text().startswith("new")
    assert module.belongs_to(tmp_path / "checkpoint-2", tmp_path)
    assert not module.belongs_to(tmp_path / "checkpoint-2", tmp_path / "other")
    assert not module.belongs_to(None, tmp_path)


def test_leftovers_of_killed_processes_go(tmp_path):
    write(tmp_path, 1)
    for name in (".incomplete-checkpoint-2", ".removed-checkpoint-0"):
        shutil.copytree(tmp_path / "checkpoint-1", tmp_path / name)
    write(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-1", "checkpoint-2"]


def test_a_folder_with_a_run_is_not_mixed_with_another(tmp_path):
    module.check_output_dir(tmp_path / "new", may_hold_a_run=False)
    write(tmp_path, 4)
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(CheckpointError, match=r"holds a run already \(checkpoint-4\)"):
        module.check_output_dir(tmp_path, may_hold_a_run=False)
    module.check_output_dir(tmp_path, may_hold_a_run=True)
    assert module.checkpoints(tmp_path)
    module.remove_run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]
    (tmp_path / "all_results.json").write_text("{}")
    with pytest.raises(CheckpointError, match=r"all_results\.json"):
        module.check_output_dir(tmp_path, may_hold_a_run=False)


def write_without_pause(place):
    found = module.checkpoints(place)
    for step in itertools.count(module.step_of(found[-1]) + 1 if found else 1):
        with module.writing(place, step) as folder:
            for name in range(6):
                (folder / str(name)).write_bytes(bytes([step % 256]) * 300_000)
        module.keep_newest(place, 2)


@pytest.mark.slow
def test_killed_at_any_moment_the_newest_whole_one_is_found(tmp_path):
    """A process that writes and removes without pause, killed ten times: what is called a checkpoint is always whole."""
    steps = []
    for attempt in range(10):
        process = multiprocessing.get_context("fork").Process(target=write_without_pause, args=(tmp_path,))
        process.start()
        before = steps[-1] if steps else 0
        deadline = time.monotonic() + 30
        while not (found := module.checkpoints(tmp_path)) or module.step_of(found[-1]) <= before:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(0.003 * attempt)
        process.kill()
        process.join()
        for folder in module.checkpoints(tmp_path):
            assert module.damage(folder) is None
        steps.append(module.step_of(module.last_good(tmp_path)))
    assert steps == sorted(steps)
    assert steps[-1] >= 10

"""The main process first: what it tells the others, how it fails for them, and one that dies."""

import os
import socket
import time

import pytest
import torch

from sima_hf.errors import DataError
from sima_hf.machine.waiting import done_by_all, gathered, main_process_first
from sima_hf.training.arguments import SimATrainingArguments
from tests.helpers.joined_processes import run_joined
from tests.helpers.script_runs import run_forked


def work(rank, port, folder, how):
    os.environ.update(
        RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    torch.distributed.init_process_group("gloo")
    start, outcome = time.monotonic(), "?"
    try:
        with main_process_first() as told:
            if rank == 0:
                time.sleep(0.3)
                if how == "error":
                    raise ValueError("no such data")
                if how == "death":
                    os._exit(0)
                told["classes"] = ["ant", "bee"], 7
            outcome = f"{told}"
    except Exception as error:
        outcome = f"{type(error).__name__}: {error}"
    with open(f"{folder}/{rank}", "w") as file:
        file.write(f"{time.monotonic() - start:.3f} {outcome}")
    os._exit(0)  # gloo's threads may hang a process that takes them down


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("well", "{'classes': (['ant', 'bee'], 7)}"),
        ("error", "DataError: The main process could not load the data, and says why."),
        ("death", "Error: "),
    ],
)
def test_the_others_wait_for_the_main_process_and_hear_how_it_went(how, words, tmp_path):
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    run_forked(work, port, str(tmp_path), how)
    seconds, _, outcome = (tmp_path / "1").read_text().partition(" ")
    assert 0.2 < float(seconds) < 60
    assert words in outcome


def test_one_process_does_not_wait():
    with main_process_first() as told:
        assert told == {}
    with pytest.raises(DataError), main_process_first():
        raise DataError("no images")


def test_a_dead_process_is_missed_within_half_an_hour(tmp_path):
    """Collectives of the training have torch's and Transformers' own limit, whatever a download takes."""
    assert SimATrainingArguments(output_dir=str(tmp_path), use_cpu=True).ddp_timeout == 1800


def _three(how):
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()

    def part():
        if how == "error" and rank == 1:
            raise DataError("no images")
        return rank**2

    return gathered(rank), done_by_all(part)


@pytest.mark.slow
def test_every_process_hears_what_all_have_done_and_how_one_failed(tmp_path):
    assert run_joined(_three, "well", processes=3, folder=tmp_path) == ([0] * 3, [([0, 1, 2], [0, 1, 4])] * 3)
    codes, told = run_joined(_three, "error", processes=3, folder=tmp_path)
    assert codes == [1] * 3
    words = "DataError: Process 1 failed: no images"
    assert told == [words, "DataError: no images", words]


def test_one_process_has_done_all():
    assert (gathered("a"), done_by_all(lambda: 3)) == (["a"], [3])

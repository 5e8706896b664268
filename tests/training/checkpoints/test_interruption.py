"""SIGTERM is remembered, a second one ends the process, and the handler of before comes back."""

import os
import signal
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest

from sima_hf.training.checkpoints.interruption import StoppedBySignal, StopRequest


ALONE = SimpleNamespace(num_processes=1)


def test_a_request_is_remembered_and_the_handler_restored():
    before = signal.getsignal(signal.SIGTERM)
    with StopRequest() as stop:
        assert not stop.agreed(1, ALONE)
        os.kill(os.getpid(), signal.SIGTERM)
        with stop:  # as an evaluation inside of the training does
            assert stop.agreed(1, ALONE)
        assert signal.getsignal(signal.SIGTERM) == stop._handle
    assert signal.getsignal(signal.SIGTERM) is before


def test_an_evaluation_ends_before_the_next_batch():
    stop, seen = StopRequest(), []
    batches = iter(stop.heeded(range(5), ALONE))
    seen += [next(batches), next(batches)]
    stop.requested = True
    with pytest.raises(StoppedBySignal):
        next(batches)
    assert seen == [0, 1]
    assert len(stop.heeded(range(5), ALONE)) == 5


def test_outside_the_main_thread_nothing_is_installed():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter():
        with StopRequest() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.agreed(3, ALONE)))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


def test_a_second_request_ends_the_process_unless_it_is_the_first_again():
    code = """
import os, signal, time
from sima_hf.training.checkpoints import interruption
with interruption.StopRequest():
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
    interruption.SECONDS_OF_ONE_REQUEST = 0.0
    os.kill(os.getpid(), signal.SIGTERM)
    print("not here", flush=True)
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == 128 + signal.SIGTERM
    assert run.stdout == "still here\n"

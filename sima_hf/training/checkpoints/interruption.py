"""A polite request to stop (SIGTERM, as schedulers send it before they kill): remembered, answered between two steps."""

import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from accelerate import Accelerator


# How often processes agree on whether one of them was asked to stop: an exchange costs a synchronization on a GPU.
STEPS_BETWEEN_QUESTIONS = 10
# Schedulers and launchers may both send it: what comes so soon after is the same request.
SECONDS_OF_ONE_REQUEST = 5.0


class StoppedBySignal(Exception):
    """SIGTERM has ended a run, which is no error; the text says where to go on."""


class StopRequest:
    """While entered, SIGTERM sets `requested` instead of ending the process; a second one, some seconds later, ends it at once.

    It may be entered again inside itself. Outside the main thread, where Python allows no signal handlers, it does nothing.
    """

    def __init__(self):
        self.requested = False
        self._handlers_before: list = []
        self._first = 0.0

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._handlers_before.append(signal.signal(signal.SIGTERM, self._handle))
        return self

    def __exit__(self, *error) -> None:
        if self._handlers_before:
            signal.signal(signal.SIGTERM, self._handlers_before.pop())

    def _handle(self, number: int, frame) -> None:
        if not self.requested:
            self.requested, self._first = True, time.monotonic()
        elif time.monotonic() - self._first > SECONDS_OF_ONE_REQUEST:
            os._exit(128 + number)

    def agreed(self, step: int, accelerator: "Accelerator") -> bool:
        """Whether any process was asked to stop; every process gets the same answer for the same step.

        Args:
            step: optimizer steps done; with several processes they ask each other at every tenth.
            accelerator: by which they ask.
        """
        if accelerator.num_processes == 1:
            return self.requested
        if step % STEPS_BETWEEN_QUESTIONS:
            return False
        if self.requested:
            accelerator.set_trigger()
        return accelerator.check_trigger()

    def heeded(self, batches: Iterable[Any], accelerator: "Accelerator") -> "HeededBatches":
        """The batches of an evaluation, as many in every process, until somebody is asked to stop."""
        return HeededBatches(batches, self, accelerator)


class HeededBatches:
    """Batches that end in `StoppedBySignal` when a `StopRequest` has come, in all processes before the same batch."""

    def __init__(self, batches: Iterable[Any], stop: StopRequest, accelerator: "Accelerator"):
        self.batches, self.stop, self.accelerator = batches, stop, accelerator

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        for number, batch in enumerate(self.batches):
            if self.stop.agreed(number, self.accelerator):
                raise StoppedBySignal("Stopped by SIGTERM during an evaluation.")
            yield batch

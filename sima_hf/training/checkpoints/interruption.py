"""A polite request to stop (SIGTERM, as schedulers send it before they kill): remembered, answered after the step."""

import os
import signal
import threading
import time
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    from accelerate import Accelerator


# How often processes agree on whether one of them was asked to stop: an exchange costs a synchronization on a GPU.
STEPS_BETWEEN_QUESTIONS = 10
# Schedulers and launchers may both send it: what comes so soon after is the same request.
SECONDS_OF_ONE_REQUEST = 5.0


class StopRequest:
    """While entered, SIGTERM sets `requested` instead of ending the process; a second one, some seconds later, ends it at once.

    Outside the main thread, where Python allows no signal handlers, it does nothing.
    """

    def __init__(self):
        self.requested = False
        self._before = None
        self._first = 0.0

    def __enter__(self) -> "StopRequest":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._handle)
        return self

    def __exit__(self, *error) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

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

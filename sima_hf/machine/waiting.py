"""Processes that wait for the main one, which downloads and reads what the others then find ready."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import torch

from ..errors import DataError, SimAError


HOURS = 24


@contextlib.contextmanager
def main_process_first() -> Iterator[dict]:
    """The main process passes before the others, which get what it has put into the dictionary.

    The others may wait for hours, in a group of their own: the collectives of the training need not be given such times, in
    which a process that died would not be missed. One that dies here ends the waiting of the others at once.

    Raises:
        DataError: in the others, if the main process left with an error.
    """
    told: dict = {}
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or not torch.distributed.is_gloo_available():
        from accelerate import PartialState

        with PartialState().main_process_first():
            yield told
        return
    # The group is left as it is: taken down by the main process, it would end under those who still read from it.
    group = torch.distributed.new_group(backend="gloo", timeout=timedelta(hours=HOURS))
    if torch.distributed.get_rank() == 0:
        box = [None]
        try:
            yield told
            box = [told]
        finally:
            torch.distributed.broadcast_object_list(box, src=0, group=group)
        return
    box = [None]
    torch.distributed.broadcast_object_list(box, src=0, group=group)
    if box[0] is None:
        raise DataError("The main process could not load the data, and says why.")
    yield box[0]


def gathered(value: Any) -> list[Any]:
    """What every process gives, in the order of their numbers, on all of them; who is early waits for the others for hours.

    Args:
        value: anything that can be pickled.

    Returns:
        A list with an entry for each process; `[value]` where there is but one.
    """
    if not torch.distributed.is_available() or not torch.distributed.is_initialized():
        return [value]
    found: list[Any] = [None] * torch.distributed.get_world_size()
    group = None
    if torch.distributed.is_gloo_available():
        group = torch.distributed.new_group(backend="gloo", timeout=timedelta(hours=HOURS))
    torch.distributed.all_gather_object(found, value, group=group)
    return found


def done_by_all(work: Callable[[], Any]) -> list[Any]:
    """What a piece of work gives in every process; where it fails in one, the others finish theirs, and then all fail.

    Args:
        work: does this process's part.

    Returns:
        A list with an entry for each process, on all of them.

    Raises:
        DataError: it failed in another process, with what that says.
        SimAError, OSError: it failed in this one.
    """
    result = trouble = None
    try:
        result = work()
    except (SimAError, OSError) as error:
        trouble = error
    told = gathered((result, None if trouble is None else str(trouble)))
    if trouble is not None:
        raise trouble
    failed = [f"Process {number} failed: {said}" for number, (_, said) in enumerate(told) if said is not None]
    if failed:
        raise DataError(failed[0])
    return [result for result, _ in told]

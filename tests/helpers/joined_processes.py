"""A function in several processes that are joined over gloo, as `accelerate launch` starts them."""

import multiprocessing
import os
import pickle
import socket
import traceback
from pathlib import Path


def _one(function, arguments, rank: int, processes: int, port: str, folder: str) -> None:
    import torch

    torch.set_num_threads(1)
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    os.environ.update({name: str(value) for name, value in place.items()}, MASTER_ADDR="127.0.0.1", MASTER_PORT=port)
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)  # what other tests in this process left
    GradientState._reset_state()
    code = 0
    try:
        result = function(*arguments)
    except Exception as error:
        result, code = f"{type(error).__name__}: {error}", 1
        traceback.print_exc()
    Path(folder, str(rank)).write_bytes(pickle.dumps(result))
    os._exit(code)  # gloo's threads may hang a process that takes them down


def run_joined(function, *arguments, processes: int, folder: Path, seconds: float = 200) -> tuple[list[int], list]:
    """The exit codes of the processes, and what the function gave in each, or the words of its error."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    context = multiprocessing.get_context("fork")
    started = [
        context.Process(target=_one, args=(function, arguments, rank, processes, port, str(folder)))
        for rank in range(processes)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
    found = [folder / str(rank) for rank in range(processes)]
    return [process.exitcode for process in started], [
        pickle.loads(path.read_bytes()) if path.exists() else None for path in found
    ]

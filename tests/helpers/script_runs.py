"""The training scripts as processes of their own, which can be killed, without paying for their imports each time.

A server process imports everything once and forks for each run, so a run starts in a moment and a test can kill many.
"""

import contextlib
import json
import multiprocessing
import os
import runpy
import signal
import socket
import sys
import time
from pathlib import Path


ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
# What a run imports sooner or later, third parties of a second or two each included.
PRELOADED = [
    "kornia.augmentation",
    "matplotlib.pyplot",
    "sklearn.datasets",
    "transformers.pipelines",
    "sima_hf.hub.pushing",
    "sima_hf.models.sima.modeling_sima",
    "sima_hf.training.loop",
    "sima_hf.training.run",
    "sima_hf.training.trainer",
    "sima_hf.training.distillation.trainer",
    "sima_hf.patching.patch",
]

# A native model of 64 tokens, deep enough to have dropout, drop path and batch norm.
TINY = "hidden_size=32,num_hidden_layers=2,num_attention_heads=2,num_class_attention_layers=1,patch_size=8,hidden_dropout_prob=0.1"
TINY_ARGUMENTS = {
    "variant": "sima_nano_12_p16",
    "config_overrides": TINY,
    "attention_gain": "tokens",
    "image_size": 32,
    "drop_path": 0.1,
    "max_train_images": 192,
    "max_validation_images": 40,
    "per_device_train_batch_size": 32,
    "num_train_epochs": 2,
    "warmup_epochs": 0,
    "cooldown_epochs": 0,
    "scale_learning_rate": False,
    "learning_rate": 2e-3,
    "train_view": "shift",
    "ema_decay": 0.9,
    "eval_weights": "ema",
    "save_weights": "ema",
    "logging_steps": 1,
    "dataloader_num_workers": 0,
    "save_total_limit": 2,
}


def command(**arguments) -> list[str]:
    """Arguments as a command line: lists take several words, False the `--no_` form."""
    words = []
    for name, value in arguments.items():
        if value is None:
            continue
        if isinstance(value, bool):
            words += [f"--{name}", str(value)]
        else:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


def _run(script: str, words: list[str], log: str, environment: dict[str, str]) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", buffering=1), os.fdopen(2, "w", buffering=1)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    os.environ.update(environment)
    multiprocessing.set_start_method(
        "fork", force=True
    )  # as in a script of its own; a child of the server inherits "forkserver"
    import torch

    torch.set_num_threads(1)
    if environment.get("ACCELERATE_USE_FSDP"):
        _let_cpus_share_parameters()
    sys.argv = [script, *words]
    sys.path.insert(0, str(EXAMPLES))
    code = 0
    try:
        runpy.run_path(str(EXAMPLES / script), run_name="__main__")
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    if "WORLD_SIZE" in environment:
        # gloo's threads may hang or abort a process that takes them down (torch 2.13); what is tested is done.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _let_cpus_share_parameters() -> None:
    """Accelerate leaves FSDP out where the processes are on CPUs; torch's fully_shard works there, so say that it is FSDP."""
    from accelerate.state import AcceleratorState, PartialState
    from accelerate.utils import DistributedType

    begin = AcceleratorState.__init__

    def begin_with_fsdp(self, *args, fsdp_plugin=None, **kwargs):
        begin(self, *args, fsdp_plugin=fsdp_plugin, **kwargs)
        if fsdp_plugin is not None:
            self.distributed_type = PartialState._shared_state["distributed_type"] = DistributedType.FSDP
            self.fsdp_plugin = fsdp_plugin

    AcceleratorState.__init__ = begin_with_fsdp


def run_forked(function, *arguments, processes: int = 2) -> None:
    """`function(rank, *arguments)` in several processes, as `torch.multiprocessing.spawn`, without their imports."""
    import torch.multiprocessing

    multiprocessing.get_context("forkserver").set_forkserver_preload(PRELOADED)
    torch.multiprocessing.start_processes(function, arguments, processes, start_method="forkserver")


class Run:
    """A started script."""

    def __init__(self, script: str, words: list[str], log: Path, environment: dict[str, str] | None = None):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self.log = log
        self.process = context.Process(target=_run, args=(script, words, str(log), environment or {}))
        self.process.start()

    @property
    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def wait(self, seconds: float = 240) -> int:
        """Its exit code; negative for a signal."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(f"Still running after {seconds} s:\n{self.text[-3000:]}")
        return self.process.exitcode

    def wait_for(self, condition, seconds: float = 120) -> None:
        """Until `condition()` holds or the process has ended."""
        deadline = time.monotonic() + seconds
        while self.process.exitcode is None and not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(self.text[-3000:])
            time.sleep(0.005)

    def send(self, number: int) -> None:
        """Send a signal, if it still runs."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, number)


def run(script: str, folder: Path, environment: dict[str, str] | None = None, **arguments) -> dict:
    """Run a script to its end; its results. AssertionError, with what it printed, if it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    started = Run(script, command(output_dir=folder, **arguments), folder.with_suffix(".log"), environment)
    code = started.wait()
    assert code == 0, started.text[-4000:]
    path = folder / "all_results.json"
    return json.loads(path.read_text()) if path.exists() else {}


FSDP2 = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_RESHARD_AFTER_FORWARD": "true",
    "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "false",
}


def start_together(
    script: str, folder: Path, processes: int = 2, environment: dict | None = None, **arguments
) -> list[Run]:
    """Several processes that train together, on the CPU over gloo."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        port = chosen.getsockname()[1]
    started = []
    for rank in range(processes):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        place = {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **(environment or {})}
        log = folder.with_suffix(f".{rank}.log")
        words = command(output_dir=folder, **arguments)
        started.append(Run(script, words, log, {name: str(value) for name, value in place.items()}))
    return started


def run_together(script: str, folder: Path, **arguments) -> dict:
    """As `run`, in several processes."""
    for one in start_together(script, folder, **arguments):
        assert one.wait() == 0, one.text[-4000:]
    return json.loads((folder / "all_results.json").read_text())


def losses(folder: Path) -> dict[int, float]:
    """Training loss by step, as the newest checkpoint of either script has it."""
    from sima_hf.folders.manifest import checkpoints

    newest = checkpoints(folder)[-1]
    name = "trainer_state.json" if (newest / "trainer_state.json").exists() else "history.json"
    state = json.loads((newest / name).read_text())
    history = state["log_history"] if isinstance(state, dict) else state
    return {entry["step"]: entry["loss"] for entry in history if "loss" in entry}

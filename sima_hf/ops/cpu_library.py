"""Builds the CPU kernels, once for each machine, with the C++ compiler at hand, and loads them.

The package stays one wheel for all platforms, and the kernels use whatever vector unit the machine has (`-march=native`), as
torch.compile's own kernels do. Building takes seconds; the result lies in `~/.cache/sima_hf` (`XDG_CACHE_HOME` moves it). One
process builds, others that need the kernels meanwhile wait for it; whoever has none after `SECONDS` goes on without.
"""

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path


logger = logging.getLogger(__name__)

SOURCES = [
    Path(__file__).with_name(name) for name in ("cpu_kernels.cpp", "cpu_tiles.h")
]  # the first includes the other
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fno-math-errno")
# Tried in turn: a compiler may lack OpenMP (Apple's) or not know the machine it runs on.
CHOICES = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
COMPILERS = ("g++", "clang++", "c++")
SECONDS = 120  # for all choices and for waiting, together
SLOW = 20  # seconds after which somebody who waits wants to know for what


class NoLibrary(RuntimeError):
    """The kernels cannot be had here; the text says why."""


@functools.cache
def library() -> ctypes.CDLL | str:
    """The loaded kernels, or the reason why there are none; decided once in a process."""
    try:
        command = compiler()
        if sys.platform == "win32" or command is None:
            return "no C++ compiler was found: install g++ or clang++, or name one in CXX"
        return _kept(command, f"kernels-{_fingerprint(command)}.so", time.monotonic() + SECONDS)
    except (NoLibrary, OSError) as error:
        return str(error)


def _kept(command: list[str], name: str, deadline: float) -> ctypes.CDLL:
    """The library in the cache, put there if it is missing or cannot be loaded; where nothing can be kept, one for this process."""
    try:
        ready = cache_folder() / name
        found = _found(ready)
        if found is None:
            ready.parent.mkdir(parents=True, exist_ok=True)
            with _one_builder(ready, deadline):
                found = _found(ready) or _load(_compile(command, ready, deadline))
        return found
    except NoLibrary:
        raise
    except (OSError, RuntimeError):  # a home that cannot be written to, or none at all
        with tempfile.TemporaryDirectory(prefix="sima_hf-") as folder:
            return _load(_compile(command, Path(folder) / name, deadline))


def _found(path: Path) -> ctypes.CDLL | None:
    """The library, or None where there is none or a damaged one, whose place is taken by what is built."""
    try:
        return _load(path) if path.is_file() else None
    except OSError:
        return None


@contextlib.contextmanager
def _one_builder(ready: Path, deadline: float):
    """Wait while another process builds `ready`. The system takes the lock from one that dies: no file that it left blocks.

    Raises:
        NoLibrary: the other process was not done at `deadline`.
    """
    import fcntl  # not on Windows, where nothing is built

    path = ready.with_suffix(".lock")
    with open(path, "w") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise NoLibrary(f"another process, which holds {path}, took over {SECONDS} seconds") from None
                time.sleep(0.05)
            except OSError:  # a file system without locks: each builds, to a name of its own, and one of them stays
                break
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def cache_folder() -> Path:
    """Where built kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sima_hf"


def compiler() -> list[str] | None:
    """The command of the C++ compiler: `CXX`, with its arguments, else the first at hand of g++, clang++ and c++."""
    commands = [shlex.split(os.environ["CXX"])] if os.environ.get("CXX") else [[name] for name in COMPILERS]
    return next(([path, *rest] for name, *rest in commands if (path := shutil.which(name))), None)


def _fingerprint(command: list[str]) -> str:
    """Changes with the sources, the compiler, and the processor: a cache may be shared by machines."""
    status = os.stat(os.path.realpath(command[0]))
    parts = [source.read_bytes() for source in SOURCES]
    parts.append(repr((command, status.st_size, status.st_mtime_ns, CHOICES, FLAGS)).encode())
    parts.append(repr((platform.system(), platform.machine(), _processor())).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor()
    wanted = ("flags", "Features", "model name", "cpu family", "model\t", "CPU part", "isa")
    lines = cpuinfo.read_text(errors="replace").splitlines()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _compile(command: list[str], target: Path, deadline: float) -> Path:
    """Compile to a name of its own and rename, so that processes that do this at the same time do not meet."""
    logger.info(
        f"{command[0]} builds the CPU kernels of SimA, once for this machine; they are kept in {target.parent}."
    )
    slow = threading.Timer(SLOW, logger.warning, [_slow_sentence(command)])
    slow.daemon = True
    slow.start()
    try:
        return _first_that_builds(command, target, deadline)
    finally:
        slow.cancel()


def _slow_sentence(command: list[str]) -> str:
    return (
        f"{command[0]} is still building the CPU kernels of SimA, which the first attention on a machine waits for. It has "
        f"{SECONDS} seconds, then plain torch serves; backend='eager' takes that at once."
    )


def _first_that_builds(command: list[str], target: Path, deadline: float) -> Path:
    _remove_leftovers(target)
    complaints = ""
    for choice in CHOICES:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f"{target.stem}-", suffix=".so")
        os.close(handle)
        try:
            status, complaints = _run([*command, *FLAGS, *choice, "-o", temporary, str(SOURCES[0])], deadline)
            if status == 0:
                os.replace(temporary, target)
                return target
        except subprocess.TimeoutExpired:
            sentence = f"{command[0]} could not build the kernels: it took over {SECONDS} seconds"
            logger.warning(f"{sentence}. Plain torch serves instead.")
            raise NoLibrary(sentence) from None
        finally:
            Path(temporary).unlink(missing_ok=True)
    last = complaints.strip().splitlines()[-1:] or ["it said nothing"]
    raise NoLibrary(f"{command[0]} could not build the kernels: {last[0][:300]}")


def _remove_leftovers(target: Path) -> None:
    """What processes that were killed while they built have left; no build that lives is as old."""
    for path in target.parent.glob(f"{target.stem}-*.so"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > 2 * SECONDS:
                path.unlink()


def _run(command: list[str], deadline: float) -> tuple[int, str]:
    """Exit status and complaints of a compiler; at `deadline` it is ended with all that it started, and TimeoutExpired raised."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with process:
        try:
            _, complaints = process.communicate(timeout=max(0, deadline - time.monotonic()))
        except BaseException:  # an interrupt from the keyboard too
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, complaints


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name in ("sima_forward_workspace", "sima_backward_workspace", "sima_float16"):
        getattr(loaded, name).restype = ctypes.c_int64
    for name in ("sima_forward", "sima_backward"):
        getattr(loaded, name).argtypes = (ctypes.c_int64, ctypes.c_void_p)
        getattr(loaded, name).restype = None
    return loaded

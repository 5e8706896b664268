"""Builds the CPU kernels, once for each machine, with the C++ compiler at hand, and loads them.

The package stays one wheel for all platforms, and the kernels use whatever vector unit the machine has (`-march=native`), as
torch.compile's own kernels do. Building takes seconds; the result lies in `~/.cache/sima_hf` (`XDG_CACHE_HOME` moves it).
"""

import ctypes
import functools
import hashlib
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


SOURCES = [
    Path(__file__).with_name(name) for name in ("cpu_kernels.cpp", "cpu_tiles.h")
]  # the first includes the other
FLAGS = ("-O3", "-std=c++17", "-shared", "-fPIC", "-fno-exceptions", "-fno-rtti", "-fno-math-errno")
# Tried in turn: a compiler may lack OpenMP (Apple's) or not know the machine it runs on.
CHOICES = (("-march=native", "-fopenmp"), ("-mcpu=native", "-fopenmp"), ("-fopenmp",), ("-march=native",), ())
COMPILERS = ("g++", "clang++", "c++")
SECONDS = 120


class NoLibrary(RuntimeError):
    """The kernels cannot be had here; the text says why."""


@functools.cache
def library() -> ctypes.CDLL | str:
    """The loaded kernels, or the reason why there are none; decided once in a process."""
    try:
        command = compiler()
        if sys.platform == "win32" or command is None:
            return "no C++ compiler was found: install g++ or clang++, or name one in CXX"
        return _kept(command, f"kernels-{_fingerprint(command)}.so")
    except (NoLibrary, OSError) as error:
        return str(error)


def _kept(command: list[str], name: str) -> ctypes.CDLL:
    """The library in the cache, put there if it is missing or cannot be loaded; where nothing can be kept, one for this process."""
    try:
        ready = cache_folder() / name
        if ready.is_file():
            try:
                return _load(ready)
            except OSError:  # damaged; what is built now takes its place
                pass
        ready.parent.mkdir(parents=True, exist_ok=True)
        return _load(_compile(command, ready))
    except NoLibrary:
        raise
    except (OSError, RuntimeError):  # a home that cannot be written to, or none at all
        with tempfile.TemporaryDirectory(prefix="sima_hf-") as folder:
            return _load(_compile(command, Path(folder) / name))


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


def _compile(command: list[str], target: Path) -> Path:
    """Compile to a name of its own and rename, so that processes that do this at the same time do not meet."""
    complaints = ""
    for choice in CHOICES:
        handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".so")
        os.close(handle)
        try:
            done = subprocess.run(
                [*command, *FLAGS, *choice, "-o", temporary, str(SOURCES[0])],
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
            if done.returncode == 0:
                os.replace(temporary, target)
                return target
            complaints = done.stderr
        except subprocess.TimeoutExpired:
            complaints = f"it took over {SECONDS} seconds"
        finally:
            Path(temporary).unlink(missing_ok=True)
    last = complaints.strip().splitlines()[-1:] or ["it said nothing"]
    raise NoLibrary(f"{command[0]} could not build the kernels: {last[0][:300]}")


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name in ("sima_forward_workspace", "sima_backward_workspace", "sima_float16"):
        getattr(loaded, name).restype = ctypes.c_int64
    for name in ("sima_forward", "sima_backward"):
        getattr(loaded, name).argtypes = (ctypes.c_int64, ctypes.c_void_p)
        getattr(loaded, name).restype = None
    return loaded

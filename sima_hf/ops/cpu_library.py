"""Builds the CPU kernels, once for each machine, with the C++ compiler at hand, and loads them.

The package stays one wheel for all platforms, and the kernels use whatever vector unit the machine has (`-march=native`), as
torch.compile's own kernels do. Building takes about two seconds; the result lies in `~/.cache/sima_hf` (`XDG_CACHE_HOME` moves it).
"""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path


SOURCE = Path(__file__).with_name("cpu_kernels.cpp")
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
        path = _built()
        try:
            return _load(path)
        except OSError:  # damaged, or built for a machine that no longer is like this one
            path.unlink(missing_ok=True)
            return _load(_built())
    except (NoLibrary, OSError) as error:
        return str(error)


def cache_folder() -> Path:
    """Where built kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sima_hf"


def compiler() -> str | None:
    """The C++ compiler: `CXX`, else the first at hand of g++, clang++ and c++."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else COMPILERS
    return next((path for name in names if (path := shutil.which(name))), None)


def _built() -> Path:
    found = compiler()
    if sys.platform == "win32" or found is None:
        raise NoLibrary("no C++ compiler was found: install g++ or clang++, or name one in CXX")
    name = f"kernels-{_fingerprint(found)}.so"
    ready = cache_folder() / name
    if ready.is_file():
        return ready
    try:
        ready.parent.mkdir(parents=True, exist_ok=True)
        return _compile(found, ready)
    except OSError:  # a home that cannot be written to: for this process alone
        return _compile(found, Path(tempfile.mkdtemp(prefix="sima_hf-")) / name)


def _fingerprint(found: str) -> str:
    """Changes with the source, the compiler, and the processor: a cache may be shared by machines."""
    status = os.stat(os.path.realpath(found))
    parts = [SOURCE.read_bytes(), repr((found, status.st_size, status.st_mtime_ns, CHOICES, FLAGS)).encode()]
    parts.append(repr((platform.system(), platform.machine(), _processor())).encode())
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.is_file():
        return platform.processor()
    wanted = ("flags", "Features", "model name", "cpu family", "model\t", "CPU part", "isa")
    lines = cpuinfo.read_text(errors="replace").splitlines()
    return "\n".join(dict.fromkeys(line for line in lines if line.startswith(wanted)))


def _compile(found: str, target: Path) -> Path:
    """Compile to a name of its own and rename, so that processes that do this at the same time do not meet."""
    complaints = ""
    for choice in CHOICES:
        handle, temporary = tempfile.mkstemp(dir=target.parent, suffix=".so")
        os.close(handle)
        try:
            done = subprocess.run(
                [found, *FLAGS, *choice, "-o", temporary, str(SOURCE)],
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
    raise NoLibrary(f"{found} could not build the kernels: {last[0][:300]}")


def _load(path: Path) -> ctypes.CDLL:
    loaded = ctypes.CDLL(str(path))
    for name in ("sima_forward_workspace", "sima_backward_workspace", "sima_float16"):
        getattr(loaded, name).restype = ctypes.c_int64
    for name in ("sima_forward", "sima_backward"):
        getattr(loaded, name).argtypes = (ctypes.c_int64, ctypes.c_void_p)
        getattr(loaded, name).restype = None
    return loaded

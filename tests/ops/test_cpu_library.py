"""Building the CPU kernels: what is built where, what a machine without a compiler is told, what a broken build leaves."""

import multiprocessing
import os
import subprocess
import sys
import time

import pytest
import torch

from sima_hf import sima_attention
from sima_hf.ops import backend_report, cpu_library
from tests.helpers.fresh_process import fresh
from tests.helpers.tensors import formula, relative_error


pytestmark = pytest.mark.slow
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_library.library.cache_clear()
    yield tmp_path / "sima_hf"
    monkeypatch.undo()
    cpu_library.library.cache_clear()


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """The machine's, told not to optimize: that takes a fifth of the time."""
    found = cpu_library.compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    path = tmp_path / "quick-compiler"
    path.write_text(f'#!/bin/sh\nexec {" ".join(found)} "$@" -O0\n')
    path.chmod(0o755)
    monkeypatch.setenv("CXX", str(path))
    return cpu_library.compiler()


def script(tmp_path, body):
    """A compiler that does `body`."""
    path = tmp_path / "compiler"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_built_once_and_found_again(cache, compiler):
    assert not isinstance(cpu_library.library(), str)
    (built,) = cache.iterdir()
    written = built.stat().st_mtime_ns
    cpu_library.library.cache_clear()
    assert not isinstance(cpu_library.library(), str)
    assert [path.stat().st_mtime_ns for path in cache.iterdir()] == [written]


def test_another_source_is_another_file(cache, compiler, tmp_path, monkeypatch):
    first = cpu_library._fingerprint(compiler)
    for index, source in enumerate(cpu_library.SOURCES):
        other = tmp_path / source.name
        other.write_text(source.read_text() + "\n// changed\n")
        changed = [*cpu_library.SOURCES]
        changed[index] = other
        with monkeypatch.context() as patch:
            patch.setattr(cpu_library, "SOURCES", changed)
            assert cpu_library._fingerprint(compiler) != first


def counting(tmp_path, compiler):
    """A compiler that takes its time and counts its calls."""
    calls = tmp_path / "calls"
    return script(tmp_path, f'echo called >> {calls}; sleep 1; exec {compiler[0]} "$@"'), calls


def build():
    sys.exit(isinstance(cpu_library.library(), str))


def test_two_processes_at_once_build_once(cache, compiler, tmp_path, monkeypatch):
    path, calls = counting(tmp_path, compiler)
    monkeypatch.setenv("CXX", str(path))
    running = [FORK.Process(target=build) for _ in range(2)]
    for process in running:
        process.start()
    for process in running:
        process.join(240)
    assert [process.exitcode for process in running] == [0, 0]
    assert calls.read_text().split() == ["called"]
    assert [path.suffix for path in cache.iterdir()] == [".so"]


def test_a_compiler_that_hangs_has_one_limit_for_all_it_is_asked(cache, tmp_path, monkeypatch, caplog):
    """The sentence stands in the report of backends, plain torch serves, and nothing that was started runs on."""
    started = tmp_path / "started"
    monkeypatch.setenv("CXX", str(script(tmp_path, f"sleep 300 & echo $! >> {started}; wait")))
    monkeypatch.setattr(cpu_library, "SECONDS", 3)
    monkeypatch.setattr(cpu_library, "SLOW", 0.5)
    query, before = torch.randn(1, 2, 9, 16), time.monotonic()
    assert backend_report()["cpu"].endswith("could not build the kernels: it took over 3 seconds")
    assert relative_error(sima_attention(query, query, query), formula(query, query, query)) < 1e-5
    assert time.monotonic() - before < 30
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 2
    assert "still building" in said[0]
    assert said[1].endswith("it took over 3 seconds. Plain torch serves instead.")
    assert list(cache.iterdir()) == []
    (child,) = started.read_text().split()
    for _ in range(100):  # until whoever inherits it has noticed its end
        if not runs(int(child)):
            break
        time.sleep(0.1)
    assert not runs(int(child))


def runs(process):
    """Whether it does, a zombie aside."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    done = subprocess.run(["ps", "-o", "stat=", str(process)], capture_output=True, text=True, check=False)
    return "Z" not in done.stdout


def test_one_who_waits_for_a_builder_that_hangs_goes_on_without(cache, compiler, monkeypatch):
    cache.mkdir()
    monkeypatch.setattr(cpu_library, "SECONDS", 1)
    name = cache / f"kernels-{cpu_library._fingerprint(compiler)}.so"
    with cpu_library._one_builder(name, time.monotonic()):
        assert cpu_library.library().endswith(".lock, took over 1 seconds")


def test_a_process_killed_while_it_builds_blocks_nobody(cache, compiler, tmp_path, monkeypatch):
    """It leaves its lock file and half a library behind; the next process builds, and tidies up what is old."""
    mended = tmp_path / "mended"
    body = f'[ -e {mended} ] || exec sleep 5; exec {compiler[0]} "$@"'
    monkeypatch.setenv("CXX", str(script(tmp_path, body)))
    process = FORK.Process(target=build)
    process.start()
    while not cache.is_dir() or len(list(cache.iterdir())) < 2:
        assert process.exitcode is None
        time.sleep(0.05)
    process.kill()
    process.join()
    assert sorted(path.suffix for path in cache.iterdir()) == [".lock", ".so"]
    for path in cache.iterdir():
        os.utime(path, (1, 1))
    mended.touch()
    assert not isinstance(cpu_library.library(), str)
    assert [path.name for path in cache.iterdir()] == [
        f"kernels-{cpu_library._fingerprint(cpu_library.compiler())}.so"
    ]


def test_building_says_so_in_one_line(cache, compiler, caplog):
    with caplog.at_level("INFO", logger="sima_hf"):
        cpu_library.library()
        cpu_library.library.cache_clear()
        cpu_library.library()
    (said,) = [record.getMessage() for record in caplog.records]
    assert said == f"{compiler[0]} builds the CPU kernels of SimA, once for this machine; they are kept in {cache}."


def test_no_compiler(cache, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(cpu_library, "COMPILERS", ("no-such-compiler",))
    assert cpu_library.library() == "no C++ compiler was found: install g++ or clang++, or name one in CXX"


@pytest.mark.parametrize("name", ["no/such/compiler", ""])
def test_a_compiler_named_in_cxx(cache, monkeypatch, name, compiler):
    monkeypatch.setenv("CXX", name)
    assert (cpu_library.compiler() is None) is bool(name)


def test_arguments_in_cxx(cache, monkeypatch, compiler):
    """As build systems and compiler caches set it."""
    monkeypatch.setenv("CXX", f"env {compiler[0]} -DNDEBUG")
    assert cpu_library.compiler()[1:] == [compiler[0], "-DNDEBUG"]
    assert not isinstance(cpu_library.library(), str)


def test_a_compiler_that_fails_says_why_and_leaves_nothing(cache, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(script(tmp_path, "echo 'fatal error: no space in the oven' >&2; exit 1")))
    assert cpu_library.library().endswith("could not build the kernels: fatal error: no space in the oven")
    assert list(cache.iterdir()) == []


def test_a_damaged_file_is_built_again(cache, compiler):
    cache.mkdir()
    damaged = cache / f"kernels-{cpu_library._fingerprint(compiler)}.so"
    damaged.write_bytes(b"half a file")
    assert not isinstance(cpu_library.library(), str)
    assert damaged.stat().st_size > 10_000


def test_a_compiler_that_writes_rubbish(cache, tmp_path, monkeypatch):
    """What cannot be loaded is no library; the eager backend serves."""
    body = 'while [ "$1" != -o ]; do shift; done; echo rubbish > "$2"'
    monkeypatch.setenv("CXX", str(script(tmp_path, body)))
    assert isinstance(cpu_library.library(), str)


def test_without_openmp_there_is_one_thread(cache, compiler, tmp_path, monkeypatch):
    body = f'case "$*" in *-fopenmp*) echo unsupported option >&2; exit 1;; esac; exec {compiler[0]} "$@"'
    monkeypatch.setenv("CXX", str(script(tmp_path, body)))
    assert not isinstance(cpu_library.library(), str)


def test_a_home_that_cannot_be_written_to(cache, compiler, tmp_path, monkeypatch):
    """Then nothing is kept, nor left behind."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(script(tmp_path, "a file where the folder should be")))
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(cpu_library.tempfile, "tempdir", str(tmp_path / "temporary"))
    assert not isinstance(cpu_library.library(), str)
    assert list((tmp_path / "temporary").iterdir()) == []


def test_no_home_at_all(cache, compiler, monkeypatch):
    """As in a container whose user has no entry in passwd."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(cpu_library.Path, "home", homeless)
    assert not isinstance(cpu_library.library(), str)


def test_importing_builds_nothing(tmp_path):
    """Nor does making a model; the first attention does."""
    code = "import sima_hf, transformers; sima_hf.SimAForImageClassification(sima_hf.SimAConfig(num_hidden_layers=1))"
    done = fresh(code, XDG_CACHE_HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "sima_hf").exists()

"""Building the CPU kernels: what is built where, what a machine without a compiler is told, what a broken build leaves."""

import os
import subprocess
import sys

import pytest

from sima_hf.ops import cpu_library


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cpu_library.library.cache_clear()
    yield tmp_path / "sima_hf"
    monkeypatch.undo()
    cpu_library.library.cache_clear()


@pytest.fixture
def compiler():
    found = cpu_library.compiler()
    if found is None:
        pytest.skip("no C++ compiler")
    return found


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


def test_processes_at_the_same_time_do_not_meet(cache, compiler):
    code = "from sima_hf.ops.cpu_library import library; import sys; sys.exit(isinstance(library(), str))"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(timeout=120) for process in running] == [0, 0, 0]
    assert [path.name for path in cache.iterdir()] == [f"kernels-{cpu_library._fingerprint(compiler)}.so"]


def test_no_compiler(cache, monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(cpu_library, "COMPILERS", ("no-such-compiler",))
    assert cpu_library.library() == "no C++ compiler was found: install g++ or clang++, or name one in CXX"


@pytest.mark.parametrize("name", ["no/such/compiler", ""])
def test_a_compiler_named_in_cxx(cache, monkeypatch, name, compiler):
    monkeypatch.setenv("CXX", name)
    assert cpu_library.compiler() == (compiler if name == "" else None)


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
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=120)
    assert not (tmp_path / "sima_hf").exists()

"""A folder appears whole or not at all, whatever happens to the process that writes it."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from sima_hf.folders import atomic_folder as module
from sima_hf.folders.atomic_folder import check_free, files_of_model, try_writing, whole_folder


def fill(folder, text):
    (folder / "config.json").write_text(text)
    (folder / "model.safetensors").write_text(text)


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_it_is_not_there_before_the_end(tmp_path):
    out = tmp_path / "a" / "b" / "out"
    with whole_folder(out) as aside:
        fill(aside, "new")
        assert not out.exists()
    assert names(out) == {"config.json", "model.safetensors"}
    assert names(out.parent) == {"out"}
    assert out.stat().st_mode & 0o777 == (tmp_path / "a").stat().st_mode & 0o777


def test_an_error_leaves_nothing(tmp_path):
    def fail(folder):
        with whole_folder(folder) as aside:
            fill(aside, "new")
            raise RuntimeError("full")

    for folder in (tmp_path / "out", tmp_path):
        with pytest.raises(RuntimeError, match="full"):
            fail(folder)
        assert names(tmp_path) == set()


@pytest.mark.parametrize("before", [False, True], ids=["new", "replaced"])
def test_a_kill_leaves_what_was_there(before, tmp_path):
    out = tmp_path / "out"
    if before:
        out.mkdir()
        fill(out, "old")
    child = os.fork()
    if child == 0:
        with whole_folder(out, overwrite=True) as aside:
            fill(aside, "new")
            os._exit(9)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert out.exists() == before
    if before:
        assert (out / "config.json").read_text() == "old"
    (left,) = names(tmp_path) - {"out"}
    assert left == f".out.incomplete-{child}"


def test_a_model_is_replaced_and_what_is_not_of_it_stays(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    for name in ("README.md", "model-00001-of-00002.safetensors", "model.safetensors.index.json", "pytorch_model.bin"):
        (out / name).write_text("old")
    with whole_folder(out, overwrite=True) as aside:
        fill(aside, "new")
    assert names(out) == {"config.json", "model.safetensors", "README.md"}
    assert (out / "config.json").read_text() == "new"
    assert (out / "README.md").read_text() == "old"
    assert names(tmp_path) == {"out"}


def test_weights_results_and_notes_of_the_users_own_stay(tmp_path):
    """Only what the old model consists of goes, by the names that are looked for and those in its index; and it can be named."""
    out = tmp_path / "out"
    out.mkdir()
    fill(out, json.dumps({"transformers_weights": "main.safetensors"}))
    index = {"weight_map": {"a": "part-one.safetensors", "b": "part-two.safetensors"}}
    (out / "model.safetensors.index.json").write_text(json.dumps(index))
    old = ("main.safetensors", "part-one.safetensors", "part-two.safetensors", "model.fp16.safetensors", "vocab.txt")
    old += ("evaluation.json", "eval_results.json")
    mine = ("ema.safetensors", "teacher.safetensors.index.json", "pytorch_model_notes.txt", "adapter_model_old.txt")
    mine += ("ablation_results.json", "results.json", "history.json", "dict.txt", "README.md")
    for name in (*old, *mine):
        (out / name).write_text(f"old {name}")
    (out / "link").symlink_to("README.md")
    (out / "broken").symlink_to("nowhere")
    gone = set(files_of_model(out))
    assert gone == {"config.json", "model.safetensors", "model.safetensors.index.json", *old}
    with whole_folder(out, overwrite=True) as aside:
        fill(aside, "new")
    assert names(out) == {"config.json", "model.safetensors", "link", "broken", *mine}
    assert all((out / name).read_text() == f"old {name}" for name in mine)
    assert os.readlink(out / "broken") == "nowhere"


def test_a_vocabulary_of_a_rare_name_is_the_tokenizers_where_there_is_one(tmp_path):
    for name in ("config.json", "bpe.codes", "dict.txt"):
        (tmp_path / name).write_text("{}")
    assert files_of_model(tmp_path) == ("config.json",)
    (tmp_path / "tokenizer_config.json").write_text("{}")
    assert files_of_model(tmp_path) == ("bpe.codes", "config.json", "dict.txt", "tokenizer_config.json")
    assert files_of_model(tmp_path / "none") == ()


KILLED = """
import os, sys
from pathlib import Path
from sima_hf.folders import atomic_folder as module

def fill(folder, text):
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text(text)

calls = []
def until(event, arguments):
    calls.extend([event] if event in ("os.rename", "shutil.rmtree", "os.rmdir") else [])
    if len(calls) > int(sys.argv[2]):
        os._exit(9)
with module.whole_folder(sys.argv[1], overwrite=True) as aside:
    fill(aside, "new")
    sys.addaudithook(until)
"""


def test_killed_at_any_moment_a_whole_model_is_found(tmp_path):
    """Before each step of the replacement that changes names: the old model or the new one is there after the next call."""
    out, found = tmp_path / "out", set()
    for step in range(20):
        shutil.rmtree(tmp_path)
        out.mkdir(parents=True)
        fill(out, "old")
        done = subprocess.run([sys.executable, "-c", KILLED, str(out), str(step)], capture_output=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        check_free(out, overwrite=True)
        texts = {(out / name).read_text() for name in ("config.json", "model.safetensors")}
        assert len(texts) == 1
        found |= texts
        if done.returncode == 0:
            break
    assert done.returncode == 0
    assert found == {"old", "new"}


def test_nothing_of_the_old_model_acts_on_the_new_one(tmp_path):
    """An adapter would be added to its weights, a processor would prepare other images, code would be run."""
    out = tmp_path / "out"
    out.mkdir()
    fill(out, json.dumps({"auto_map": {"AutoModel": "modeling_x.X", "AutoConfig": "org/other--configuration_x.Y"}}))
    (out / "modeling_x.py").write_text("from .parts_x import Part\nimport torch\n")
    (out / "parts_x.py").write_text("")
    for name in ("adapter_config.json", "adapter_model.safetensors", "preprocessor_config.json", "tokenizer.json"):
        (out / name).write_text("old")
    for name in ("train.py", "configuration_x.py", "LICENSE"):
        (out / name).write_text("mine")
    with whole_folder(out, overwrite=True) as aside:
        fill(aside, "new")
    assert names(out) == {"config.json", "model.safetensors", "train.py", "configuration_x.py", "LICENSE"}


@pytest.mark.parametrize("config", ["", "[]", '{"auto_map": 3}', '{"auto_map": {"AutoModel": [null, "x.Y"]}}'])
def test_a_config_that_says_nothing_of_code(config, tmp_path):
    fill(tmp_path, config)
    (tmp_path / "mine.py").write_text("")
    with whole_folder(tmp_path, overwrite=True) as aside:
        fill(aside, "new")
    assert (tmp_path / "mine.py").is_file()


def test_a_training_checkpoint_is_not_replaced(tmp_path):
    """Its manifest would no longer fit what lies in it, and the run that made it could not go on."""
    fill(tmp_path, "old")
    (tmp_path / "checkpoint_manifest.json").write_text("{}")
    with pytest.raises(FileExistsError, match="is a training checkpoint, sealed by its checkpoint_manifest"):
        check_free(tmp_path, overwrite=True)
    assert names(tmp_path) == {"config.json", "model.safetensors", "checkpoint_manifest.json"}


def test_what_describes_the_model_that_was_goes_with_it(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    fill(out, "old")
    for name in (
        "sima_provenance.json",
        "evaluation.json",
        "all_results.json",
        "train_results.json",
        "trainer_state.json",
    ):
        (out / name).write_text("{}")
    columns = "model,contestant,mode,batch,pixels,median_ms,baseline,ratio_to_baseline,device\n"
    (out / "times.csv").write_text(columns)
    (out / "labels.csv").write_text("name,number\n")
    (out / "LICENSE").write_text("mine")
    with whole_folder(out, overwrite=True) as aside:
        fill(aside, "new")
        (aside / "sima_provenance.json").write_text("new")
    assert names(out) == {"config.json", "model.safetensors", "sima_provenance.json", "labels.csv", "LICENSE"}
    assert (out / "sima_provenance.json").read_text() == "new"


def test_an_empty_folder_and_a_link_to_one_are_filled(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "empty")
    (tmp_path / "empty" / ".incomplete-1").mkdir()  # of a process that was killed
    monkeypatch.chdir(tmp_path / "empty")
    with whole_folder(tmp_path / "link") as aside:
        fill(aside, "new")
    assert (tmp_path / "link").is_symlink()
    assert names(tmp_path / "empty") - {".incomplete-1"} == {"config.json", "model.safetensors"}
    assert os.path.exists("config.json"), "the current folder is still the one it was"


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda out: out.write_text(""), "is a file"),
        (lambda out: (out.mkdir(), (out / "thesis.txt").write_text("")), "holds no model"),
        (lambda out: (out.mkdir(), fill(out, ""), (out / ".git").mkdir()), r"the folder \.git"),
    ],
    ids=["file", "other-things", "repository"],
)
def test_what_is_no_models_folder_is_never_replaced(make, words, tmp_path):
    make(tmp_path / "out")
    with pytest.raises(OSError, match=words):
        check_free(tmp_path / "out", overwrite=True)


def test_without_overwrite_nothing_is_replaced(tmp_path):
    fill(tmp_path, "old")
    with pytest.raises(FileExistsError, match="--overwrite"):
        check_free(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_where_nothing_may_be_written(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError, match="name another folder"):
        check_free(tmp_path / "out")


@pytest.mark.parametrize("check", [check_free, try_writing])
def test_where_the_system_says_yes_and_refuses_then(check, tmp_path, monkeypatch):
    """As /sys does, or a disk that is full."""

    def refuse(prefix, dir):
        raise OSError(30, "Read-only file system", str(dir))

    check(tmp_path / "new" / "out")
    assert names(tmp_path) == set()
    monkeypatch.setattr(module.tempfile, "mkdtemp", refuse)
    with pytest.raises(PermissionError, match=r"into \S+ \(Read-only file system\); name another folder"):
        check(tmp_path / "new" / "out")

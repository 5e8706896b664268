"""Commands that answer: env, models, convert, certify, evaluate, bench; for people, in a pipe, and for machines."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from PIL import Image

from sima_hf import __version__
from sima_hf.bench import model as benchmark_model
from sima_hf.cli import env
from sima_hf.errors import DataError
from sima_hf.evaluation.run import EvaluationOptions, run_evaluation
from sima_hf.machine.description import device_name
from sima_hf.patching.hosts import HOSTS, markdown_table


def test_models(run):
    rows = json.loads(run("models", "--json").out)
    assert {"vit", "deit", "dinov2"} <= {row["model_type"] for row in rows}
    plain = run("models").out.splitlines()
    assert [line.split()[0] for line in plain] == [row["model_type"] for row in rows]
    assert all(line.endswith(row["summary"]) for line, row in zip(plain, rows, strict=True)), "nothing is cut off"
    assert run("models", "--markdown").out == markdown_table() + "\n"


def test_some_models(run):
    found = run("models", "swinv2", "upernet")
    assert [line.split()[0] for line in found.out.splitlines()] == ["swinv2", "upernet"]
    (row,) = json.loads(run("models", "dpt", "--json").out)
    assert row["task"] == HOSTS["dpt"].task, "one that is swapped by itself, and stands on a tower of others, too"


def test_a_model_that_cannot_be_swapped_has_a_row_with_the_reason(run):
    found = run("models", "imagegpt", "vit", "bert")
    assert found.code == 1
    imagegpt, vit, bert = found.out.splitlines()
    assert re.match("imagegpt .*'imagegpt' cannot be swapped to SimA: ", imagegpt)
    assert vit.split() == run("models", "vit").out.split()
    assert "'bert' is not among the" in bert
    found = run("models", "imagegpt", "vit", "--json")
    assert found.code == 1
    refused, taken = json.loads(found.out)
    assert (refused["model_type"], refused["task"]) == ("imagegpt", "Refused")
    assert taken["summary"] == HOSTS["vit"].summary


def test_the_model_in_a_folder(saved, run):
    found = run("models", saved / "softmax")
    assert (found.code, found.out) == (0, run("models", "deit").out)
    (row,) = json.loads(run("models", saved / "softmax", "--json").out)
    assert (row["model_type"], row["folder"]) == ("deit", str(saved / "softmax"))
    assert "folder" not in json.loads(run("models", "deit", "--json").out)[0]


def test_what_is_neither_a_model_type_nor_the_folder_of_a_model(saved, photos, run):
    for name, words in (
        (saved / "sima", "'sima_deit' is SimA already, a swapped deit"),
        (saved / "native", "it is SimA by itself"),
        (saved / "bert", "'bert' is not among the"),
        (photos, "holds no model: it has no config.json"),
        (saved / "bare" / "config.json", "config.json is a file. Give the model_type"),
        ("facebook/deit-small-patch16-224", "neither a model type nor a folder that is here. Give the model_type"),
        ("ViT", "Similar names that can: vit, "),
        ("lava", "Similar names that can: llava, flava. `sima-hf models` lists them"),
    ):
        found = run("models", name)
        assert found.code == 1, name
        assert words in found.out
        assert found.err == ""


def on_a_terminal(*arguments, columns=70):
    """What a command prints on a terminal so wide."""
    command = [sys.executable, "-m", "sima_hf.cli", *arguments]
    main, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(columns), "TERM": "xterm"}
    process = subprocess.Popen(command, stdout=terminal, stderr=subprocess.DEVNULL, env=environment)
    os.close(terminal)
    said = b""
    while True:
        try:
            part = os.read(main, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        said += part
    os.close(main)
    assert process.wait(timeout=60) == 0
    return re.sub(r"\x1b\[[0-9;]*m", "", said.decode())


def test_a_table_on_a_terminal_and_plain_text_in_a_pipe(run):
    shown = on_a_terminal("models", "deit", "swinv2")
    assert "model type" in shown
    assert "─" in shown
    assert max(map(len, shown.splitlines())) <= 70
    piped = run("models", "deit", "swinv2").out
    assert "model type" not in piped
    assert piped.isascii()
    assert max(map(len, piped.splitlines())) > 70


def test_help_on_a_terminal_has_the_same_examples(run):
    shown, piped = on_a_terminal("patch", "--help", columns=100), run("patch", "--help").out
    assert "╭" in shown
    assert "╭" not in piped
    examples = piped.split("Examples:")[1].split()
    assert shown.split("Examples:")[1].split() == examples


def test_env(run, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    found = run("env")
    assert found.code == 0
    for words in (
        f"sima_hf: {__version__}\n",
        f"torch: {torch.__version__}\n",
        f"transformers: {transformers.__version__}\n",
        f"threads: {torch.get_num_threads()}\n",
        "\nbackends:\n",
        "  eager: folded norms",
        "  endpoint: http",
        "  offline: yes",
        "  logged_in: yes",
        "\ncompiler: ",
    ):
        assert words in found.out
    assert "hf_secret" not in found.out


def test_env_for_machines(run, monkeypatch):
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(env, "PACKAGES", ("torch", "no-such-package"))
    facts = json.loads(run("env", "--json").out)
    assert facts["sima_hf"] == __version__
    assert facts["no-such-package"] == "not installed"
    assert set(facts["backends"]) == {"cpu", "triton", "eager", "reference"}
    assert str(os.cpu_count()) in facts["processor"]


def test_one_is_no_plural(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    assert env._processor().endswith(", 1 core")
    for number, words in ((1, ", 1 thread"), (2, ", 2 threads")):
        monkeypatch.setattr(torch, "get_num_threads", lambda number=number: number)
        assert device_name("cpu").endswith(words)


def test_env_keeps_a_password_in_the_endpoint_to_itself(monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "https://me:secret@hub.example:8443/hf")
    assert env.hub_facts()["endpoint"] == "https://hub.example:8443/hf"


def test_env_where_there_is_no_compiler(run, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    assert "\ncompiler: none found\n" in run("env").out


def test_convert_for_machines(tmp_path, run, monkeypatch):
    from sima_hf import SimAConfig
    from sima_hf.models.sima import convert_sima

    calls = []

    def convert(checkpoint, output_dir, **options):
        print("a library that talks")
        calls.append((str(checkpoint), str(output_dir), options))
        return SimAConfig(num_hidden_layers=3, num_labels=7)

    monkeypatch.setattr(convert_sima, "convert_original_checkpoint", convert)
    arguments = ("a.pth", tmp_path / "out", "--variant", "sima_nano_12_p16", "--weights", "model_ema")
    found = run("convert", *arguments, "--json")
    assert found.code == 0
    facts = json.loads(found.out)
    assert (facts["folder"], facts["num_hidden_layers"], facts["num_labels"]) == (str(tmp_path / "out"), 3, 7)
    assert "a library that talks" in found.err
    assert calls == [("a.pth", str(tmp_path / "out"), {"variant": "sima_nano_12_p16", "weights": "model_ema"})]


def test_certify(saved, run):
    found = run("certify", saved / "sima")
    assert (found.code, found.out) == (0, "SimADeiTForImageClassification: no softmax ran\n")
    found = run("certify", saved / "native", "--height", "32", "--width", "16")
    assert (found.code, found.out) == (0, "SimAForImageClassification: no softmax ran\n")
    found = run("certify", saved / "softmax")
    assert found.code == 1
    assert "deit.layers.0.attention" in found.out
    found = run("certify", saved / "softmax", "--json")
    assert found.code == 1
    facts = json.loads(found.out)
    assert facts["softmax_free"] is False
    assert facts["count"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bert",), "takes no `pixel_values`"),
        (("sima", "--width", "16"), "--width came without --height"),
        (("sima", "--height", "3"), "did not run on a made-up image"),
        (("nowhere",), "nowhere"),
        (("sima/config.json",), "is a file; give the folder"),
    ],
    ids=["text", "width-alone", "too-small", "no-folder", "file"],
)
def test_certify_says_what_is_wrong(saved, arguments, words, run):
    name, *options = arguments
    found = run("certify", saved / name, *options)
    assert (found.code, found.out) == (1, "")
    assert words in found.err


def test_evaluate(saved, tmp_path, run):
    # The script's tests hold the core against counting by hand; here, that the command asks it for what it was asked.
    arguments = (saved / "sima", "--image-size", "20", "--eval-crop-pct", "1.0", "--batch-size", 50)
    found = run("evaluate", *arguments, "--json", "--backend", "eager", "--output-dir", tmp_path)
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    options = EvaluationOptions(str(saved / "sima"), image_size=20, eval_crop_pct=1.0, batch_size=360)
    expected = run_evaluation(options).report
    assert facts["accuracy"] == expected["accuracy"]
    assert facts["per_class"] == expected["per_class"]
    assert facts["settings"]["backend"] == "eager"
    assert facts["settings"]["image_size"] == 20
    assert [Path(file).name for file in facts["files"]] == ["evaluation.json", "confusion.png"]
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert {**written, "files": facts["files"]} == facts
    shown = run("evaluate", *arguments).out
    assert f"top-1 accuracy  {facts['accuracy']:.2%}" in shown
    assert "%|" not in shown, "progress is on stderr"


def test_evaluate_says_what_is_wrong(saved, tmp_path, run):
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (9, 9)).save(photos / "a.png")
    for arguments, words in (
        (("./nowhere",), "There is no folder ./nowhere"),
        ((saved / "bert",), "has no image classifier"),
        ((saved / "sima", "--validation-dir", tmp_path / "none"), "no folder"),
        ((saved / "sima", "--validation-dir", tmp_path, "--dataset", "digits"), "one source of images"),
        ((saved / "sima", "--validation-dir", photos), "holds images, but has no sub-folders of classes"),
        (("nowhere",), "There is no folder nowhere, and no model of that name in"),
        ((saved / "softmax", "--backend", "eager"), "--backend chooses who computes SimA attention"),
    ):
        found = run("evaluate", *arguments)
        assert (found.code, found.out) == (1, ""), arguments
        assert words in found.err, (arguments, found.err)


@pytest.mark.slow
def test_bench_for_machines(tmp_path, run, monkeypatch):
    monkeypatch.setattr(benchmark_model, "peak_memory", lambda name, contestant, pixels, against: pixels * 2**20)
    found = run("bench", "memory", "--pixels", "512", "--json", "--output-dir", tmp_path / "made")
    facts = json.loads(found.out)
    assert [row["peak_resident_bytes"] for row in facts["rows"]] == [512 * 2**20] * 2
    assert facts["files"] == [str(tmp_path / "made" / "memory_deit-small_cpu_float32.csv")]
    few = ("--tokens", 8, "--seconds", 0, "--no-compile", "--json", "--output-dir", tmp_path / "new")
    found = run("bench", "attention", *few)
    assert found.code == 0, found.err
    facts = json.loads(found.out)
    assert {row["tokens"] for row in facts["rows"]} == {8}
    assert {"softmax", "sima"} <= {row["contestant"] for row in facts["rows"]}
    assert all(Path(file).is_file() for file in facts["files"])
    assert run("bench", "model", "nowhere-at-all", "--pixels", 32).code == 1


def test_bench_asks_for_what_draws_before_it_measures(tmp_path, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("sima_hf.bench.attention.measure", lambda *_: pytest.fail("it measured"))
    monkeypatch.setattr(benchmark_model, "measure_model", lambda *_: pytest.fail("it measured"))
    for kind in ("attention", "model"):
        found = run("bench", kind, "--output-dir", tmp_path)
        assert (found.code, found.out) == (1, "")
        assert found.err.endswith("pip install 'sima-hf[plot]'\n")


def test_evaluate_without_what_reads_data(saved, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    found = run("evaluate", saved / "sima")
    assert (found.code, found.out) == (1, "")
    assert found.err.endswith("needs datasets: pip install 'sima-hf[train]'\n")


@pytest.mark.parametrize("kind", ["evaluate", "attention", "model", "memory"])
def test_a_folder_for_results_is_tried_before_anything_is_measured_and_made_after(
    kind, saved, tmp_path, run, monkeypatch
):
    seen = []

    def measure(*_):
        seen.append([one.name for one in tmp_path.iterdir()])
        raise DataError("enough")

    def refuse(prefix, dir):
        raise OSError(1, "Operation not permitted", str(dir))

    for place in (
        "sima_hf.evaluation.run.run_evaluation",
        "sima_hf.bench.attention.measure",
        "sima_hf.bench.model.measure_model",
        "sima_hf.bench.model.measure_memory",
    ):
        monkeypatch.setattr(place, measure)
    (tmp_path / "file").write_text("")
    arguments = ("evaluate", saved / "sima") if kind == "evaluate" else ("bench", kind)
    for place, words in ((tmp_path / "file", "file is a file; name a folder"), (tmp_path / "file" / "in", "file/in")):
        found = run(*arguments, "--output-dir", place)
        assert (found.code, found.out) == (1, "")
        assert words in found.err
    with monkeypatch.context() as sealed:
        sealed.setattr("tempfile.mkdtemp", refuse)
        found = run(*arguments, "--output-dir", tmp_path / "new" / "folder")
    assert f"Nothing can be written into {tmp_path} (Operation not permitted); name another" in found.err
    assert seen == []
    assert "enough" in run(*arguments, "--output-dir", tmp_path / "new" / "folder").err
    assert seen == [["file"]], "nothing is left where nothing came out"
    assert not (tmp_path / "new").exists()


DEVICES = [
    ("foo", "is not the name of a device"),
    ("meta", "computes nothing"),
    ("cuda:99", "needs a torch that was built for CUDA|names a device that is not there|cannot be used here"),
    *([] if torch.cuda.is_available() else [("cuda", "--device cuda (needs|cannot be used here)")]),
    *([] if torch.backends.mps.is_available() else [("mps", r"--device mps cannot be used here \(")]),
]


@pytest.mark.parametrize(("device", "words"), DEVICES, ids=[name for name, _ in DEVICES])
def test_a_device_that_is_not_there_is_said_before_the_work(device, words, saved, photos, tmp_path, run):
    for arguments in (
        ("evaluate", tmp_path / "none"),
        ("patch", tmp_path / "none", tmp_path / "out", "--calibrate-with", photos),
        ("calibrate", tmp_path / "none", "--teacher", "a", "--with", photos, "--output", tmp_path / "out"),
        ("bench", "attention", "--output-dir", tmp_path / "out"),
        ("bench", "model", tmp_path / "none", "--output-dir", tmp_path / "out"),
    ):
        found = run(*arguments, "--device", device)
        assert (found.code, found.out) == (1, ""), arguments
        assert re.search(words, found.err), found.err
        assert "Here there is cpu" in found.err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_bench_memory_says_what_is_wrong(tmp_path, run):
    for arguments, words in (
        (("nowhere-at-all",), "no folder nowhere-at-all, and no model of that name"),
        (("deit-tiny", "--pixels", 0), "must have 1 pixel a side or more, got 0"),
    ):
        found = run("bench", "memory", *arguments)
        assert (found.code, found.out) == (1, ""), arguments
        assert words in found.err, found.err
        assert "Traceback" not in found.err

"""`sima-hf env`: versions, the machine, the Hub, and nothing secret."""

import json
import os

import torch
import transformers

from sima_hf import __version__
from sima_hf.cli import env
from sima_hf.machine.description import device_name


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

"""`sima-hf push`: what it hands to the package, and what it prints; the push itself has tests of its own, over HTTP."""

import dataclasses
import json
from types import SimpleNamespace

import pytest

from sima_hf.hub import plan_push, pushing


@pytest.fixture
def sent(monkeypatch):
    """The arguments that a push got; nothing is sent."""
    calls, real = [], pushing.push

    def push(folder, repo_id, dry_run=False, **settings):
        if dry_run:
            return real(folder, repo_id, dry_run=True, **settings)
        calls.append((folder, repo_id, settings))
        plan = plan_push(folder, repo_id, **settings)
        return SimpleNamespace(
            repo_id=repo_id, commit="0123abc", url=f"https://hub/{repo_id}", plan=plan, changed=len(calls) == 1
        )

    monkeypatch.setattr(pushing, "push", push)
    monkeypatch.delattr("sima_hf.hub.push", raising=False)  # bound there at its first use
    yield calls
    import sima_hf.hub

    vars(sima_hf.hub).pop("push", None)


def test_a_dry_run_lists_files_and_card_and_touches_nothing(saved, sent, run):
    before = {path: path.read_bytes() for path in (saved / "sima").iterdir()}
    found = run("push", saved / "sima", "org/sima-tiny", "--dry-run", "--license", "apache-2.0")
    assert found.code == 0, found.err
    for words in ("org/sima-tiny", "model.safetensors", "config.json", "README.md", "license: apache-2.0"):
        assert words in found.out
    assert {path: path.read_bytes() for path in (saved / "sima").iterdir()} == before
    assert sent == []
    plan = json.loads(run("push", saved / "sima", "org/sima-tiny", "--dry-run", "--private", "--json").out)
    assert plan["private"] is True
    sizes = {file["name"]: file["bytes"] for file in plan["files"]}
    assert sizes["model.safetensors"] == (saved / "sima" / "model.safetensors").stat().st_size


def test_a_push_gets_what_was_said(saved, sent, tmp_path, run):
    settings = ("--revision", "calibrated", "--commit-message", "Anew", "--token", "hf_x", "--public")
    facts = ("--base-model", "facebook/deit-small-patch16-224", "--dataset", "imagenet-1k")
    found = run("push", saved / "sima", "org/tiny", *settings, *facts)
    assert found.code == 0, found.err
    ((folder, repo_id, given),) = sent
    assert (str(folder), repo_id) == (str(saved / "sima"), "org/tiny")
    assert (given["revision"], given["commit_message"], given["token"], given["private"]) == (
        "calibrated",
        "Anew",
        "hf_x",
        False,
    )
    assert (given["facts"].base_model, given["facts"].dataset) == ("facebook/deit-small-patch16-224", "imagenet-1k")
    assert "commit 0123abc\nhttps://hub/org/tiny\n" in found.out
    assert "hf_x" not in found.out + found.err
    facts = json.loads(run("push", saved / "sima", "org/tiny", "--json").out)
    assert (facts["commit"], facts["changed"]) == ("0123abc", False)
    assert sent[1][2]["private"] is None
    assert facts["plan"]["repo_id"] == "org/tiny"


def test_what_a_push_took_out_is_said(saved, sent, monkeypatch, run):
    push = pushing.push

    def push_over_another(folder, repo_id, **settings):
        done = push(folder, repo_id, **settings)
        if settings["dry_run"]:
            return done
        done.plan = dataclasses.replace(done.plan, removed={"pytorch_model.bin": "weights of an earlier model"})
        return done

    monkeypatch.setattr(pushing, "push", push_over_another)
    found = run("push", saved / "sima", "org/tiny", "--base-model", "org/deit")
    assert found.out.endswith("https://hub/org/tiny\nRemoved pytorch_model.bin: weights of an earlier model\n")
    facts = json.loads(run("push", saved / "sima", "org/tiny", "--json").out)
    assert facts["plan"]["removed"] == {"pytorch_model.bin": "weights of an earlier model"}
    dry = json.loads(run("push", saved / "sima", "org/tiny", "--dry-run", "--json").out)
    assert dry["removed"] is None
    assert dry["unseen"] == "HF_HUB_OFFLINE is set"
    dry = run("push", saved / "sima", "org/tiny", "--dry-run").out
    assert "What org/tiny has already was not looked at (HF_HUB_OFFLINE is set); weights" in dry


def test_what_one_should_know_is_said_in_the_plan_and_after_the_push(saved, sent, run):
    words = "Note: The card does not say which model this one was made from"
    assert words in run("push", saved / "sima", "org/tiny", "--dry-run").out
    found = run("push", saved / "sima", "org/tiny")
    assert f"https://hub/org/tiny\n{words}" in found.out
    for more, read in ((("--dry-run",), lambda facts: facts), ((), lambda facts: facts["plan"])):
        (note,) = read(json.loads(run("push", saved / "sima", "org/tiny", "--json", *more).out))["notes"]
        assert f"Note: {note}" in found.out


@pytest.mark.parametrize("token", ["hf_SECRETSECRET\rx", "hf_SÉCRET", " "])
def test_no_token_is_printed(saved, token, run):
    """The real push, which ends before it asks anybody."""
    for more in ((), ("--dry-run",)):
        found = run("push", saved / "sima", "org/tiny", "--token", token, *more)
        assert (found.code, found.out) == (1, "")
        assert "`token` must be" in found.err
        assert "CRET" not in found.err


def test_what_cannot_be_pushed(saved, sent, tmp_path, run):
    for arguments, words in (
        ((tmp_path / "none", "org/x"), "does not exist"),
        ((saved / "softmax", "org/x"), "without any SimA attention"),
        ((saved / "bert", "org/x"), "without any SimA attention"),
        ((saved / "sima", "org/x/y"), "org/x/y"),
        ((saved / "sima", "org/x", "--revision", "refs/heads/main", "--dry-run"), "`revision` must be"),
        ((saved / "sima", "org/x", "--results", tmp_path / "none.json"), "none.json"),
        ((saved / "sima", "org/x", "--benchmark", tmp_path / "none.csv"), "There is no file"),
    ):
        found = run("push", *arguments)
        assert (found.code, found.out) == (1, ""), arguments
        assert words in found.err, (arguments, found.err)
        assert "Traceback" not in found.err

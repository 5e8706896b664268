"""Errors of the Hub as sentences, and tokens: mended where copying left something around one, and never shown."""

import pytest

from sima_hf.errors import PublishError
from sima_hf.hub import plan_push, push
from sima_hf.hub.hub_errors import checked_token, hub_errors, without_tokens
from tests.helpers.hub.client import ClientError
from tests.helpers.hub.pushes import pushed, refused


@pytest.mark.parametrize("token", ["hf_abc", " hf_abc\n", "hf_abc\r\n", "\thf_abc "])
def test_what_copying_leaves_around_a_token(token):
    assert checked_token(token) == "hf_abc"


@pytest.mark.parametrize("token", ["", "\r\n", "hf_SECRET\rhf_SECRET", "hf_SÉCRET", "hf_SEC RET", "hf_SEC\x00RET"])
def test_what_no_token_is_like(token, tmp_path):
    """Before the folder is looked at, which is not there."""
    for ask in (push, plan_push):
        with pytest.raises(PublishError, match=r"`token` must be .*hf auth login") as error:
            ask(tmp_path / "none", "org/x", token=token)
        assert not any(part in str(error.value) for part in ("SEC", "RET", "hf_S"))


def test_the_environments_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert checked_token(None) is None
    assert checked_token(True) is True
    monkeypatch.setenv("HF_TOKEN", "hf_SÉCRET")
    with pytest.raises(PublishError, match="HF_TOKEN") as error:
        push(tmp_path / "none", "org/x")
    assert "CRET" not in str(error.value)
    assert checked_token(False) is False


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Illegal header value b'Bearer hf_SECRETSECRET\\r'", "Illegal header value b'Bearer ***'"),
        ("Bearer api_org_SECRET", "Bearer ***"),
        ("https://me:hf_SECRET@huggingface.co, again", "https://me:***, again"),
        ("no repository org/hf_model in /home/me/hf_models", "no repository org/hf_model in /home/me/hf_models"),
        ("a word of mine: SECRET.", "a word of mine: ***."),
    ],
)
def test_other_peoples_words(text, shown):
    assert without_tokens(text, "SECRET" if "mine" in text else None) == shown


@pytest.mark.parametrize("error", [ValueError, RuntimeError, OSError])
def test_errors_quote_none(error):
    with pytest.raises(PublishError) as caught, hub_errors("org/hf_model", "hf_SECRET"):
        raise error("Illegal header value b'Bearer hf_SECRET\\r' of hf_SECRET and hf_OTHER")
    assert "SECRET" not in str(caught.value)
    assert "OTHER" not in str(caught.value)
    assert "org/hf_model" in str(caught.value)


def test_a_mistake_of_ours_is_no_refusal_of_the_hubs():
    with pytest.raises(KeyError), hub_errors("org/x"):
        {}["ours"]


@pytest.mark.usefixtures("clean_hub")
def test_tokens_on_the_hub(hub, client, folder):
    assert pushed(client, folder, "org/stripped", token=f" {hub.token}\r\n")["changed"]
    text = refused(client, folder, "org/secret-token", "does not know this token", token="hf_SECRETSECRET")
    assert "SECRET" not in text
    with pytest.raises(ClientError) as error:
        client.apart(f"push({str(folder)!r}, 'org/secret-token')", HF_TOKEN="hf_SÉCRET")
    assert "CRET" not in error.value.text


@pytest.mark.usefixtures("clean_hub")
@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("hf_wrong", ("does not know this token", "hf auth login")),
        ("hf_read", ("may not write to org/tokens", "write access")),
        ("hf_other", ("may not write to org/tokens", "don't have the rights")),
        (False, ("does not know this token, or none was given",)),
    ],
)
def test_refused_tokens(hub, client, folder, token, words):
    refused(client, folder, "org/tokens", *words, token=token)
    assert hub.commits("org/tokens") == []


@pytest.mark.usefixtures("clean_hub")
def test_too_many_requests(hub, client, folder):
    hub.limit_rate(100, seconds=7)
    refused(client, folder, "org/busy", "fewer requests", "wait 7 seconds", "same command again")


@pytest.mark.usefixtures("clean_hub")
def test_front_matter_that_the_hub_does_not_take(hub, client, folder):
    (folder / "README.md").write_text("---\nlicense: mine\n---\n# Mine\n")
    refused(client, folder, "org/license", "Invalid metadata in README.md", "license")
    assert [one["title"] for one in hub.commits("org/license")] == ["initial commit"]


def test_nobody_there(client, folder):
    with pytest.raises(ClientError) as error:
        client.apart(
            "from huggingface_hub import constants\n"
            "constants.ENDPOINT = 'http://127.0.0.1:9'\n"  # the port of a service that nobody runs
            f"push({str(folder)!r}, 'org/gone')"
        )
    assert "PublishError" in error.value.kinds
    assert "was lost or not made" in error.value.text


def test_offline(folder):
    """As all of pytest's own process is."""
    with pytest.raises(PublishError, match="HF_HUB_OFFLINE is set"):
        push(folder, "org/offline")

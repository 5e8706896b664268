"""The Hub's token: mended where copying left something around it, refused where no token is like that, and never shown."""

import pytest

from sima_hf.errors import PublishError
from sima_hf.hub import plan_push, push
from sima_hf.hub.hub_errors import hub_errors
from sima_hf.hub.tokens import checked_token, without_tokens
from tests.helpers.hub.client import ClientError
from tests.helpers.hub.pushes import pushed, refused


def test_what_copying_leaves_around_it():
    for token in ("hf_abc", " hf_abc\n", "hf_abc\r\n", "\thf_abc "):
        assert checked_token(token) == "hf_abc"
    assert checked_token(False) is False


@pytest.mark.parametrize(
    "token", ["", " ", "\r\n", "hf_SECRET\rhf_SECRET", "hf_SÉCRET", "hf_SEC RET", "hf_SEC\x00RET"]
)
def test_what_no_token_is_like(token, tmp_path):
    """Before the folder is looked at, which is not there."""
    for ask in (push, plan_push):
        with pytest.raises(PublishError, match=r"token that was given .*hf auth login") as error:
            ask(tmp_path / "none", "org/x", token=token)
        assert not any(part in str(error.value) for part in ("SEC", "RET", "hf_S"))


def test_the_environments_token(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_TOKEN", "hf_abc")
    assert checked_token(None) is None
    assert checked_token(True) is True
    monkeypatch.setenv("HF_TOKEN", "hf_SÉCRET")
    with pytest.raises(PublishError, match="from HF_TOKEN or a login, has spaces") as error:
        push(tmp_path / "none", "org/x")
    assert "CRET" not in str(error.value)
    assert checked_token(False) is False
    with pytest.raises(PublishError, match="does not exist"):  # which asks nobody
        push(tmp_path / "none", "org/x", dry_run=True)


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
    client = {"__name__": "huggingface_hub.hf_api"}
    exec("def refuse(error):\n    raise error", client)
    with pytest.raises(PublishError) as caught, hub_errors("org/hf_model", "hf_SECRET"):
        client["refuse"](error("Illegal header value b'Bearer hf_SECRET\\r' of hf_SECRET and hf_OTHER"))
    assert "SECRET" not in str(caught.value)
    assert "OTHER" not in str(caught.value)
    assert "org/hf_model" in str(caught.value)
    if error is not OSError:
        with pytest.raises(error, match=r"^ours$"), hub_errors("org/hf_model"):
            raise error("ours")


@pytest.mark.usefixtures("clean_hub")
def test_on_the_hub(hub, client, folder):
    assert pushed(client, folder, "org/stripped", token=f" {hub.token}\r\n")["changed"]
    text = refused(client, folder, "org/secret-token", "does not know this token", token="hf_SECRETSECRET")
    assert "SECRET" not in text
    with pytest.raises(ClientError) as error:
        client.apart(f"push({str(folder)!r}, 'org/secret-token')", HF_TOKEN="hf_SÉCRET")
    assert "CRET" not in error.value.text
    assert "from HF_TOKEN" in error.value.text

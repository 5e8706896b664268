"""Pushes of a folder to the loopback Hub by a client's process, and what came of them."""

import hashlib
import shutil

import pytest
import torch

import sima_hf
from sima_hf.hub.checks import checked_stage
from sima_hf.hub.plan import make_plan
from tests.helpers.hosts.at_hand import vit
from tests.helpers.hub.client import ClientError


WEIGHTS = "model.safetensors"
BEFORE = """
import time, logging, pathlib
time.sleep = lambda seconds: None  # between the client's attempts
import sima_hf
from sima_hf.hub import check_folder, plan_push, push
"""


def pushed(client, folder, repo_id, **more):
    """Push in the client's process; what it returned, the plan's text included."""
    words = "".join(f", {name}={value!r}" for name, value in more.items())
    code = f"done = push({str(folder)!r}, {repo_id!r}{words})\n"
    return client.run(
        f"{code}{{**vars(done), 'plan': str(done.plan), 'names': [one.name for one in done.plan.files]}}"
    )


def refused(client, folder, repo_id, *words, **more):
    """The push ends in a PublishError of one sentence or more, all of these words in it."""
    with pytest.raises(ClientError) as error:
        pushed(client, folder, repo_id, **more)
    assert "PublishError" in error.value.kinds, error.value
    assert all(word in error.value.text for word in words), error.value.text
    assert error.value.text.endswith("."), error.value.text
    return error.value.text


def large(hub):
    """SHA-256 of the large files that arrived."""
    return [one.path.split("?")[0].split("/")[-1] for one in hub.log if one.method == "PUT" and one.status]


def change_weights(folder, seed=1):
    """Other weights, of the same model."""
    torch.manual_seed(seed)
    sima_hf.patch_model(vit()).save_pretrained(folder)
    from safetensors.torch import load_file, save_file

    state = load_file(folder / WEIGHTS)
    save_file({key: value + seed for key, value in state.items()}, folder / WEIGHTS, metadata={"format": "pt"})
    return hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()


def published(folder, place, repo_id="org/sima-vit", **settings):
    """Copy what a push would publish of a folder to `place`; the plan of it."""
    with checked_stage(folder) as (stage, checked):
        plan = make_plan(stage, checked, repo_id, **settings)
        shutil.copytree(stage.path, place)
    return plan


def put(client, repo_id, files):
    """Files that somebody uploads: name -> content."""
    lines = ["from huggingface_hub import HfApi", "api = HfApi()", f"_ = api.create_repo({repo_id!r}, exist_ok=True)"]
    for name, content in files.items():
        what = f"path_or_fileobj={content!r}, path_in_repo={name!r}, repo_id={repo_id!r}"
        lines.append(f"_ = api.upload_file({what})")
    client.run("\n".join(lines))

"""What a push reads of a repository before it writes: a dry run shows it, or says why it could not be read."""

import pytest

import sima_hf
from tests.helpers.hub.pushes import WEIGHTS, pushed, put, refused


pytestmark = pytest.mark.usefixtures("clean_hub")


@pytest.mark.parametrize("revision", [None, "shards", "new"])
def test_a_dry_run_names_what_the_push_then_removes(hub, client, folder, shards, revision):
    """It reads the repository, at the branch that the push is to, and changes nothing there."""
    repo_id = f"org/preview-{revision}"
    pushed(client, folder, repo_id, revision="shards" if revision == "shards" else None)
    put(client, repo_id, {"model.fp16.safetensors": b"x", "adapter_config.json": b"{}", "notes.txt": b"x"})
    files, commits = hub.files(repo_id), hub.commits(repo_id)
    run = f"push({str(shards)!r}, {repo_id!r}, revision={revision!r}, dry_run=DRY).plan"
    dry = client.run(f"plan = {run.replace('DRY', 'True')}\n[plan.to_dict(), str(plan)]")
    assert (hub.files(repo_id), hub.commits(repo_id)) == (files, commits)
    done = client.run(f"plan = {run.replace('DRY', 'False')}\n[plan.to_dict(), str(plan)]")
    assert dry == done
    removed = set(dry[0]["removed"])
    assert removed == (
        {WEIGHTS} if revision == "shards" else {WEIGHTS, "model.fp16.safetensors", "adapter_config.json"}
    )
    assert all(f"\n  {name} " in dry[1] for name in removed)
    assert dry[0]["unseen"] is None
    assert removed == files.keys() - hub.files(repo_id, revision or "main").keys() or revision == "shards"


def test_a_dry_run_says_why_it_could_not_look(hub, client, folder, tmp_path):
    done = pushed(client, folder, "org/dry-removal", dry_run=True)
    assert "(There is no repository org/dry-removal that this token may see" in done["plan"]
    assert hub.commits("org/dry-removal") == []
    pushed(client, folder, "org/hidden", private=True)
    stranger = pushed(client, folder, "org/hidden", dry_run=True, token="hf_other")
    assert "that this token may see" in stranger["plan"]
    hub.limit_rate(100, seconds=7)
    assert (
        "(The Hub asks for fewer requests; wait 7 seconds"
        in pushed(client, folder, "org/hidden", dry_run=True)["plan"]
    )
    hub.end_faults()
    assert "HF_HUB_OFFLINE is set" in str(sima_hf.hub.push(folder, "org/x", dry_run=True).plan)
    assert "There is no token" in str(sima_hf.hub.push(folder, "mine", dry_run=True).plan)


def test_a_dry_run_is_refused_where_the_push_would_be(hub, client, folder):
    pushed(client, folder, "org/public")
    refused(client, folder, "org/public", "exists and is public", private=True, dry_run=True)
    client.run("from huggingface_hub import HfApi; HfApi().create_tag('org/public', tag='v1')")
    refused(client, folder, "org/public", "which is a tag", revision="v1", dry_run=True)
    refused(client, folder, "org/public", "`revision` must be a pull request", revision="refs/pr/9", dry_run=True)

"""`sima-hf push`: publish a folder."""

from pathlib import Path
from typing import Annotated

import typer

from .output import AsJSON, emit, stdout_kept_clean


EXAMPLES = """Examples:
sima-hf push sima-deit org/sima-deit --dry-run
sima-hf push sima-deit org/sima-deit --license apache-2.0 \\
  --base-model facebook/deit-small-patch16-224 --results evaluated
sima-hf push sima-deit org/sima-deit --private --revision calibrated \\
  --commit-message 'Calibrated anew'"""


def push(
    folder: Annotated[Path, typer.Argument(help="A SimA model's folder, as save_pretrained writes it.")],
    repo_id: Annotated[str, typer.Argument(help="Repository on the Hub: org/name.")],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List files, sizes, the card, and what would be removed from the repository; send nothing.",
        ),
    ] = False,
    private: Annotated[
        bool | None, typer.Option("--private/--public", help="Visibility of a new repository.", show_default=False)
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, made if needed, or refs/pr/N; main by default.")
    ] = None,
    commit_message: Annotated[str | None, typer.Option(help="Message of the one commit.")] = None,
    token: Annotated[
        str | None,
        typer.Option(help="Hub token; visible in the shell history, so prefer HF_TOKEN or `hf auth login`."),
    ] = None,
    license_name: Annotated[
        str | None, typer.Option("--license", help="License identifier, such as apache-2.0.")
    ] = None,
    base_model: Annotated[str | None, typer.Option(help="Model on the Hub that it was made from: org/name.")] = None,
    dataset: Annotated[
        str | None, typer.Option(help="What it was trained on: org/name on the Hub, or plain words.")
    ] = None,
    results: Annotated[
        list[Path] | None,
        typer.Option(help="evaluation.json or all_results.json, or its folder; may be given several times."),
    ] = None,
    benchmark: Annotated[
        list[Path] | None, typer.Option(help="CSV of sima-hf bench model; may be given several times.")
    ] = None,
    as_json: AsJSON = False,
) -> None:
    """Publish a model on the Hub, in one commit: safetensors, config, image processor, model card, and the code a reader needs.

    It is checked first: complete, weights that fit, no pickles, and no softmax where SimA should be. What the repository has of an
    earlier model (weights, adapters, processors, sima_hf's code) is removed in the same commit; its other files stay.
    """
    with stdout_kept_clean():
        from ..hub import find_facts
        from ..hub import push as push_folder

        facts = find_facts(
            folder,
            license=license_name,
            base_model=base_model,
            dataset=dataset,
            results=tuple(results or ()),
            benchmark=tuple(benchmark or ()),
        )
        settings = {
            "private": private,
            "revision": revision,
            "commit_message": commit_message,
            "token": token,
            "facts": facts,
        }
        done = push_folder(folder, repo_id, dry_run=dry_run, **settings)
    if dry_run:
        emit(done.plan.to_dict(), done.plan, as_json)
        return
    report = {
        "repo_id": done.repo_id,
        "commit": done.commit,
        "url": done.url,
        "changed": done.changed,
        "plan": done.plan.to_dict(),
    }
    what = f"{len(done.plan.files)} files" if done.changed else "nothing new, all of it was there already"
    removed = [f"Removed {name}: {reason}" for name, reason in (done.plan.removed or {}).items()]
    notes = [f"Note: {note}" for note in done.plan.notes]
    emit(report, "\n".join([f"{done.repo_id}: {what}, commit {done.commit}", done.url, *removed, *notes]), as_json)

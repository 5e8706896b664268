"""What a finished run leaves for whoever reads its folder: where the model comes from, a card, the code to load it; and the push."""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel
from transformers.utils import logging

from ..errors import PublishError
from ..folders.local_paths import shown_place
from ..folders.weights_hash import WEIGHTS_HASH, hash_of


logger = logging.get_logger(__name__)
# What an evaluation left that was made before these weights were.
_OF_OTHER_WEIGHTS = ("evaluation.json", "confusion.png")
_RESULTS = "all_results.json"


def finish_folder(args: Any, model: PreTrainedModel, setup: Any, global_batch_size: int) -> bool:
    """Write `sima_provenance.json`, and for a SimA model what `prepare_for_hub` adds; push the folder where `args` ask for it.

    Called by one process, when model, image processor and results are in the folder. A model that is trained with softmax, as a
    baseline or a teacher, gets its provenance alone. An evaluation of the weights that were there before is removed, and the
    results get the hash of the weights they are of.

    Args:
        args: `SimATrainingArguments` or `LoopArguments`.
        model: what was trained.
        setup: the `TrainingSetup` of the run: how the model was made, and on what it was trained.
        global_batch_size: images behind one step of the optimizer, on all devices.

    Returns:
        True if card, code and push were handled; False for a softmax model, whose card the caller writes.

    Raises:
        PublishError: the push was asked for and did not work. Without one, what stands in the way of publishing is a warning: the
            run itself is whole.
    """
    from ..folders.provenance import calibration_facts, training_settings, write_provenance

    folder, loaded, source = Path(args.output_dir), setup.loaded, shown_place(setup.data.source, here=True)
    for name in _OF_OTHER_WEIGHTS:
        (folder / name).unlink(missing_ok=True)
    _name_weights(folder)
    write_provenance(
        folder,
        base_model=loaded.base_model,
        calibration=calibration_facts(loaded.calibration, source) if loaded.calibration else None,
        training=training_settings(args, images_per_step=global_batch_size),
        dataset=source,
        hub_dataset=setup.hub_dataset,
        anew=True,
    )
    if not type(model).__module__.startswith(f"{__package__.partition('.')[0]}."):
        return False
    from ..hub import prepare_for_hub, push

    repo_id = getattr(args, "hub_model_id", None)
    try:
        prepare_for_hub(folder, repo_id=repo_id)
    except PublishError as error:
        if args.push_to_hub:
            raise
        logger.warning(f"{folder} has no card for the Hub yet: {error}")
        return True
    if args.push_to_hub:
        private, revision = getattr(args, "hub_private_repo", None), getattr(args, "hub_revision", None)
        done = push(
            folder,
            repo_id or folder.resolve().name,
            private=private,
            revision=revision,
            token=getattr(args, "hub_token", None),
        )
        print(
            "\n".join([f"{done.url}: published, commit {done.commit}.", *(f"Note: {one}" for one in done.plan.notes)])
        )
    return True


def _name_weights(folder: Path) -> None:
    """Let the results say which weights they are of."""
    from ..folders.atomic_files import write_whole

    path, found = folder / _RESULTS, hash_of(folder)
    if found and path.is_file():
        results = json.loads(path.read_text(encoding="utf-8")) | {WEIGHTS_HASH: found}
        write_whole(path, (json.dumps(results, indent=4) + "\n").encode())

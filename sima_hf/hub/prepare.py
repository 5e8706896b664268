"""Make a folder, or a model in memory, ready for the Hub: checked, with a card and the code that a reader needs."""

from pathlib import Path

from transformers import PreTrainedModel
from transformers.utils import logging

from ..errors import PublishError, UnsupportedModelError
from ..folders import manifest as checkpoints
from ..folders.atomic_files import write_whole
from ..folders.file_names import CONFIG
from ..models.sima.configuration_sima import SimAConfig
from ..patching import describe
from ..patching.certificate import Certificate
from ..patching.configs import SimAHostConfig, SimAParentConfig
from ..patching.eligibility import check_not_remote_code
from ..patching.remote_code.model_files import auto_map
from .cards.facts import CardFacts
from .cards.readme import without_pushed
from .checks import check_mechanisms, checked_stage
from .names import allowed_name, check_repo_id
from .plan import make_plan
from .stage import README


logger = logging.get_logger(__name__)


def prepare_for_hub(
    folder_or_model: str | Path | PreTrainedModel,
    *,
    repo_id: str | None = None,
    facts: CardFacts | None = None,
    certificate: Certificate | None = None,
) -> Path | PreTrainedModel:
    """Make a SimA model ready to be published, so that it loads with and without sima_hf.

    A folder is checked as `check_folder` does, then gets the code beside its weights, a README (one that is there is merged)
    and `auto_map` in its config.json, and its settings and results lose their places on this disk, as in a push; whatever is
    uploaded from it afterwards, by whichever tool, works. What a push would leave behind is named in a warning. A model in memory gets
    `config.auto_map` alone: from then on its `save_pretrained`, `push_to_hub` and a Trainer's saves bring the code along.

    Args:
        folder_or_model: a folder as `save_pretrained` writes it, or a SimA model.
        repo_id: "organization/name" that the card's examples load; by default the folder's name, as far as the Hub allows it.
        facts: what the card is written from; by default what the folder's own files say, see `find_facts`.
        certificate: see `check_folder`.

    Returns:
        What came: the folder as a path, or the same model.

    Raises:
        PublishError: it cannot be published, or `repo_id` is no name on the Hub, with the reason; or it is a training checkpoint,
            which must stay as it was sealed. Nothing is changed then.
        OSError: a file cannot be written; each file in the folder is whole, be it the old one or the new one.
    """
    if isinstance(folder_or_model, PreTrainedModel):
        return _prepare_model(folder_or_model)
    folder = Path(folder_or_model)
    repo_id = allowed_name(folder.resolve().name) if repo_id is None else check_repo_id(repo_id)
    _check_unsealed(folder)
    with checked_stage(folder, certificate) as (stage, checked):
        plan = make_plan(stage, checked, repo_id, facts=facts)
        changed = {
            name: (stage.path / name).read_bytes()
            for name, source in stage.sources.items()
            if name in stage.notes and (source is None or source.parent == stage.folder)
        }
    changed[README] = without_pushed(plan.card).encode()
    for name in sorted(changed, key=lambda name: name == CONFIG):  # what names the code comes after it
        write_whole(folder / name, changed[name])
    if plan.left:
        logger.warning(
            f"Not for readers of the model, and not published by `sima-hf push`: {', '.join(sorted(plan.left))}. Leave them out where you "
            f"upload {folder} by other means."
        )
    return folder


def _check_unsealed(folder: Path) -> None:
    """Its manifest would no longer fit a checkpoint whose config.json is another, and a run could not go on from it."""
    if (folder / checkpoints.MANIFEST).exists():
        raise PublishError(
            f"{folder} is a training checkpoint, sealed by its {checkpoints.MANIFEST}, and is not changed. Push it as it is, with "
            f"`sima-hf push {folder} organization/name`, which changes nothing in it; or copy the model into another folder, with "
            "`from_pretrained(...).save_pretrained(new)`, and prepare that."
        )


def _prepare_model(model: PreTrainedModel) -> PreTrainedModel:
    config = model.config
    try:
        check_not_remote_code(model)
    except UnsupportedModelError as error:
        raise PublishError(str(error)) from error
    check_mechanisms(describe(model))
    found = auto_map(config)
    if not isinstance(config, (SimAConfig, SimAHostConfig, SimAParentConfig)):
        raise PublishError(
            f"{type(model).__name__} keeps Transformers' own class around its SimA tower, so its `save_pretrained` brings no code "
            "along. Save it into a folder, and prepare that: sima_hf.prepare_for_hub(folder)."
        )
    if not config.architectures:
        config.architectures = [type(model).__name__]
        found = auto_map(config)
    config.auto_map = found
    return model

"""Make a folder, or a model in memory, ready for the Hub: checked, with a card and the code that a reader needs."""

from pathlib import Path

from transformers import PreTrainedModel

from ..errors import PublishError
from ..models.sima.configuration_sima import SimAConfig
from ..patching.certificate import Certificate
from ..patching.configs import SimAHostConfig, SimAParentConfig
from ..training import checkpoints
from .cards.card import model_card
from .cards.facts import CardFacts, find_facts
from .folder import CONFIG, check_folder
from .published_code import auto_map
from .published_files import README
from .push_plan import Publication, read_text
from .weights_check import read_json


def prepare_for_hub(
    folder_or_model: str | Path | PreTrainedModel,
    *,
    repo_id: str | None = None,
    facts: CardFacts | None = None,
    certificate: Certificate | None = None,
) -> Path | PreTrainedModel:
    """Make a SimA model ready to be published, so that it loads with and without sima_hf.

    A folder is checked as `check_folder` does, then gets the code beside its weights, a README (one that is there is merged)
    and `auto_map` in its config.json; whatever is uploaded from it afterwards, by whichever tool, works. A model in memory gets
    `config.auto_map` alone: from then on its `save_pretrained`, `push_to_hub` and a Trainer's saves bring the code along.

    Args:
        folder_or_model: a folder as `save_pretrained` writes it, or a SimA model.
        repo_id: "organization/name" that the card's examples load; by default the folder's name.
        facts: what the card is written from; by default what the folder's own files say, see `find_facts`.
        certificate: see `check_folder`.

    Returns:
        What came: the folder as a path, or the same model.

    Raises:
        PublishError: it cannot be published, with the reason; nothing is changed then.
    """
    if isinstance(folder_or_model, PreTrainedModel):
        return _prepare_model(folder_or_model)
    folder = Path(folder_or_model)
    checked, repo_id = check_folder(folder, certificate), repo_id or folder.resolve().name
    facts = find_facts(folder) if facts is None else facts
    plan = Publication(checked, facts=facts).plan(repo_id)
    made = {file.name: file.content for file in plan.files if file.source is None}
    readme = read_text(folder / README) if (folder / README).is_file() else None
    made[README] = model_card(checked, repo_id, facts, readme).encode()  # without the push's notes for itself
    for name in sorted(made, key=lambda name: name == CONFIG):  # what names the code comes after it
        aside = folder / f".{name}.incomplete"
        aside.write_bytes(made[name])
        aside.replace(folder / name)
    if (folder / checkpoints.MANIFEST).exists():  # a training checkpoint, which has other files now
        checkpoints.seal(folder, read_json(folder / checkpoints.MANIFEST)["step"])
    return folder


def _prepare_model(model: PreTrainedModel) -> PreTrainedModel:
    config = model.config
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
